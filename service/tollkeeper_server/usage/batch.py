"""Batches: what was counted, in the shape in which the database takes it."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from tollkeeper_server.core.key import Key
from tollkeeper_server.usage.recorder import KeyMinute, Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some of what one server counted. All times are minutes."""

    number: int
    """Counts up from 1; a batch is added once, however often it is sent."""
    counters: dict[tuple[str, datetime, str], int]
    """Amounts by subject, time, and decision code or unit."""
    uses: dict[bytes, datetime]
    """Last use by digest of the API key."""
    networks: dict[tuple[str, Network], datetime]
    """Last use by key_id and client network."""
    ended: dict[str, datetime]
    """By key_id, the last use of an API key whose overlap is over."""

    @classmethod
    def of(cls, minutes: Iterable[KeyMinute], *, number: int) -> "Batch":
        """A batch that tells of these minutes."""
        counters: defaultdict[tuple[str, datetime, str], int] = defaultdict(int)
        uses: dict[bytes, datetime] = {}
        networks: dict[tuple[str, Network], datetime] = {}
        ended: dict[str, datetime] = {}
        for minute in sorted(minutes, key=lambda minute: minute.starts_at):
            key_id, at = minute.key.key_id, minute.starts_at
            for subject in _subjects(minute.key):
                for counter, amount in (*minute.decisions.items(), *minute.units.items()):
                    counters[subject, at, str(counter)] += amount
            uses |= dict.fromkeys(minute.digests, at)
            networks |= {(key_id, network): at for network in minute.networks()}
            if minute.ended:
                ended[key_id] = at
        return cls(number=number, counters=counters, uses=uses, networks=networks, ended=ended)


def owner_subject(tenant_id: str, owner_id: str) -> str:
    """What an owner is counted as. Keys are counted as their key_id, which has no "/" in it."""
    return f"{tenant_id}/{owner_id}"


def _subjects(key: Key) -> tuple[str, ...]:
    return (key.key_id, owner_subject(key.tenant_id, key.owner_id)) if key.owner_id else (key.key_id,)
