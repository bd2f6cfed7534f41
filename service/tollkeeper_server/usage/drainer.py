"""Draining: what charges counted in Redis goes to Postgres, exactly once; see ``usage.hashes`` for why that is so."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import structlog

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.storage.redis import Redis, Script
from tollkeeper_server.usage import metrics
from tollkeeper_server.usage.hashes import PATTERN, UsageHash
from tollkeeper_server.usage.store import raise_amounts

DRAIN_SECONDS = 1.0
DRAIN_SHARE = 0.2
"""Most of the time that draining takes: where there is much to store, it is stored less often."""
LOOK_SECONDS = 300.0
"""How often some server looks for usage that a killed one has left, and how long it may stay unseen."""
LOOK_AT_START_SECONDS = 5.0
"""A server that starts looks as well, unless another one has just done so."""
HASHES_MAX = 250
"""What is read at once and fits into one transaction."""
KNOWN_MAX = 100_000
"""Most hashes that are remembered to be drained; others are found when someone looks."""
TIMEOUT_SECONDS = 2.0

_MINUTE_US = 60_000_000
_OVER_AFTER_US = 1_000_000

# A hash that was counted in since it was read stays: each is deleted as it was read and stored, or not at all.
_DELETE = Script("""
    for i = 1, #KEYS do
      if table.concat(redis.call('HGETALL', KEYS[i]), '\\0') == ARGV[i] then
        redis.call('DEL', KEYS[i])
      end
    end
""")
_CLAIM = """
    UPDATE usage_looks SET looked_at = clock_timestamp()
    WHERE looked_at < clock_timestamp() - $1 * interval '1 second' RETURNING true
"""

_log = structlog.get_logger()


class UsageDrainer:
    """Stores what is in the hashes that are in ``touched``, and what nobody else comes for.

    ``touched`` gets the names of all hashes that this server has let charges count in. ``clock_us`` is the clock by
    which they are named.
    """

    def __init__(self, redis: Redis, postgres: Postgres, *, touched: set[str], clock_us: Callable[[], int]) -> None:
        self._redis = redis
        self._postgres = postgres
        self._touched = touched
        self._clock_us = clock_us
        self._begun: set[str] = set()
        """Stored at least once, and deleted when their minute is over."""

    async def run(self) -> None:
        """Drain until cancelled; ``drain`` then drains what is left."""
        look_after_seconds = LOOK_AT_START_SECONDS
        while True:
            started = perf_counter()
            try:
                await self.drain()
                if await self.look(not_within_seconds=look_after_seconds):
                    look_after_seconds = LOOK_SECONDS
            except Exception:  # a fault of ours must not end it unseen
                _log.exception("usage_drain_failed")
            await asyncio.sleep(max(DRAIN_SECONDS, (perf_counter() - started) / DRAIN_SHARE))

    async def drain(self) -> bool:
        """Store what was counted in touched hashes; False if some is left because a store does not answer."""
        due = list(self._touched | {name for name in self._begun if self._is_over(name)})
        self._touched.clear()
        self._begun.difference_update(due)
        try:
            while due and await self._drained(due[:HASHES_MAX]):
                due = due[HASHES_MAX:]
        finally:  # also when it is cancelled
            self._remember(self._touched, due)
        return not due

    async def look(self, *, not_within_seconds: float) -> bool:
        """Drain whatever usage Redis has, unless someone has looked within that time; False if it was in vain."""
        try:
            async with self._postgres.connection(timeout_seconds=TIMEOUT_SECONDS) as connection:
                if not await connection.fetchval(_CLAIM, not_within_seconds):
                    return True
            found: list[str] = []
            async for name in self._redis.find_hashes(PATTERN, timeout_seconds=TIMEOUT_SECONDS):
                if UsageHash.names(name):
                    found.append(name)
                if len(found) == HASHES_MAX:
                    if not await self._drained(found):
                        return False
                    found = []
            return await self._drained(found)
        except Unavailable:
            return False

    async def _drained(self, names: Sequence[str]) -> bool:
        """Store what is in these hashes, and delete those whose minute is over."""
        if not names:
            return True
        try:
            contents = await self._redis.hashes(names, timeout_seconds=TIMEOUT_SECONDS)
            full = {name: fields for name, fields in zip(names, contents, strict=True) if fields}
            await self._store(full)
            over = {name: fields for name, fields in full.items() if self._is_over(name)}
            self._remember(self._begun, [name for name in full if name not in over])
            await self._delete(over)
        except Unavailable:
            metrics.USAGE_BATCHES_FAILED.inc()
            return False
        except Exception:  # a fault of ours: the others are not to wait for it; these stay in Redis for a day
            _log.exception("usage_hashes_refused", hashes=len(names))
        return True

    async def _store(self, hashes: Mapping[str, Mapping[bytes, bytes]]) -> None:
        reached = dict(each for name, fields in hashes.items() for each in UsageHash.of(name).reached(fields))
        if reached:
            async with self._postgres.connection(timeout_seconds=TIMEOUT_SECONDS) as connection:
                await raise_amounts(connection, reached)

    async def _delete(self, hashes: Mapping[str, Mapping[bytes, bytes]]) -> None:
        by_slot: dict[int, list[str]] = {}
        for name in hashes:
            by_slot.setdefault(self._redis.slot(name), []).append(name)
        for together in by_slot.values():
            was_read = [b"\0".join(part for item in hashes[name].items() for part in item) for name in together]
            await self._redis.run(_DELETE, keys=together, arguments=was_read, timeout_seconds=TIMEOUT_SECONDS)
        self._remember(self._begun, list(hashes))

    def _is_over(self, name: str) -> bool:
        """Whether nothing is counted there any more, unless it was on its way for a second."""
        return self._clock_us() > (UsageHash.of(name).minute + 1) * _MINUTE_US + _OVER_AFTER_US

    @staticmethod
    def _remember(known: set[str], names: Sequence[str]) -> None:
        known.update(names[: max(0, KNOWN_MAX - len(known))])
