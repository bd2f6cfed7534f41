"""Watchers: the clients that are told of changes by this server, and keep answers under leases below its own."""

import asyncio
from collections.abc import Callable

from tollkeeper_server.core.changes import Change
from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.core.lease import Lease
from tollkeeper_server.core.sessions import News, Session, Sessions
from tollkeeper_server.verify import metrics

RECENT_MAX = 10_000
PENDING_MAX = 10_000
CHANGES_PER_MESSAGE = 1_000


class Watchers:
    """Wakes streams when there is something to tell, and the replica when it may acknowledge more.

    ``lease`` is that of the replica, which no client's outlasts; ``moved`` is called when a client has acknowledged.
    """

    def __init__(self, *, lease: Lease, clock: Callable[[], float], moved: Callable[[], None]) -> None:
        self._lease = lease
        self._clock = clock
        self._moved = moved
        self._sessions = Sessions(recent_max=RECENT_MAX, pending_max=PENDING_MAX)
        self._watches: set[Watch] = set()

    def watch(self, tenant_id: str | None, *, acknowledged: int) -> "Watch":
        """Begin to follow the changes of a tenant (None: of all), from the revision that the client has applied.

        Raises Unavailable while this server does not follow them itself yet.
        """
        if self._sessions.revision < 0:
            raise Unavailable("this server does not follow changes yet", reason="CHANGES_UNAVAILABLE")
        watch = Watch(self, self._sessions.open(tenant_id, acknowledged=acknowledged))
        self._watches.add(watch)
        metrics.WATCHERS.inc()
        return watch

    def apply(self, changes: list[Change]) -> None:
        """Tell changes that the replica has applied."""
        for change in changes:
            self._sessions.apply(change)
        self.wake()

    def begin_anew(self, revision: int) -> None:
        """Tell that changes up to ``revision`` were missed."""
        self._sessions.begin_anew(revision)
        self.wake()

    def wake(self) -> None:
        """Let every stream look for what it can tell: call it when the replica's lease was renewed."""
        for watch in self._watches:
            watch.look()

    def frontier(self) -> int:
        """The revision that the replica may acknowledge: every client with a lease has."""
        return self._sessions.frontier(self._clock())

    def seconds_to_next_end(self) -> float | None:
        """When a lease ends that the frontier waits for; None if it waits for none."""
        now = self._clock()
        ends_at = self._sessions.next_end(now)
        return None if ends_at is None else ends_at - now

    def seconds_to_last_end(self) -> float:
        """When the last lease ends; 0 or less if all have."""
        return self._sessions.last_end() - self._clock()

    def acknowledge(self, session: Session, revision: int) -> None:
        """The client has applied every change up to ``revision``."""
        waited_for = not session.has_acknowledged_all
        self._sessions.acknowledge(session, revision)
        if waited_for:
            self._moved()

    def take(self, session: Session) -> News | None:
        """What to tell the client now."""
        now = self._clock()
        return session.take(
            now=now,
            lease_seconds=self._lease.left(now),
            revision=self._sessions.revision,
            at_most=CHANGES_PER_MESSAGE,
        )

    def close(self, watch: "Watch", session: Session) -> None:
        """The stream is over."""
        self._watches.discard(watch)
        metrics.WATCHERS.dec()
        self._sessions.close(session, now=self._clock())
        self._moved()


class Watch:
    """One client's stream of changes and leases."""

    def __init__(self, watchers: Watchers, session: Session) -> None:
        self._watchers = watchers
        self._session = session
        self._wake = asyncio.Event()
        self._wake.set()

    def look(self) -> None:
        """Wake whoever waits in ``changed`` if there is anything to take."""
        if self._session.has_news or self._session.waits_for_lease:
            self.wake()

    def wake(self) -> None:
        """Wake whoever waits in ``changed``."""
        self._wake.set()

    async def changed(self) -> None:
        """Wait until there may be something to take, or another end to the waiting."""
        await self._wake.wait()
        self._wake.clear()

    @property
    def waits_for_lease(self) -> bool:
        """Whether a lease can be given, which only a caller may have who still may call."""
        return self._session.waits_for_lease

    def heard(self, *, acknowledged: int, renewal: int) -> None:
        """The client has applied every change up to ``acknowledged``; it asks for the lease if ``renewal`` is not 0."""
        self._watchers.acknowledge(self._session, acknowledged)
        if renewal:
            self._session.ask(renewal)
        self.look()

    def take(self) -> News | None:
        """What to tell now; None if nothing. It counts as told."""
        return self._watchers.take(self._session)

    def close(self) -> None:
        """The stream is over; the lease that was given holds until its end."""
        self._watchers.close(self, self._session)
