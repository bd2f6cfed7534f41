"""The counters in Redis, asked many charges at a time, and left alone while Redis is away."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from tollkeeper_server.core.errors import ResourceExhausted, Unavailable
from tollkeeper_server.core.rate_window import RateDemand
from tollkeeper_server.quota import metrics
from tollkeeper_server.quota.breaker import Breaker
from tollkeeper_server.quota.charge_store import ChargeStore
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, Grant, RateScope, home
from tollkeeper_server.quota.spends import Spends
from tollkeeper_server.storage.batcher import Batcher
from tollkeeper_server.storage.redis import ScriptLost

TIMEOUT_SECONDS = 0.1
PROBE_INTERVAL_SECONDS = 0.2
PROBE_TIMEOUT_SECONDS = 0.5
BATCH_MAX = 128
LINGER_SECONDS = 0.002

_PROBE_DEMAND = RateDemand(amount=1, window_us=1_000_000, units=1, shadow=True)


class _Asked(NamedTuple):
    charge: Charge
    at: float
    """By ``time.monotonic``."""


class StoreClock:
    """What the store's clock says, as far as its last answer tells. The clock of this machine does not matter."""

    def __init__(self) -> None:
        self._ahead_us = time.time_ns() // 1000 - _monotonic_us()

    def now_us(self) -> int:
        """Microseconds since 1970."""
        return _monotonic_us() + self._ahead_us

    def saw(self, now_us: int) -> None:
        """The store has just said that it is ``now_us``."""
        self._ahead_us = now_us - _monotonic_us()


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000


class Counters:
    """Charges limits in Redis, many at a time in one call.

    Once Redis fails to answer within ``timeout_seconds``, nothing is asked of it until it is back. ``restore`` makes it
    fit for use again; it is called while Redis is away, and raises Unavailable as long as that is in vain.
    """

    def __init__(
        self,
        store: ChargeStore,
        *,
        spends: Spends,
        restore: Callable[[], Awaitable[None]],
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._store = store
        self._spends = spends
        self._restore = restore
        self._timeout_seconds = timeout_seconds
        self._batcher: Batcher[_Asked, ChargeAnswer | Unavailable] = Batcher(
            self._flush, batch_max=BATCH_MAX, linger_seconds=LINGER_SECONDS
        )
        self._breaker = Breaker(self._probe, interval_seconds=PROBE_INTERVAL_SECONDS)
        self._suspect = ""
        """Where Redis failed: in a cluster, that tells the node to probe."""
        self.clock = StoreClock()

    @property
    def are_away(self) -> bool:
        """Whether nothing is asked of Redis."""
        return self._breaker.is_open

    async def charge(self, charge: Charge) -> ChargeAnswer | None:
        """Make the charge, and give the answer; None if Redis gave none, in which case it may have been made."""
        asked = self.ask(charge)
        answer = None if asked is None else await asked
        return answer if isinstance(answer, ChargeAnswer) else None

    def ask(self, charge: Charge) -> "asyncio.Future[ChargeAnswer | Unavailable] | None":
        """As ``charge``, for whoever waits without a coroutine in between; None if nothing is asked of Redis."""
        if self._breaker.is_open or (charge.pools and not self._spends.are_open):
            return None
        try:
            return self._batcher.put(_Asked(charge, time.monotonic()))
        except ResourceExhausted:  # more charges wait than Redis keeps up with
            return None

    async def grant(self, grants: Sequence[Grant]) -> None:
        """Hand blocks to their pools. Where Redis does not answer they are void."""
        try:
            await self._store.grant(grants, timeout_seconds=self._timeout_seconds)
        except Unavailable as fault:
            self.lose(fault, at=grants[0].name)

    async def look_again(self) -> None:
        """If Redis is away, look at once whether it is back."""
        await self._breaker.look_again()

    def lose(self, fault: Unavailable, *, at: str) -> None:
        """Leave Redis alone until it can be used again, because of ``fault``."""
        self._suspect = at
        self._breaker.trip(fault)

    async def close(self) -> None:
        """Finish what was asked, and take no more."""
        await self._batcher.close()
        await self._breaker.close()

    async def _flush(self, asked: Sequence[_Asked]) -> Sequence[ChargeAnswer | Unavailable]:
        if self._breaker.is_open:  # since these were asked
            return [Unavailable("Redis is away", reason="REDIS_UNAVAILABLE")] * len(asked)
        started = time.monotonic()
        # Those that waited for the batch before have less time left, but never too little for a healthy Redis.
        timeout_seconds = max(asked[0].at + self._timeout_seconds - started, self._timeout_seconds / 5)
        charges = [charge for charge, _ in asked]
        told = await self._store.charge_together(charges, timeout_seconds=timeout_seconds)
        metrics.CHARGE_BATCH_SIZE.observe(len(asked))
        metrics.CHARGE_BATCH_SECONDS.observe(time.monotonic() - started)
        answers: dict[int, ChargeAnswer | Unavailable] = {}
        for positions, answer in told:
            judged = self._judged([charges[position] for position in positions], answer)
            answers.update(dict.fromkeys(positions, judged))
        return [answers[position] for position in range(len(asked))]

    def _judged(self, charges: Sequence[Charge], answer: ChargeAnswer | Unavailable) -> ChargeAnswer | Unavailable:
        """The answer, counted here and not by its callers, who may have left."""
        if isinstance(answer, Unavailable):
            self.lose(answer, at=home(charges[0]))
            if not isinstance(answer, ScriptLost):
                self._spends.doubt(*charges)
            return answer
        self.clock.saw(answer.now_us)
        if not self._spends.accept(charges[0], answer, *charges[1:]):
            return Unavailable("this server may not spend from pools now", reason="REDIS_UNAVAILABLE")
        return answer

    async def _probe(self) -> None:
        """Charge something that expires by itself, next to what failed; so it is known that writing works as well."""
        scope = RateScope(f"{self._suspect}:probe", ("probe",), (_PROBE_DEMAND,))
        (answer,) = await self._store.charge([Charge((scope,), consume=True)], timeout_seconds=PROBE_TIMEOUT_SECONDS)
        if isinstance(answer, Unavailable):
            raise answer
        await self._restore()
