"""The near-cache: decisions that may be given again without asking, and what ends them. No I/O.

A kept decision is given only to exactly the same question, while the lease holds, until it is as old as the server
said, and as often as was charged in advance. Whatever the order in which answers and changes arrive, no decision
outlives a change of its key or owner:

* A change leaves a *tombstone* with its revision: an answer that reflects less comes too late to be kept. Tombstones
  are bounded by raising the *floor*, below which no answer is kept.
* Ages count from when the question was sent, and nothing extends them.
* The lease counts from when its renewal was sent. The clock is read after the question was asked, and runs on while the
  process is stopped or the machine sleeps: whoever was away finds the lease over.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from tollkeeper._decisions import Decision, DecisionCode, KeyIdentity
from tollkeeper._requests.values import REQUESTS_UNIT, words

ENTRIES_MAX = 10_000
TOMBSTONES_MAX = 10_000
KEEP_MAX = 10_000
"""Most verifications that are charged at once."""
KEEP_MIN = 10
"""A block costs the service a transaction, so it is for so many verifications at least."""
KEEP_GROWTH = 4
"""A block is at most so many times what was seen since the one before."""
BLOCK_SECONDS = 1.0
"""A block is charged for what will be used in this time, judged by what was used before."""
NO_BLOCKS_SECONDS = 5.0
"""No block is asked for so long after one could not be had."""
REMEMBERED_SECONDS = 60.0
"""How long a decision that is over is remembered, for the size of the next block."""
DRIFT = 0.01
"""Part of a lease or an age given up to clocks that run at different speeds."""

NEVER = float("-inf")
UNCOUNTED = 10**9
"""What is left of a decision that no limit counts: more than can be used until it is counted again."""

Question = tuple[Hashable, ...]
"""What makes two verifications the same question, see ``question_of``."""

boottime = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds since the machine started: never jumps, and runs on while the machine sleeps (where it can)."""


def question_of(
    api_key: str,
    resource: str,
    permissions: Sequence[str],
    client_ip: str | IPv4Address | IPv6Address | None,
    charges: Mapping[str, int] | None,
    tenant_id: str | None,
) -> Question:
    """All that a decision depends on; different questions never look the same."""
    return (
        api_key,
        resource,
        permissions if permissions.__class__ is tuple else tuple(words(permissions, "permissions")),
        client_ip if client_ip is None or client_ip.__class__ is str else str(client_ip),
        None if charges is None else frozenset(charges.items()),
        tenant_id,
    )


class Ask(NamedTuple):
    """A question that is on its way to a server, and may bring back what can be kept."""

    question: Question
    charges: Mapping[str, int]
    """Of one verification."""
    keep: int
    sent_at: float
    era: int


class Used(NamedTuple):
    """What a block that is over was used for: what is left of it goes back."""

    reservation_id: str
    verifications: int
    charges: Mapping[str, int]
    """Of all of them together."""


class Change(NamedTuple):
    """A change of a key, or else of an owner."""

    revision: int
    key_id: str
    tenant_id: str
    owner_id: str


class _Entry:
    """One kept decision; or how often a question was asked whose answers are not kept, which is a block of one."""

    __slots__ = (
        "block",
        "charges",
        "decision",
        "ends_at",
        "key",
        "left",
        "looked",
        "missed",
        "reservation_id",
        "sent_at",
    )

    def __init__(self, ask: Ask, decision: Decision, key: KeyIdentity, *, block: int, usable_for: float) -> None:
        self.decision = decision
        self.key = key
        self.charges = ask.charges
        self.sent_at = ask.sent_at
        self.ends_at = ask.sent_at + usable_for * (1 - DRIFT)
        self.block = block
        self.reservation_id = ""
        self.missed = 0
        self.left = self.looked = UNCOUNTED if block == 0 else block - 1


