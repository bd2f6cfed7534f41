"""RATE limits: exact while Redis answers, by this server's share of them while it does not."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tollkeeper_server.core.errors import ResourceExhausted, Unavailable
from tollkeeper_server.core.rate_window import RateDemand, RateOutcome
from tollkeeper_server.quota import metrics
from tollkeeper_server.quota.breaker import Breaker
from tollkeeper_server.quota.rate_shares import RateShares
from tollkeeper_server.quota.rate_store import RateCharge, RateScope, RateStore
from tollkeeper_server.storage.batcher import Batcher

TIMEOUT_SECONDS = 0.1
PROBE_INTERVAL_SECONDS = 0.2
PROBE_TIMEOUT_SECONDS = 0.5
BATCH_MAX = 128

_PROBE_DEMAND = RateDemand(amount=1, window_us=1_000_000, units=1, shadow=True)


class _Asked(NamedTuple):
    charge: RateCharge
    at: float
    """By the loop's clock."""


class Rates:
    """Charges RATE limits, many at a time in one call of Redis.

    What Redis does not answer within ``timeout_seconds`` is decided by this server's share of the limit, as is every
    charge after it until Redis is back. Redis may have counted it as well: a charge is never sent twice.
    """

    def __init__(
        self,
        store: RateStore,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        live_replicas: Callable[[], int] = lambda: 1,
    ) -> None:
        self._store = store
        self._timeout_seconds = timeout_seconds
        self._shares = RateShares(live_replicas=live_replicas, clock_us=lambda: time.time_ns() // 1000)
        self._batcher: Batcher[_Asked, RateOutcome | Unavailable] = Batcher(self._flush, batch_max=BATCH_MAX)
        self._breaker = Breaker(self._probe, interval_seconds=PROBE_INTERVAL_SECONDS)
        self._suspect = ""
        """Where Redis failed: in a cluster, that tells the node to probe."""

    async def charge(self, charge: RateCharge) -> tuple[RateOutcome, bool]:
        """Make the charge; gives what came of it, and whether only this server's share of the limits was looked at."""
        if not self._breaker.is_open:
            outcome = await self._ask_redis(charge)
            if isinstance(outcome, RateOutcome):
                return outcome, False
        metrics.RATE_CHARGES_LOCAL.inc()
        return self._shares.charge(charge), True

    async def close(self) -> None:
        """Finish what was asked, and take no more."""
        await self._batcher.close()
        await self._breaker.close()

    async def _ask_redis(self, charge: RateCharge) -> RateOutcome | Unavailable | None:
        try:
            return await self._batcher.submit(_Asked(charge, asyncio.get_running_loop().time()))
        except ResourceExhausted:  # more charges wait than Redis keeps up with
            return None

    async def _flush(self, asked: Sequence[_Asked]) -> Sequence[RateOutcome | Unavailable]:
        if self._breaker.is_open:  # since these were asked
            return [Unavailable("Redis is away", reason="REDIS_UNAVAILABLE")] * len(asked)
        loop = asyncio.get_running_loop()
        started = loop.time()
        # Those that waited for the batch before have less time left, but never too little for a healthy Redis.
        timeout_seconds = max(asked[0].at + self._timeout_seconds - started, self._timeout_seconds / 5)
        outcomes = await self._store.charge([charge for charge, _ in asked], timeout_seconds=timeout_seconds)
        metrics.RATE_BATCH_SIZE.observe(len(asked))
        metrics.RATE_BATCH_SECONDS.observe(loop.time() - started)
        for (charge, _), outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, Unavailable):
                self._suspect = charge.scopes[0].name
                self._breaker.trip(outcome)
                break
        return outcomes

    async def _probe(self) -> None:
        """Charge something that expires by itself, next to what failed; so it is known that writing works as well."""
        scope = RateScope(f"{self._suspect}:probe", ("probe",), (_PROBE_DEMAND,))
        (outcome,) = await self._store.charge(
            [RateCharge((scope,), consume=True)], timeout_seconds=PROBE_TIMEOUT_SECONDS
        )
        if isinstance(outcome, Unavailable):
            raise outcome
