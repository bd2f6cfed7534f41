"""A world of replicas that answer from memory under leases, stepped through random interleavings from a seed.

Everything that takes time in the real service is two events here: a message is sent, and arrives; a read takes its
snapshot, and its answer is stored; a verification starts, and looks at the clock. Between any two events anything else
may happen, a replica may stand still for longer than its lease, and its clock runs up to 0.9 % fast or slow. The rules
under test are the real ``Lease`` and ``RecordCache``.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tollkeeper_server.core.cache import Absence, RecordCache
from tollkeeper_server.core.lease import Lease

LEASE_SECONDS = 2.0
AGE_MAX_SECONDS = 5.0
KEYS = ("a", "b")


@dataclass(slots=True)
class Record:
    """What a read of the truth brings back."""

    alive: bool
    revision: int
    read_at: float


@dataclass(slots=True)
class Faults:
    """Protections that are switched off."""

    no_wait: bool = False
    """A revocation returns without waiting for the replicas."""
    delete_only: bool = False
    """A change ends entries, but leaves no tombstone."""
    reads_extend_age: bool = False
    """A hit counts as a fresh write."""
    early_clock: bool = False
    """The clock is read before the verification starts."""
    grant_time: bool = False
    """A lease counts from when its grant arrived instead of from when it was asked for."""


class LeakyCache(RecordCache[Record]):
    """The cache without tombstones."""

    def change(self, subject: object, *, revision: int) -> None:
        super().change(subject, revision=revision)
        self._tombstones.clear()


@dataclass(slots=True)
class Replica:
    """One server process: its memory, its lease, and the messages that are under way."""

    cache: RecordCache[Record]
    rate: float
    lease: Lease = field(default_factory=Lease)
    cursor: int = 0
    stopped_until: float = 0.0
    early_now: float = 0.0
    reads: list[tuple[str, Record]] = field(default_factory=list)
    renewal: float | None = None
    granted: tuple[float, list[tuple[int, str]]] | None = None
    ack: int | None = None
    started: list[tuple[str, bool, float]] = field(default_factory=list)


class World:
    """The truth, the replicas, and what was promised to whom."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        self.now = 0.0
        self.revision = 0
        self.alive = dict.fromkeys(KEYS, True)
        self.changes: list[tuple[int, str]] = []
        self.waiting: list[tuple[int, str]] = []
        self.returned: set[str] = set()
        cache = LeakyCache if faults.delete_only else RecordCache[Record]
        self.replicas = [
            Replica(
                cache=cache(entries_max=8, unknown_max=8, tombstones_max=1, age_max_seconds=AGE_MAX_SECONDS),
                rate=self.random.uniform(0.991, 1.009),
            )
            for _ in range(2)
        ]
        self.lease_until = [0.0, 0.0]
        self.acked = [0, 0]
        self.violations: list[str] = []
        self.hits = 0
        for number in range(len(self.replicas)):  # both begin with a lease and a read under way
            for event in (self.send_renewal, self.grant, self.take_grant, self.acknowledge, self.start_read):
                event(number)

    def run(self, steps: int) -> None:
        """``steps`` random events."""
        events = self.events()
        for event in self.random.choices(list(events), list(events.values()), k=steps):
            event(self.random.randrange(len(self.replicas)))

    def events(self) -> dict[Callable[[int], None], int]:
        """What may happen, and how often against the others."""
        return {
            self.advance: 2, self.stand_still: 1, self.revoke: 1, self.finish_revoke: 2, self.send_renewal: 3,
            self.grant: 3, self.take_grant: 3, self.acknowledge: 3, self.start_read: 2, self.finish_read: 3,
            self.start_verification: 4, self.answer: 4,
        }  # fmt: skip

    def local(self, replica: Replica) -> float:
        """The replica's clock."""
        return self.now * replica.rate

    def running(self, number: int) -> Replica | None:
        """The replica, unless it stands still."""
        replica = self.replicas[number]
        return replica if self.now >= replica.stopped_until else None

    def advance(self, number: int) -> None:
        """Time passes."""
        for replica in self.replicas:
            replica.early_now = self.local(replica)
        self.now += self.random.choice((0.01, 0.3, 1.0, 1.99))

    def revoke(self, number: int) -> None:
        """Somebody revokes a key: the change is committed, and the call waits."""
        key = self.random.choice(KEYS)
        self.alive[key] = False
        self.revision += 1
        self.changes.append((self.revision, key))
        self.waiting.append((self.revision, key))

    def finish_revoke(self, number: int) -> None:
        """The call returns once every replica acknowledged, or its lease ran out."""
        for revision, key in tuple(self.waiting):
            if self.faults.no_wait or all(acked >= revision or self.now >= until for acked, until in self.rows()):
                self.waiting.remove((revision, key))
                self.returned.add(key)

    def rows(self) -> Iterable[tuple[int, float]]:
        """What each replica has acknowledged, and until when its lease is, as the store has it."""
        return zip(self.acked, self.lease_until, strict=True)

    def stand_still(self, number: int) -> None:
        """The process is paused, rarely."""
        if self.random.random() < 0.2:
            self.replicas[number].stopped_until = self.now + self.random.choice((0.5, 3.0))

    def send_renewal(self, number: int) -> None:
        """The replica asks for its lease and for changes."""
        if (replica := self.running(number)) and replica.renewal is None and replica.granted is None:
            replica.renewal = self.local(replica)

    def grant(self, number: int) -> None:
        """The store grants it, and reads the changes."""
        replica = self.replicas[number]
        if replica.renewal is not None and replica.granted is None:
            self.lease_until[number] = self.now + LEASE_SECONDS
            news = [change for change in self.changes if change[0] > replica.cursor]
            replica.granted = replica.renewal, news

    def take_grant(self, number: int) -> None:
        """The answer arrives: changes are applied first, then the lease holds, then the revision is acknowledged."""
        replica = self.running(number)
        if replica is None or replica.granted is None:
            return
        sent_at, news = replica.granted
        replica.granted = replica.renewal = None
        for revision, key in news:
            self.apply(number, revision, key)
        replica.lease.renew(sent_at=self.local(replica) if self.faults.grant_time else sent_at, seconds=LEASE_SECONDS)
        replica.ack = self.confirmed(number)

    def apply(self, number: int, revision: int, key: str) -> None:
        """The replica applies a change."""
        self.replicas[number].cache.change(key, revision=revision)
        self.replicas[number].cursor = revision

    def confirmed(self, number: int) -> int:
        """What the replica can acknowledge."""
        return self.replicas[number].cursor

    def acknowledge(self, number: int) -> None:
        """The acknowledgement arrives at the store."""
        replica = self.replicas[number]
        if replica.ack is not None:
            self.acked[number] = max(self.acked[number], replica.ack)
            replica.ack = None

    def start_read(self, number: int) -> None:
        """A read takes its snapshot of the truth."""
        if replica := self.running(number):
            key = self.random.choice(KEYS)
            replica.reads.append((key, Record(self.alive[key], self.revision, self.local(replica))))

    def finish_read(self, number: int) -> None:
        """Its answer arrives, and is stored if the cache takes it."""
        replica = self.running(number)
        if replica and replica.reads:
            key, record = replica.reads.pop(self.random.randrange(len(replica.reads)))
            now = self.local(replica)
            record.read_at = now
            replica.cache.put(key.encode(), record, subjects=(key,), revision=record.revision, now=now)

    def start_verification(self, number: int) -> None:
        """A verification starts; whatever returned until now binds it."""
        if replica := self.running(number):
            key = self.random.choice(KEYS)
            replica.started.append((key, key in self.returned, replica.early_now))

    def answer(self, number: int) -> None:
        """It is answered from memory, if it may be; otherwise by a read of the truth, which is never wrong."""
        replica = self.running(number)
        if not replica or not replica.started:
            return
        key, dead, early_now = replica.started.pop()
        now = early_now if self.faults.early_clock else self.local(replica)
        if not replica.lease.holds(now):
            return
        record = replica.cache.get(key.encode(), now=now)
        if isinstance(record, Absence):
            return
        self.hits += 1
        if record.alive and dead:
            self.violations.append(f"{key} was allowed from memory after its revocation had returned")
        if self.local(replica) > record.read_at + AGE_MAX_SECONDS:
            self.violations.append(f"{key} was answered from an entry older than {AGE_MAX_SECONDS} s")
        if self.faults.reads_extend_age:
            replica.cache.put(key.encode(), record, subjects=(key,), revision=self.revision, now=now)
