"""The audit log: its events, and how to tell whether somebody altered it.

The log of a tenant is a chain: each event carries the SHA-256 of the hash before it (nothing for the first) followed by
the event itself as canonical JSON in UTF-8. That is an array of tenant_id, sequence, occurred_at in microseconds since
1970, actor, actor_ip, action, key_id, owner_id, request_id, revision, before and after, written as :func:`canonical`
does. Whoever can write to the database could make the whole chain anew; a head kept elsewhere tells that as well.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INTEGERS_EXACT_UP_TO = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One mutation: who did what, from where, to which key. Times are in UTC."""

    tenant_id: str
    sequence: int
    """Position in the tenant's log, from 1 without gaps."""
    occurred_at: datetime
    actor: str
    """The caller's key_id, or the subject of a signed-in user."""
    actor_ip: str
    """Network address that the call came from."""
    action: str
    """As the RPC is called: ``CreateKey``."""
    key_id: str
    owner_id: str
    request_id: str
    revision: int
    before: Mapping[str, Any] | None = field(hash=False)
    """The record before it, without secrets; None for a creation."""
    after: Mapping[str, Any] | None = field(hash=False)
    hash: bytes
    """SHA-256 over the hash of the event before it, and this event."""

    @property
    def head(self) -> "AuditHead":
        """What to keep elsewhere, so that nobody can cut the log off or make it anew up to here."""
        return AuditHead(self.tenant_id, self.sequence, self.hash.hex())


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """One page of the log, newest event first."""

    events: tuple[AuditEvent, ...]
    next_page_token: str
    """Where the next page starts; empty on the last one."""


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Where a tenant's log stood at some time, and the hash of all of it up to there."""

    tenant_id: str
    sequence: int
    hash: str
    """64 hex digits."""


def event_hash(event: AuditEvent, *, previous: bytes) -> bytes:
    """The hash that ``event`` must carry after an event with the hash ``previous``, empty if it is the first."""
    content = [
        event.tenant_id,
        event.sequence,
        (event.occurred_at - _EPOCH) // _MICROSECOND,
        event.actor,
        event.actor_ip,
        event.action,
        event.key_id,
        event.owner_id,
        event.request_id,
        event.revision,
        event.before,
        event.after,
    ]
    return hashlib.sha256(previous + canonical(content).encode()).digest()


def canonical(value: Any) -> str:
    """A JSON value as Postgres writes it: one text for one value.

    ", " and ": " separate. Members are in order of the length of their names in UTF-8 bytes, then of those bytes. Text
    escapes quotes, backslashes and what is below U+0020, the latter by letter where there is one. Whole numbers up to
    2^53 have no fraction, others the fewest digits that tell them from every other double; none has an exponent.
    """
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        members = sorted((len(name.encode()), name.encode(), name) for name in value)
        return "{" + ", ".join(f"{canonical(name)}: {canonical(value[name])}" for _, _, name in members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(canonical, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) <= _INTEGERS_EXACT_UP_TO
        return str(int(value)) if whole else format(Decimal(repr(value)), "f")
    return str(value)


class AuditVerifier:
    """Finds out whether a log was altered. Give it every event of one tenant, newest first, then ``finish``.

    ``heads`` of that log, kept elsewhere, find also a tail that was cut off, and a chain that was made anew.
    """

    def __init__(self, *, heads: Iterable[AuditHead] = ()) -> None:
        self.events = 0
        """How many it was given."""
        self.problems: list[str] = []
        """What is wrong, in words, newest first; empty as long as nothing is."""
        self._heads: dict[int, set[str]] = {}
        for head in heads:
            self._heads.setdefault(head.sequence, set()).add(head.hash)
        self._later: AuditEvent | None = None

    def add(self, event: AuditEvent) -> None:
        """Look at the next event."""
        self.events += 1
        later, self._later = self._later, event
        if later is None:
            self._expect_tail(event.sequence)
        elif event.tenant_id != later.tenant_id or event.sequence >= later.sequence:
            self.problems.append(f"event {event.sequence} stands out of order")
        elif event.sequence < later.sequence - 1:
            self._missing(event.sequence + 1, later.sequence - 1)
        else:
            self._expect_hash(later, previous=event.hash)
        if self._heads.get(event.sequence, set()) - {event.hash.hex()}:
            self.problems.append(f"event {event.sequence} is not the one that was the head")

    def finish(self) -> None:
        """Look at the start of the log: there are no more events."""
        if self._later is None:
            self._expect_tail(0)
        elif self._later.sequence != 1:
            self._missing(1, self._later.sequence - 1)
        else:
            self._expect_hash(self._later, previous=b"")

    def _expect_tail(self, newest: int) -> None:
        kept = max(self._heads, default=0)
        if kept > newest:
            self._missing(newest + 1, kept)

    def _expect_hash(self, event: AuditEvent, *, previous: bytes) -> None:
        if event_hash(event, previous=previous) != event.hash:
            before = f", or event {event.sequence - 1}" if event.sequence > 1 else ""
            self.problems.append(f"event {event.sequence}{before} was altered")

    def _missing(self, first: int, last: int) -> None:
        named = f"event {first} is" if first == last else f"events {first} to {last} are"
        self.problems.append(f"{named} missing")
