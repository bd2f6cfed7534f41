"""The breaker: keeps requests from waiting for a store that does not answer."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import structlog

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.quota import metrics

_log = structlog.get_logger()


class Breaker:
    """Opens when Redis fails one request, and closes when it answers a probe.

    Probes run in the background, one ``interval_seconds`` after the other failed, so no request ever waits to find
    out. ``probe`` raises Unavailable as long as Redis does not serve.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]], *, interval_seconds: float) -> None:
        self._probe = probe
        self._hurry = asyncio.Event()
        self._looked = asyncio.Event()
        self._interval_seconds = interval_seconds
        self._probing: asyncio.Task[None] | None = None
        metrics.REDIS_UP.set(1)

    @property
    def is_open(self) -> bool:
        """Whether Redis is to be left alone."""
        return self._probing is not None

    def trip(self, fault: Unavailable) -> None:
        """Open, because of ``fault``."""
        if self._probing is None:
            metrics.REDIS_UP.set(0)
            metrics.REDIS_OUTAGES.inc()
            cause = fault.__cause__ or fault
            _log.error("redis_lost", error=str(cause) or type(cause).__name__)
            self._probing = asyncio.create_task(self._probe_until_back())

    async def close(self) -> None:
        """Stop probing."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
            self._end_round()

    async def look_again(self) -> None:
        """If open, probe at once, and return when that is done."""
        if self._probing is not None:
            self._hurry.set()
            await self._looked.wait()

    async def _probe_until_back(self) -> None:
        lost_at = time.monotonic()
        while not await self._is_back():
            self._end_round()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._interval_seconds)
            self._hurry.clear()
        self._probing = None
        metrics.REDIS_UP.set(1)
        _log.info("redis_back", outage_seconds=round(time.monotonic() - lost_at, 3))
        self._end_round()

    def _end_round(self) -> None:
        """Let those go who waited for the probe."""
        self._looked.set()
        self._looked = asyncio.Event()

    async def _is_back(self) -> bool:
        try:
            await self._probe()
        except Unavailable:
            return False
        except Exception:  # a fault of ours: it must not keep the breaker open for good unseen
            _log.exception("redis_probe_failed")
            return False
        return True
