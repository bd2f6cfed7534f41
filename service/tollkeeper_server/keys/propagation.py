"""Propagation: a mutation returns once no cache anywhere answers against it."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.keys.commands import Propagation
from tollkeeper_server.storage.postgres import Postgres

LEASE_SECONDS_MAX = 2.0
"""Longest lease that a replica takes."""
WAIT_SECONDS = LEASE_SECONDS_MAX + 0.2
"""Replicas wait for their clients' leases, which may end a hundredth later than theirs."""
POLL_SECONDS_MIN = 0.001
POLL_SECONDS_MAX = 0.05
POLL_GROWTH = 1.25
"""What takes long is asked for less often; the answer is found late by a quarter of the time that it took, at most."""

# Replicas whose lease ran out answer nothing from memory, so they count no more. The clock is the database's alone.
_FRONTIER = """
    SELECT coalesce(min(acknowledged), 9223372036854775807) AS acknowledged, max(lease_until) AS lease_until
    FROM replicas WHERE lease_until > clock_timestamp()
"""


class Confirmations:
    """Waits until every replica acknowledged a revision, or its lease ran out.

    One poll serves all mutations that wait when it starts. While nobody waits nothing is polled.
    """

    def __init__(self, postgres: Postgres, *, clock: Callable[[], datetime]) -> None:
        self._postgres = postgres
        self._clock = clock
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._lease_until: datetime | None = None
        self._poller: asyncio.Task[None] | None = None

    async def wait(self, revision: int) -> tuple[Propagation, datetime]:
        """EVERYWHERE and now, or PENDING and the moment from which on it is certain; call it after the commit."""
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[confirmed] = revision
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await confirmed
        except TimeoutError:
            certain = self._clock() + timedelta(seconds=LEASE_SECONDS_MAX)
            return Propagation.PENDING, max(self._lease_until or certain, certain)
        finally:
            del self._waiting[confirmed]
        return Propagation.EVERYWHERE, self._clock()

    async def close(self) -> None:
        """Stop polling; who still waits is told PENDING in time."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def _poll(self) -> None:
        pause = POLL_SECONDS_MIN
        while self._waiting:
            asked = dict(self._waiting)  # a frontier tells nothing about a change that is committed later
            try:
                acknowledged = await self._frontier()
            except Unavailable:
                acknowledged = -1
            confirmed = [waiter for waiter, revision in asked.items() if revision <= acknowledged]
            for waiter in confirmed:
                if not waiter.done():
                    waiter.set_result(None)
            pause = POLL_SECONDS_MIN if confirmed else min(POLL_GROWTH * pause, POLL_SECONDS_MAX)
            await asyncio.sleep(pause)

    async def _frontier(self) -> int:
        async with self._postgres.connection(timeout_seconds=1.0) as connection:
            row = await connection.fetchrow(_FRONTIER)
        assert row is not None, "an aggregate has one row"
        self._lease_until = row["lease_until"]
        frontier: int = row["acknowledged"]
        return frontier
