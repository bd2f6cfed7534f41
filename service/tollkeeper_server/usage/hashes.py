"""Usage in Redis: what charges count there, until it is stored.

The script that charges a key also counts its usage, in a hash of its owner (or of a key without one) for each minute
and epoch of Redis. Counters in it only grow: whoever reads a hash, however often and however late, stores the same
counters or greater ones. So they are stored not as something to add but as what was reached, under the name of the
*source* that tells this hash from any other, before or after it, of the same name. Nothing has to be remembered, in
either store, of who has read what.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

PATTERN = "tk:{*}:usage:*"
"""Finds every hash of usage in Redis."""

_NAME = re.compile(r"tk:\{(?P<home>.+)\}:usage:(?P<epoch>[0-9a-f]+):(?P<minute>[0-9]+)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Counted(NamedTuple):
    """What a charge adds to the usage of its key, if it is made."""

    home: str
    """The hash tag of the charge: an owner's subject or, of a key without an owner, its key_id."""
    key_id: str
    minute: int
    """Minutes since 1970."""
    counts: tuple[tuple[str, int], ...]
    """Amounts by decision code or unit, none of them 0."""

    def amounts(self) -> dict[tuple[str, datetime, str], int]:
        """The same by subject, time, and decision code or unit."""
        at = _EPOCH + timedelta(minutes=self.minute)
        return {
            (subject, at, name): amount for subject in _subjects(self.home, self.key_id) for name, amount in self.counts
        }

    def hash_name(self, epoch: str) -> str:
        """The hash that counts it."""
        return f"tk:{{{self.home}}}:usage:{epoch}:{self.minute}"


class UsageHash(NamedTuple):
    """What the name of a hash tells."""

    home: str
    epoch: str
    minute: int

    @staticmethod
    def names(name: str) -> bool:
        """Whether this is the name of one."""
        return _NAME.fullmatch(name) is not None

    @classmethod
    def of(cls, name: str) -> "UsageHash":
        """Read the name of one."""
        parts = _NAME.fullmatch(name)
        assert parts is not None, f"{name} names no hash of usage"
        return cls(parts["home"], parts["epoch"], int(parts["minute"]))

    def reached(self, fields: Mapping[bytes, bytes]) -> Iterator[tuple[tuple[str, datetime, str, str], int]]:
        """How far each counter got: by subject, time, decision code or unit, and source."""
        at = _EPOCH + timedelta(minutes=self.minute)
        source = f"{self.epoch}/{fields[b''].decode()}"
        sums: dict[tuple[str, str], int] = {}
        for field, value in fields.items():
            key_id, slash, counter = field.decode().partition("/")
            for subject in _subjects(self.home, key_id) if slash else ():
                sums[subject, counter] = sums.get((subject, counter), 0) + int(value)
        return (((subject, at, counter, source), amount) for (subject, counter), amount in sums.items())


def _subjects(home: str, key_id: str) -> tuple[str, ...]:
    return (key_id,) if home == key_id else (key_id, home)
