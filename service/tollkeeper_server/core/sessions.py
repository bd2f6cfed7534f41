"""Sessions: clients of this server that answer from memory, under leases of their own below the server's.

The invariant: the server acknowledges a revision in the store only if every session has acknowledged it, or its lease
has run out. So whoever changes a key needs to know the servers alone, and a new lease is always safe: what it does not
know of yet is not acknowledged either. Three rules keep the wait short and the promise whole:

* A lease never outlasts the server's own, so a server that dies takes its clients' leases with it.
* A renewal is granted once everything is acknowledged that had been told when it was asked for. A client that stopped
  gets none, and delays a change by no more than the lease that it has.
* A session whose stream broke holds on until its lease is over; whoever leaves says so, and holds nothing.

Times are seconds of ``CLOCK_BOOTTIME``; the server counts a lease from when it granted it, see ``core.lease``.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tollkeeper_server.core.changes import Change
from tollkeeper_server.core.lease import DRIFT

FAREWELL = 2**63 - 1
"""Acknowledged by a client that gives no kept answer any more: it holds no lease."""

NEVER = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a session is told at once: first to begin anew, then the changes, then the lease."""

    reset: bool
    changes: Sequence[Change]
    revision: int
    """Every change up to here is told."""
    renewal: int = 0
    """The renewal that is granted; 0 if none is."""
    lease_seconds: float = 0.0


class Session:
    """What one client was told, what it acknowledged, and until when it may answer alone."""

    __slots__ = (
        "_needed",
        "_owed",
        "_pending",
        "_renewal",
        "_reset",
        "acknowledged",
        "is_open",
        "lease_until",
        "tenant",
    )

    def __init__(self, tenant: str | None) -> None:
        self.tenant = tenant
        """Told of this tenant's changes only; None is told of all."""
        self.is_open = True
        self.acknowledged = -1
        self.lease_until = NEVER
        self._owed = -1
        self._pending: deque[Change] = deque()
        self._reset = False
        self._renewal = 0
        self._needed = -1

    @property
    def has_acknowledged_all(self) -> bool:
        """Whether nothing that concerns it is unacknowledged."""
        return self.acknowledged >= self._owed

    @property
    def waits_for_lease(self) -> bool:
        """Whether a renewal can be granted, as far as the session goes."""
        return self._renewal > 0 and self.acknowledged >= self._needed

    @property
    def has_news(self) -> bool:
        """Whether there is anything to tell but a lease."""
        return self._reset or bool(self._pending)

    def begin_anew(self, revision: int) -> None:
        """What it keeps no longer counts."""
        self._pending.clear()
        self._reset = True
        self._owed = revision

    def tell(self, change: Change, *, pending_max: int) -> None:
        """A change that concerns it; a client that does not listen is only remembered as one that begins anew."""
        self._owed = change.revision
        if not change.tenant_id or len(self._pending) >= pending_max:
            self.begin_anew(change.revision)
        else:
            self._pending.append(change)

    def ask(self, renewal: int) -> None:
        """Want a lease; the last request counts. Who said farewell gets none."""
        if self.acknowledged != FAREWELL:
            self._renewal, self._needed = renewal, self._owed

    def give_up(self) -> None:
        """The client said farewell."""
        self.acknowledged = FAREWELL
        self.lease_until = NEVER
        self._renewal = 0

    def take(self, *, now: float, lease_seconds: float, revision: int, at_most: int) -> News | None:
        """What to tell now, with a lease if one is due; None if nothing. What it gives counts as told."""
        changes = [self._pending.popleft() for _ in range(min(at_most, len(self._pending)))]
        if self._pending:  # the lease comes after the last of them
            news = News(reset=self._reset, changes=changes, revision=changes[-1].revision)
        elif self.waits_for_lease and lease_seconds > 0:
            # Clocks may run at different speeds: this end is the later one.
            self.lease_until = max(self.lease_until, now + lease_seconds * (1 + DRIFT))
            news = News(
                reset=self._reset,
                changes=changes,
                revision=revision,
                renewal=self._renewal,
                lease_seconds=lease_seconds,
            )
            self._renewal = 0
        elif changes or self._reset:
            news = News(reset=self._reset, changes=changes, revision=revision)
        else:
            return None
        self._reset = False
        return news


class Sessions:
    """All sessions of a server, and the changes that it applied last, for clients that come back.

    ``revision`` is the last change applied. Bounded in changes that are remembered for all (``recent_max``) and in
    those that wait for one session (``pending_max``).
    """

    def __init__(self, *, recent_max: int, pending_max: int) -> None:
        self._recent: deque[Change] = deque(maxlen=recent_max)
        self._pending_max = pending_max
        self._sessions: set[Session] = set()
        self.revision = -1

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, tenant: str | None, *, acknowledged: int) -> Session:
        """A new session of a client that has applied every change up to ``acknowledged``; 0 if it knows nothing.

        Where not all that it missed is remembered, or it knows more than this server, it begins anew.
        """
        session = Session(tenant)
        oldest = self._recent[0].revision if self._recent else self.revision + 1
        if acknowledged > 0 and oldest - 1 <= acknowledged <= self.revision:
            session.acknowledged = acknowledged
            for change in self._recent:
                if change.revision > acknowledged:
                    self._tell(session, change)
        else:
            session.begin_anew(self.revision)
        self._sessions.add(session)
        return session

    def close(self, session: Session, *, now: float) -> None:
        """Its stream is over; it holds on until its lease ends."""
        session.is_open = False
        self._forget(now)

    def apply(self, change: Change) -> None:
        """Tell a change that this server has applied to its own memory."""
        self.revision = change.revision
        self._recent.append(change)
        for session in self._sessions:
            self._tell(session, change)

    def begin_anew(self, revision: int) -> None:
        """This server has missed changes up to ``revision``: everyone begins anew."""
        self.revision = revision
        self._recent.clear()
        for session in self._sessions:
            session.begin_anew(revision)

    def acknowledge(self, session: Session, revision: int) -> None:
        """The client has applied every change up to ``revision``. What it was not told cannot be meant."""
        if revision == FAREWELL:
            session.give_up()
        elif revision <= self.revision:
            session.acknowledged = max(session.acknowledged, revision)

    def frontier(self, now: float) -> int:
        """The revision that every session has acknowledged whose lease has not run out."""
        self._forget(now)
        return min(
            (
                session.acknowledged
                for session in self._sessions
                if session.lease_until > now and not session.has_acknowledged_all
            ),
            default=self.revision,
        )

    def next_end(self, now: float) -> float | None:
        """When the next lease ends that keeps the frontier back; None if none does."""
        ends = (
            session.lease_until
            for session in self._sessions
            if session.lease_until > now and not session.has_acknowledged_all
        )
        return min(ends, default=None)

    def last_end(self) -> float:
        """When the last lease ends."""
        return max((session.lease_until for session in self._sessions), default=NEVER)

    def _tell(self, session: Session, change: Change) -> None:
        if session.tenant in (None, change.tenant_id) or not change.tenant_id:
            session.tell(change, pending_max=self._pending_max)
        elif session.has_acknowledged_all:
            session.acknowledged = max(session.acknowledged, change.revision)  # it has nothing to say to it

    def _forget(self, now: float) -> None:
        self._sessions -= {each for each in self._sessions if not each.is_open and each.lease_until <= now}
