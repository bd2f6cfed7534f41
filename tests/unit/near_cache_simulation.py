"""Clients with near-caches below the replicas of ``lease_simulation``: the same world, one level more.

A client speaks to its replica over a stream, in order: what was said may be heard much later, or never if the stream
breaks. It comes back at any replica, asks any replica, may stand still, and has a clock of its own; replicas end in
order or at once, and start anew. The rules under test are the real ``Sessions`` and ``NearCache``.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

from tests.unit.lease_simulation import AGE_MAX_SECONDS, KEYS, LEASE_SECONDS, Faults, Record, Replica, World
from tollkeeper import Decision, DecisionCode
from tollkeeper._near_cache import Ask, Change, NearCache
from tollkeeper_server.core.cache import Absence, RecordCache
from tollkeeper_server.core.changes import Change as Told
from tollkeeper_server.core.sessions import News, Session, Sessions

USABLE_FOR_SECONDS = 2.5


@dataclass(slots=True)
class ClientFaults:
    """Protections that are switched off."""

    no_wait: bool = False
    """A replica acknowledges without waiting for its clients."""
    unbounded_lease: bool = False
    """A client's lease may outlast its replica's."""
    forget_broken: bool = False
    """A client whose stream broke is not waited for."""
    leave_at_once: bool = False
    """A replica that leaves takes its row with it, whatever leases it gave."""
    delete_only: bool = False
    """A change ends kept answers, but leaves no tombstone."""
    reads_extend_age: bool = False
    """A hit counts as a fresh answer."""
    early_clock: bool = False
    """The clock is read before the verification starts."""
    grant_time: bool = False
    """A lease counts from when its grant arrived instead of from when it was asked for."""


class LeakyNearCache(NearCache):
    """The near-cache without tombstones."""

    def change(self, changes: Iterable[Change], *, revision: int) -> None:
        super().change(changes, revision=revision)
        self._tombstones.clear()


@dataclass(slots=True)
class Client:
    """One process with a near-cache, its stream, and what is on its way."""

    cache: NearCache
    rate: float
    stopped_until: float = 0.0
    early_now: float = 0.0
    replica: int = 0
    session: Session | None = None
    is_connected: bool = False
    said: deque[tuple[int, int]] = field(default_factory=deque)
    """Acknowledged revision and renewal, on their way to the replica."""
    told: deque[News] = field(default_factory=deque)
    sent_at: dict[int, float] = field(default_factory=dict)
    asked: list[tuple[str, Ask]] = field(default_factory=list)
    answered: list[tuple[str, Ask, Record]] = field(default_factory=list)
    started: list[tuple[str, bool, float]] = field(default_factory=list)


class ClientWorld(World):
    """The truth, the replicas, and their clients."""

    def __init__(self, seed: int, faults: ClientFaults) -> None:
        self.client_faults = faults
        self.client_hits = 0
        self.sessions = [self.new_sessions(0) for _ in range(2)]
        self.ghosts: list[tuple[int, float]] = []
        super().__init__(seed, Faults())
        self.renewals = count(1)
        self.clients = [self.new_client() for _ in range(2)]
        for number in range(2):  # both begin with a session, a lease and an answer under way
            self.connect(number)
            for event in (self.hear_client, self.tell, self.hear_replica, self.hear_client, self.tell,
                          self.hear_replica, self.ask, self.serve):  # fmt: skip
                event(number)

    def new_sessions(self, revision: int) -> Sessions:
        sessions = Sessions(recent_max=2, pending_max=2)
        sessions.begin_anew(revision)
        return sessions

    def new_client(self) -> Client:
        cache = (LeakyNearCache if self.client_faults.delete_only else NearCache)(
            clock=lambda: self.client_now(client), entries_max=8, tombstones_max=1
        )
        client = Client(cache=cache, rate=self.random.uniform(0.991, 1.009))
        return client

    def events(self) -> dict[Callable[[int], None], int]:
        return super().events() | {
            self.connect: 2, self.break_off: 1, self.client_stands_still: 1, self.renew: 3, self.hear_client: 4,
            self.tell: 4, self.hear_replica: 4, self.confirm: 3, self.ask: 2, self.serve: 2, self.keep: 3,
            self.start_recall: 4, self.recall: 6, self.end_replica: 2, self.revoke: 3, self.finish_revoke: 6,
            self.replica_is_quick: 6, self.client_is_quick: 4, self.question_is_quick: 4, self.recall_is_quick: 6,
        }  # fmt: skip

    # What takes many events happens all at once now and then, so that worlds get somewhere.

    def replica_is_quick(self, number: int) -> None:
        for event in (self.send_renewal, self.grant, self.take_grant, self.acknowledge, self.confirm, self.acknowledge):
            event(number)

    def client_is_quick(self, number: int) -> None:
        self.connect(number)
        self.renew(number)
        for event in (self.hear_client, self.tell, self.hear_replica) * 3:
            event(number)

    def question_is_quick(self, number: int) -> None:
        for event in (self.ask, self.serve, self.keep):
            event(number)

    def recall_is_quick(self, number: int) -> None:
        for event in (self.start_recall, self.recall):
            event(number)

    def client_now(self, client: Client) -> float:
        """The client's clock."""
        return client.early_now if self.is_early else self.now * client.rate

    is_early = False

    def client(self, number: int) -> Client | None:
        """The client, unless it stands still."""
        client = self.clients[number]
        return client if self.now >= client.stopped_until else None

    def advance(self, number: int) -> None:
        for client in self.clients:
            client.early_now = self.client_now(client)
        super().advance(number)

    def client_stands_still(self, number: int) -> None:
        if self.random.random() < 0.2:
            self.clients[number].stopped_until = self.now + self.random.choice((0.5, 3.0))

    # The replicas' side.

    def rows(self) -> Iterable[tuple[int, float]]:
        return [*super().rows(), *self.ghosts]

    def apply(self, number: int, revision: int, key: str) -> None:
        super().apply(number, revision, key)
        self.sessions[number].apply(Told(revision, "acme", key, adds_secret=False, imports=False))

    def confirmed(self, number: int) -> int:
        replica = self.replicas[number]
        if self.client_faults.no_wait:
            return replica.cursor
        return min(replica.cursor, self.sessions[number].frontier(self.local(replica)))

    def confirm(self, number: int) -> None:
        """A client acknowledged, or its lease ran out: the replica may have more to acknowledge."""
        if (replica := self.running(number)) and replica.ack is None:
            replica.ack = self.confirmed(number)

    def hear_client(self, number: int) -> None:
        """The replica hears what a client said; its first words open the session."""
        client = self.clients[number]
        replica = self.running(client.replica)
        if not replica or not client.said or not client.is_connected:
            return
        acknowledged, renewal = client.said.popleft()
        sessions = self.sessions[client.replica]
        if client.session is None:
            client.session = sessions.open("acme", acknowledged=acknowledged)
        else:
            sessions.acknowledge(client.session, acknowledged)
        if renewal:
            client.session.ask(renewal)

    def tell(self, number: int) -> None:
        """The replica tells a client what is new, and gives it a lease if one is due."""
        client = self.clients[number]
        replica = self.running(client.replica)
        if not replica or client.session is None:
            return
        now, left = self.local(replica), replica.lease.left(self.local(replica))
        if self.client_faults.unbounded_lease and left > 0:
            left = LEASE_SECONDS
        revision = self.sessions[client.replica].revision
        news = client.session.take(now=now, lease_seconds=left, revision=revision, at_most=1)
        if news is not None:
            client.told.append(news)

    def end_replica(self, number: int) -> None:
        """A replica is killed, or leaves in order; another takes its place, and knows nothing."""
        if self.random.random() > 0.1:
            return
        replica, sessions = self.replicas[number], self.sessions[number]
        row = self.acked[number], self.lease_until[number]
        if self.random.random() < 0.5:
            ends_in = sessions.last_end() - self.local(replica)
            row = row[0], min(row[1], self.now + ends_in)
            if self.client_faults.leave_at_once:
                row = row[0], self.now
        self.ghosts.append(row)
        for client in self.clients:
            if client.replica == number:
                self.disconnect(client)
        cache = RecordCache[Record](entries_max=8, unknown_max=8, tombstones_max=1, age_max_seconds=AGE_MAX_SECONDS)
        cache.clear(revision=self.revision)
        self.replicas[number] = Replica(cache=cache, rate=replica.rate, cursor=self.revision)
        self.sessions[number] = self.new_sessions(self.revision)
        self.acked[number], self.lease_until[number] = self.revision, self.now

    # The clients' side.

    def connect(self, number: int) -> None:
        """The client opens a stream to any replica, and goes on from what it has applied."""
        client = self.client(number)
        if client and not client.is_connected:
            client.replica, client.is_connected = self.random.randrange(2), True
            self.say(client, with_renewal=True)

    def say(self, client: Client, *, with_renewal: bool) -> None:
        renewal = next(self.renewals) if with_renewal else 0
        client.sent_at[renewal] = self.client_now(client)
        client.said.append((client.cache.revision, renewal))

    def renew(self, number: int) -> None:
        """The client asks for its lease."""
        client = self.client(number)
        if client and client.is_connected and len(client.said) < 3:
            self.say(client, with_renewal=True)

    def break_off(self, number: int) -> None:
        """The stream breaks, with what is on its way."""
        if self.random.random() < 0.3:
            self.disconnect(self.clients[number])

    def disconnect(self, client: Client) -> None:
        sessions, session = self.sessions[client.replica], client.session
        if session is not None:
            if self.client_faults.forget_broken:
                session.lease_until = 0.0
            sessions.close(session, now=self.local(self.replicas[client.replica]))
        client.session, client.is_connected = None, False
        client.said.clear()
        client.told.clear()

    def hear_replica(self, number: int) -> None:
        """The client applies what it was told, takes the lease, and acknowledges."""
        client = self.client(number)
        if not client or not client.told:
            return
        news = client.told.popleft()
        if news.reset:
            client.cache.begin_anew(news.revision)
        client.cache.change(
            [Change(it.revision, it.key_id, it.tenant_id, "") for it in news.changes], revision=news.revision
        )
        if news.renewal:
            sent_at = self.client_now(client) if self.client_faults.grant_time else client.sent_at[news.renewal]
            client.cache.renew(sent_at=sent_at, seconds=news.lease_seconds)
        if news.changes or news.reset:
            self.say(client, with_renewal=False)

    def ask(self, number: int) -> None:
        """The client sends a question that it would keep the answer to."""
        if client := self.client(number):
            key = self.random.choice(KEYS)
            if (ask := client.cache.ask((key,), None)) is not None:
                client.asked.append((key, ask))

    def serve(self, number: int) -> None:
        """Any replica answers it: from its memory, or by a read of the truth."""
        client = self.clients[number]
        replica = self.running(self.random.randrange(2))
        if not replica or not client.asked:
            return
        key, ask = client.asked.pop()
        now = self.local(replica)
        known = replica.cache.get(key.encode(), now=now) if replica.lease.holds(now) else Absence.MISS
        if isinstance(known, Absence):
            known = Record(self.alive[key], self.revision, now)
        else:
            known = Record(known.alive, replica.cursor, now)
        client.answered.append((key, ask, known))

    def keep(self, number: int) -> None:
        """The answer arrives, and is kept if the cache takes it."""
        client = self.client(number)
        if client and client.answered:
            key, ask, record = client.answered.pop(self.random.randrange(len(client.answered)))
            if record.alive:
                self.keep_in(client, ask, self.decision(key, record.revision, ask.sent_at))
            client.cache.done(ask)

    def keep_in(self, client: Client, ask: Ask, decision: Decision) -> None:
        client.cache.keep(ask, decision, block=0, usable_for=USABLE_FOR_SECONDS, reservation_id="")

    def decision(self, key: str, revision: int, sent_at: float) -> Decision:
        identity = SimpleNamespace(key_id=key, tenant_id="acme", owner_id="")
        return cast(
            "Decision", SimpleNamespace(code=DecisionCode.ALLOWED, key=identity, revision=revision, sent_at=sent_at)
        )

    def start_recall(self, number: int) -> None:
        """A verification starts at the client; whatever returned until now binds it."""
        if client := self.client(number):
            key = self.random.choice(KEYS)
            client.started.append((key, key in self.returned, client.early_now))

    def recall(self, number: int) -> None:
        """It is answered from memory, if it may be."""
        client = self.client(number)
        if not client or not client.started:
            return
        key, dead, early_now = client.started.pop()
        if self.client_faults.early_clock:
            client.early_now, self.is_early = early_now, True
        kept: Any = client.cache.recall((key,))
        self.is_early = False
        if kept is None:
            return
        self.client_hits += 1
        if dead:
            self.violations.append(f"{key} was allowed by a client after its revocation had returned")
        now = self.client_now(client)
        if now > kept.sent_at + USABLE_FOR_SECONDS:
            self.violations.append(f"a client gave an answer about {key} older than {USABLE_FOR_SECONDS} s")
        if self.client_faults.reads_extend_age:
            ask = Ask((key,), {}, 1, now, client.cache._era)
            self.keep_in(client, ask, self.decision(key, self.revision, kept.sent_at))
