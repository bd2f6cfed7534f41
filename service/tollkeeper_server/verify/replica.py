"""This process as a replica: it holds the lease to answer from memory, and follows the changes that bind it to.

The order makes the promise. The lease is committed first and the changes are read after that, so whoever commits a
change later finds the lease and waits for its acknowledgement; whatever was committed earlier is in what is read.
Only once that is applied does the lease hold here, counted from when it was asked for. Clients of this process hold
leases below it, see ``core.sessions``: a change is acknowledged once those who hold one have acknowledged it.
"""

import asyncio
import contextlib
from collections.abc import Callable
from uuid import uuid4

import asyncpg
import structlog

from tollkeeper_server.core.cache import RecordCache
from tollkeeper_server.core.lease import Lease
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage.boottime import boottime
from tollkeeper_server.storage.changes import CHANNEL, has_imports, read_changes, read_revision
from tollkeeper_server.storage.postgres import connect
from tollkeeper_server.verify.watchers import Watchers

LEASE_SECONDS = 2.0
RENEW_SECONDS = 0.5
TIMEOUT_SECONDS = 1.5
RECONNECT_SECONDS = 0.1
CHANGES_MAX = 1_000

_RENEW = """
INSERT INTO replicas (replica_id, lease_until, acknowledged)
VALUES ($1, clock_timestamp() + $2 * interval '1 second', $3)
ON CONFLICT (replica_id) DO UPDATE SET lease_until = excluded.lease_until
"""
_ACKNOWLEDGE = "UPDATE replicas SET acknowledged = $2 WHERE replica_id = $1"
_LEAVE = "DELETE FROM replicas WHERE replica_id = $1"
_STAY_FOR = """
UPDATE replicas SET lease_until = least(lease_until, clock_timestamp() + $2 * interval '1 second')
WHERE replica_id = $1
"""
_FORGET_THE_DEAD = "DELETE FROM replicas WHERE lease_until < clock_timestamp() - interval '1 hour'"

_log = structlog.get_logger()


class Replica:
    """Keeps ``cache`` honest: applies every change, and says by ``may_answer`` whether memory can be trusted.

    ``revision`` is the last change applied; answers from memory reflect it. ``knows_imports`` says whether any key was
    imported up to there, so that API keys of any shape have to be looked for. ``watchers`` are the clients that follow
    the changes through this process.
    """

    def __init__(self, url: str, *, cache: RecordCache[SecretRecord], clock: Callable[[], float] = boottime) -> None:
        self._url = url
        self._cache = cache
        self._clock = clock
        self._id = str(uuid4())
        self._lease = Lease()
        self._wake = asyncio.Event()
        self._is_behind = False
        self._acknowledged = -1
        self.revision = -1
        self.knows_imports = True
        self.watchers = Watchers(lease=self._lease, clock=clock, moved=self._wake.set)

    def may_answer(self) -> bool:
        """Whether an answer from memory is permitted now; ask after the question has arrived."""
        return self._lease.holds(self._clock())

    async def run(self) -> None:
        """Follow until cancelled. While Postgres is away the lease runs out by itself, and memory is not used."""
        while True:
            try:
                await self._follow()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, StartupError) as error:
                _log.warning("replica_disconnected", error_type=type(error).__name__)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def leave(self) -> None:
        """Give the lease up, so that no mutation waits for this process; call it after ``run`` has ended.

        Clients to which it was passed on may answer until theirs have ended, and so long mutations still wait.
        """
        self._lease.end()
        seconds = self.watchers.seconds_to_last_end()
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, StartupError):
            connection = await connect(self._url)
            if seconds > 0:
                await connection.execute(_STAY_FOR, self._id, seconds, timeout=TIMEOUT_SECONDS)
            else:
                await connection.execute(_LEAVE, self._id, timeout=TIMEOUT_SECONDS)
            await connection.close(timeout=TIMEOUT_SECONDS)

    async def _follow(self) -> None:
        connection = await connect(self._url)
        try:
            await connection.add_listener(CHANNEL, lambda *_: self._announced())
            await connection.execute(_FORGET_THE_DEAD, timeout=TIMEOUT_SECONDS)
            while True:
                await self._renew(connection)
                await self._until_renewal(connection)
        finally:
            connection.terminate()

    def _announced(self) -> None:
        self._is_behind = True
        self._wake.set()

    async def _renew(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        sent_at = self._clock()
        if self.revision < 0:
            await self._start_at(await read_revision(connection, timeout=TIMEOUT_SECONDS), connection)
        confirmed = self.watchers.frontier()
        await connection.execute(_RENEW, self._id, LEASE_SECONDS, confirmed, timeout=TIMEOUT_SECONDS)
        await self._catch_up(connection)
        self._lease.renew(sent_at=sent_at, seconds=LEASE_SECONDS)
        self.watchers.wake()
        await self._acknowledge(connection)

    async def _until_renewal(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Apply and acknowledge changes as they are announced, until the lease is due for renewal."""
        due = asyncio.get_running_loop().time() + RENEW_SECONDS
        while (seconds := due - asyncio.get_running_loop().time()) > 0:
            awaited_end = self.watchers.seconds_to_next_end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds if awaited_end is None else min(seconds, awaited_end)):
                    await self._wake.wait()
            self._wake.clear()
            if self._is_behind:
                await self._catch_up(connection)
            await self._acknowledge(connection)

    async def _catch_up(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Apply every change that is committed by now."""
        self._is_behind = False
        while changes := await read_changes(
            connection, after=self.revision, limit=CHANGES_MAX, timeout=TIMEOUT_SECONDS
        ):
            if changes[0].revision != self.revision + 1:  # older ones were cleaned up while this process was away
                await self._start_at(changes[0].revision - 1, connection)
            for change in changes:
                self._cache.change(change.subject, revision=change.revision)
                self.knows_imports |= change.imports
                if change.adds_secret:
                    self._cache.secret_added(revision=change.revision)
            self.revision = changes[-1].revision
            self.watchers.apply(changes)

    async def _acknowledge(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Acknowledge what this process and its clients no longer answer against. It does not wait for clients."""
        confirmed = self.watchers.frontier()
        if confirmed > self._acknowledged:
            await connection.execute(_ACKNOWLEDGE, self._id, confirmed, timeout=TIMEOUT_SECONDS)
            self._acknowledged = confirmed

    async def _start_at(self, revision: int, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.knows_imports = await has_imports(connection, timeout=TIMEOUT_SECONDS)
        self._cache.clear(revision=revision)
        self.revision = revision
        self.watchers.begin_anew(revision)
