"""The cache of records: what may be answered from memory, and what a change takes away.

Three rules make a stale answer impossible, whatever the order in which reads and changes arrive:

* A change leaves a *tombstone* with its revision. A fill that was read before the change comes too late to be stored,
  and its reader must read again.
* An entry's age counts from when it was stored. Reads never extend it.
* Tombstones are bounded by raising the *floor*: a fill read before the floor is refused, as if everything had changed.

"Unknown" is an entry of its own kind in a table of its own, so that a flood of unknown API keys pushes out no known
one. A new secret anywhere ends all of them, since nobody can tell which of them it made known.
"""

import enum
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Absence(enum.Enum):
    """Why there is no value: the cache does not know, or knows that there is none."""

    MISS = "MISS"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Value]):
    value: Value
    subjects: tuple[Hashable, ...]
    stored_at: float


class RecordCache(Generic[Value]):
    """Values by digest, each with the *subjects* whose change ends it: its key and its owner.

    Bounded in entries (least recently used out first), unknown digests and tombstones. Times are seconds of any clock
    that never jumps back; revisions are those of the changes.
    """

    def __init__(self, *, entries_max: int, unknown_max: int, tombstones_max: int, age_max_seconds: float) -> None:
        self._entries_max = entries_max
        self._unknown_max = unknown_max
        self._tombstones_max = tombstones_max
        self._age_max = age_max_seconds
        self._entries: OrderedDict[bytes, _Entry[Value]] = OrderedDict()
        self._digests: dict[Hashable, set[bytes]] = {}
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._unknown_floor = 0
        self._tombstones: OrderedDict[Hashable, int] = OrderedDict()
        self._floor = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes, *, now: float) -> Value | Absence:
        """The value stored for ``digest``, or why there is none."""
        entry = self._entries.get(digest)
        if entry is not None:
            if now < entry.stored_at + self._age_max:
                self._entries.move_to_end(digest)
                return entry.value
            self._remove(digest)
            return Absence.MISS
        stored_at = self._unknown.get(digest)
        if stored_at is not None and now < stored_at + self._age_max:
            return Absence.UNKNOWN
        return Absence.MISS

    def put(self, digest: bytes, value: Value, *, subjects: tuple[Hashable, ...], revision: int, now: float) -> bool:
        """Store what was read at ``revision``; False if a later change forbids it, and the read must be repeated."""
        if revision < self._floor or any(revision < self._tombstones.get(subject, 0) for subject in subjects):
            return False
        self._unknown.pop(digest, None)
        self._remove(digest)
        self._entries[digest] = _Entry(value, subjects, now)
        for subject in subjects:
            self._digests.setdefault(subject, set()).add(digest)
        if len(self._entries) > self._entries_max:
            self._remove(next(iter(self._entries)))
        return True

    def put_unknown(self, digest: bytes, *, revision: int, now: float) -> bool:
        """Store that nothing was found at ``revision``; False if a secret was added since."""
        if revision < self._floor or revision < self._unknown_floor:
            return False
        self._unknown[digest] = now
        if len(self._unknown) > self._unknown_max:
            self._unknown.popitem(last=False)
        return True

    def change(self, subject: Hashable, *, revision: int) -> None:
        """A change of ``subject`` at ``revision``: ends its entries, and leaves a tombstone."""
        for digest in tuple(self._digests.get(subject, ())):
            self._remove(digest)
        self._tombstones.pop(subject, None)
        self._tombstones[subject] = revision
        if len(self._tombstones) > self._tombstones_max:
            _, oldest = self._tombstones.popitem(last=False)
            self._floor = max(self._floor, oldest)

    def secret_added(self, *, revision: int) -> None:
        """A new secret at ``revision``: what was unknown may be known."""
        self._unknown.clear()
        self._unknown_floor = revision

    def clear(self, *, revision: int) -> None:
        """Forget everything, and take no fill that was read before ``revision``."""
        self._entries.clear()
        self._digests.clear()
        self._unknown.clear()
        self._tombstones.clear()
        self._floor = max(self._floor, revision)

    def _remove(self, digest: bytes) -> None:
        entry = self._entries.pop(digest, None)
        if entry is None:
            return
        for subject in entry.subjects:
            digests = self._digests[subject]
            digests.discard(digest)
            if not digests:
                del self._digests[subject]
