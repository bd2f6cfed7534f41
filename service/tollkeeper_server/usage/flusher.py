"""Flushing: what was counted in memory goes to Postgres every few seconds, and when the server stops."""

import asyncio
from collections import deque
from datetime import date, datetime
from time import perf_counter
from uuid import uuid4

import structlog

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.usage import metrics
from tollkeeper_server.usage.batch import Batch
from tollkeeper_server.usage.recorder import KeyMinute, Network, UsageRecorder
from tollkeeper_server.usage.store import add_counters, note_ended, note_networks, note_uses

FLUSH_SECONDS = 1.0
FLUSH_SHARE = 0.2
"""Most of the time that flushing takes: where there is much to store, it is stored less often."""
BATCH_KEY_MINUTES = 250
"""What fits into one transaction without holding up the event loop, or others' rows."""
TOLD_MAX = 100_000

_log = structlog.get_logger()


class UsageFlusher:
    """Stores what a recorder counts, each batch exactly once.

    While Postgres does not answer, the batch that it may or may not have taken is sent again as it was, and all that
    comes after it waits in the recorder, which is bounded.
    """

    def __init__(self, recorder: UsageRecorder, *, postgres: Postgres) -> None:
        self._recorder = recorder
        self._postgres = postgres
        self._server_id = str(uuid4())
        self._waiting: deque[KeyMinute] = deque()
        self._batch: Batch | None = None
        self._batches = 0
        self._late_uses: dict[bytes, datetime] = {}
        self._told: set[tuple[str, Network]] = set()
        self._told_on: date | None = None

    async def run(self) -> None:
        """Flush every second, or less often if that takes long, until cancelled; ``close`` flushes the rest."""
        took_seconds = 0.0
        while True:
            await asyncio.sleep(max(FLUSH_SECONDS, took_seconds / FLUSH_SHARE))
            started = perf_counter()
            await self.flush()
            took_seconds = perf_counter() - started

    async def close(self) -> None:
        """Flush for a last time; what Postgres does not take now is lost, and the log says so."""
        if not await self.flush():
            _log.error("usage_lost", key_minutes=len(self._waiting) + len(self._recorder))

    async def flush(self) -> bool:
        """Store all that was counted before; False if some is left because Postgres does not answer."""
        try:
            if not await self._store_waiting():  # what an outage left comes first
                return False
            self._waiting.extend(self._recorder.take())
            return await self._store_waiting()
        finally:
            metrics.USAGE_WAITING.set(len(self._waiting) + len(self._recorder))

    async def _store_waiting(self) -> bool:
        while (batch := self._next()) is not None:
            started = perf_counter()
            try:
                await self._store(batch)
            except Unavailable:
                metrics.USAGE_BATCHES_FAILED.inc()
                return False
            except Exception:  # a fault of ours: the next batches are not to wait for it for good
                _log.exception("usage_batch_refused", counters=len(batch.counters))
                metrics.USAGE_LOST.inc(len(batch.counters))
            finally:
                metrics.USAGE_BATCH_SECONDS.observe(perf_counter() - started)
            self._batch = None
        return True

    def _next(self) -> Batch | None:
        if self._batch is None and self._waiting:
            size = min(BATCH_KEY_MINUTES, len(self._waiting))
            self._batches += 1
            self._batch = Batch.of([self._waiting.popleft() for _ in range(size)], number=self._batches)
        return self._batch

    async def _store(self, batch: Batch) -> None:
        async with self._postgres.connection() as connection:
            if batch.counters:
                await add_counters(connection, batch.counters, server_id=self._server_id, number=batch.number)
            uses = self._late_uses | batch.uses
            if uses:
                late = await note_uses(connection, uses)
                self._late_uses = {digest: at for digest, at in uses.items() if digest in late}
            if networks := self._untold(batch):
                await note_networks(connection, networks)
                self._told.update(networks)
            if batch.ended:
                await note_ended(connection, batch.ended)

    def _untold(self, batch: Batch) -> dict[tuple[str, Network], datetime]:
        """Networks that were not stored today: most are the same all day long."""
        today = max(batch.networks.values()).date() if batch.networks else self._told_on
        if today != self._told_on or len(self._told) > TOLD_MAX:
            self._told.clear()
            self._told_on = today
        return {told: at for told, at in batch.networks.items() if told not in self._told}