class NearCache:
    """Kept decisions by question, given in one thread. Times are seconds of ``clock``.

    ``recall`` comes first. Where it has nothing, ``ask`` comes before the question to a server, ``keep`` and ``done``
    after it.

    Bounded in entries, where those go first that were not used since they were last looked at, and in tombstones.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = boottime,
        entries_max: int = ENTRIES_MAX,
        tombstones_max: int = TOMBSTONES_MAX,
    ) -> None:
        self._clock = clock
        self._entries_max = entries_max
        self._tombstones_max = tombstones_max
        self._lock = threading.Lock()
        self._entries: dict[Question, _Entry] = {}
        self._of_subject: dict[Hashable, set[Question]] = {}
        self._tombstones: OrderedDict[Hashable, int] = OrderedDict()
        self._floor = 0
        self._asking: set[Question] = set()
        self._used: list[Used] = []
        self._uses: dict[str, tuple[int, dict[str, int]]] = {}
        self._lease_ends_at = NEVER
        self._blocks_from = NEVER
        self._is_closed = False
        self._era = 0
        self.revision = 0
        """Every change up to here is applied."""

    def __len__(self) -> int:
        return len(self._entries)

    def holds_lease(self) -> bool:
        """Whether a kept decision may be given now."""
        return self._clock() < self._lease_ends_at

    def recall(self, question: Question, min_revision: int = 0) -> Decision | None:
        """The decision that is kept for ``question``, which counts as used; None if there is none to give."""
        entry = self._entries.get(question)
        if entry is None:
            return None
        now = self._clock()
        if now >= entry.ends_at or now >= self._lease_ends_at or min_revision > self.revision:
            return None
        if entry.left == 0:
            return None
        entry.left -= 1
        return entry.decision

    def ask(self, question: Question, charges: Mapping[str, int] | None) -> Ask | None:
        """Call it right before the question is sent: how much to keep of the answer. None: keep nothing.

        That is so without a lease, and while the same question is on its way already. Each Ask ends in ``done``.
        """
        now = self._clock()
        with self._lock:
            spent = self._entries.get(question)
            if spent is not None:
                spent.missed += 1
            if now >= self._lease_ends_at or question in self._asking:
                return None
            self._asking.add(question)
            each = {REQUESTS_UNIT: 1} if charges is None else dict(charges)
            block = 1 if spent is None or now < self._blocks_from else _demand(spent, now)
            return Ask(question, each, block, now, self._era)

    def done(self, ask: Ask) -> None:
        """The answer came, or will not."""
        with self._lock:
            self._asking.discard(ask.question)

    def no_blocks(self) -> None:
        """A block could not be had: ask for none for a while."""
        self._blocks_from = self._clock() + NO_BLOCKS_SECONDS

    def keep(self, ask: Ask, decision: Decision, *, block: int, usable_for: float, reservation_id: str) -> bool:
        """Keep the answer, unless a change forbids it; then all but the verification that asked is given back.

        ``block`` is how often it may be given in all, 0 without bound; ``usable_for`` seconds from when it was asked. A
        block of one is the answer to who asked alone: only how often the question comes is remembered.
        """
        key = decision.key
        if key is None or decision.code is not DecisionCode.ALLOWED:
            return False
        with self._lock:
            entry = _Entry(ask, decision, key, block=block, usable_for=usable_for)
            entry.reservation_id = reservation_id
            if ask.era != self._era or decision.revision < self._oldest(key):
                self._end(entry)
                return False
            before = self._entries.get(ask.question)
            if block == 1 and before is not None and ask.sent_at < before.sent_at + BLOCK_SECONDS:
                return False  # it goes on counting
            self._remove(ask.question)
            self._entries[ask.question] = entry
            for subject in _subjects(key):
                self._of_subject.setdefault(subject, set()).add(ask.question)
            if len(self._entries) > self._entries_max:
                self._evict()
            return True

    def change(self, changes: Iterable[Change], *, revision: int) -> None:
        """Apply changes, oldest first; with them every change up to ``revision`` is applied."""
        with self._lock:
            for change in changes:
                subject = change.key_id or (change.tenant_id, change.owner_id)
                for question in tuple(self._of_subject.get(subject, ())):
                    if self._entries[question].decision.revision < change.revision:  # else it came first
                        self._remove(question)
                self._tombstones.pop(subject, None)
                self._tombstones[subject] = change.revision
                if len(self._tombstones) > self._tombstones_max:
                    self._floor = max(self._floor, self._tombstones.popitem(last=False)[1])
            self.revision = revision

    def begin_anew(self, revision: int) -> None:
        """Forget everything, and keep no answer that was asked for before or reflects less than ``revision``."""
        with self._lock:
            self._forget()
            self._tombstones.clear()
            self._floor = self.revision = revision

    def renew(self, *, sent_at: float, seconds: float) -> None:
        """The lease was granted that was asked for at ``sent_at``; a late answer never shortens it."""
        if not self._is_closed:
            self._lease_ends_at = max(self._lease_ends_at, sent_at + seconds * (1 - DRIFT))

    def close(self) -> None:
        """Give nothing any more, and give back what is left."""
        with self._lock:
            self._is_closed = True
            self._lease_ends_at = NEVER
            self._forget()

    def abandon(self) -> None:
        """In a forked process: leave everything to the process that it was forked from."""
        self._lock = threading.Lock()
        self._is_closed = True
        self._lease_ends_at = NEVER
        self._entries, self._of_subject, self._used, self._uses = {}, {}, [], {}
        self._era += 1

    def take_used(self) -> list[Used]:
        """The blocks that are over, to be settled: spent, ended, or too old."""
        now = self._clock()
        with self._lock:
            for question, entry in tuple(self._entries.items()):
                if now >= entry.ends_at + REMEMBERED_SECONDS:
                    self._remove(question)
                elif entry.block and (entry.left == 0 or now >= entry.ends_at):
                    self._end(entry)  # and remember how fast it was used
            used, self._used = self._used, []
            return used

    def take_uses(self, *, at_most: int) -> dict[str, tuple[int, dict[str, int]]]:
        """What decisions that no limit counts were used for, by key_id: how often, and the units of all together."""
        with self._lock:
            for entry in self._entries.values():
                if not entry.block:
                    self._count(entry)
            return {key_id: self._uses.pop(key_id) for key_id in list(self._uses)[:at_most]}

    def _oldest(self, key: KeyIdentity) -> int:
        """The revision that an answer about the key must reflect."""
        return max(self._floor, *(self._tombstones.get(subject, 0) for subject in _subjects(key)))

    def _remove(self, question: Question) -> None:
        entry = self._entries.pop(question, None)
        if entry is None:
            return
        for subject in _subjects(entry.key):
            questions = self._of_subject[subject]
            questions.discard(question)
            if not questions:
                del self._of_subject[subject]
        self._end(entry)

    def _end(self, entry: _Entry) -> None:
        """Whoever found it before finds nothing left of it now."""
        if entry.block == 0:
            self._count(entry)
        elif entry.reservation_id:
            verifications = entry.block - entry.left
            charges = {unit: amount * verifications for unit, amount in entry.charges.items()}
            self._used.append(Used(entry.reservation_id, verifications, charges))
            entry.reservation_id = ""
            entry.block = verifications
        entry.left = 0

    def _count(self, entry: _Entry) -> None:
        """Take note of what it was used for since it was last counted."""
        verifications = UNCOUNTED - entry.left
        if verifications == 0 or entry.left == 0:
            return
        entry.left, entry.looked = UNCOUNTED, 0
        counted, units = self._uses.setdefault(entry.key.key_id, (0, {}))
        for unit, amount in entry.charges.items():
            units[unit] = units.get(unit, 0) + amount * verifications
        self._uses[entry.key.key_id] = counted + verifications, units

    def _evict(self) -> None:
        """Make room for one: the oldest that was not used since it was looked at, among a few."""
        for _ in range(4):
            question, entry = next(iter(self._entries.items()))
            if entry.left == entry.looked:
                break
            entry.looked = entry.left
            self._entries[question] = self._entries.pop(question)
        self._remove(next(iter(self._entries)))

    def _forget(self) -> None:
        for question in tuple(self._entries):
            self._remove(question)
        self._era += 1


class SharedNearCache(NearCache):
    """A near-cache whose decisions are given in several threads."""

    def recall(self, question: Question, min_revision: int = 0) -> Decision | None:
        """As without threads; each of them takes what no other has taken."""
        with self._lock:
            return super().recall(question, min_revision)


def _subjects(key: KeyIdentity) -> tuple[Hashable, ...]:
    """Whose change ends what is kept of the key."""
    return (key.key_id, (key.tenant_id, key.owner_id)) if key.owner_id else (key.key_id,)


def _demand(spent: _Entry, now: float) -> int:
    """How many verifications to charge at once, by what was used of the block before."""
    seen = spent.block - spent.left + spent.missed
    per_second = seen / max(now - spent.sent_at, 0.001)
    wanted = min(math.ceil(per_second * BLOCK_SECONDS), KEEP_GROWTH * seen, KEEP_MAX)
    return wanted if wanted >= KEEP_MIN else 1
