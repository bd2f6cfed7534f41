"""Charging: what a request is about to use, counted against every limit of its key and its owner."""

import contextlib
import time
from collections.abc import Hashable, Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

from tollkeeper_server.core.bounded import Bounded
from tollkeeper_server.core.decision import DecisionCode, DegradationReason, Kept
from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.core.key import Key, Owner
from tollkeeper_server.quota.charges import ChargeAnswer, Verdict
from tollkeeper_server.quota.counters import Counters
from tollkeeper_server.quota.demands import ChargeOutcome, Demands
from tollkeeper_server.quota.direct import DirectCharges
from tollkeeper_server.quota.epochs import EpochPassed, Epochs
from tollkeeper_server.quota.refills import Refills
from tollkeeper_server.quota.reservations import Reservations
from tollkeeper_server.quota.settlements import Settlement

CONTENTION_SECONDS = 2.0
"""How long a charge tries to get what others take away before it."""

EPOCHS_MAX = 3
DEMANDS_MAX = 1024

UNLIMITED_USABLE_FOR = timedelta(seconds=60)
"""How long an answer that no limit counts may be kept."""

_NO_COUNTS: Mapping[str, int] = MappingProxyType({})
_NOTHING = ChargeOutcome(code=DecisionCode.ALLOWED, limits=(), retry_after=None)
_KEPT_UNLIMITED = replace(_NOTHING, kept=Kept(verifications=0, usable_for=UNLIMITED_USABLE_FOR))
_RATE_LOCAL = (DegradationReason.RATE_LOCAL,)
_LEDGER_DIRECT = (DegradationReason.LEDGER_DIRECT, DegradationReason.FIGURES_APPROXIMATE)


class Charger:
    """Charges all limits of a key and its owner, or none of them."""

    def __init__(
        self,
        *,
        counters: Counters,
        refills: Refills,
        direct: DirectCharges,
        reservations: Reservations,
        epochs: Epochs,
    ) -> None:
        self._counters = counters
        self._refills = refills
        self._direct = direct
        self._reservations = reservations
        self._epochs = epochs
        self._made = Bounded[Hashable, Demands](DEMANDS_MAX)

    async def charge(
        self,
        key: Key | None,
        *,
        owner: Owner | None = None,
        charges: Mapping[str, int],
        consume: bool,
        counts: Mapping[str, int] = _NO_COUNTS,
        request_id: str = "",
        reserve: bool = False,
        keep: int = 0,
    ) -> ChargeOutcome:
        """Charge amounts by unit; units without a limit, and amounts of 0, always fit.

        Without ``consume`` nothing is charged, and the code is what it would have been. Under one ``request_id`` a key
        is charged once, and further calls are given the first answer for 10 minutes; a denial is decided anew. If Redis
        does not answer, RATE limits are held by this server's share of them and the others in the ledger, and the
        answer says so. ``counts`` are added to the usage of the key, by decision code or unit, in the step that makes
        the charge; the outcome says whether they were. With ``reserve`` the charge is held until it is settled. With
        ``keep`` the answer may be given to so many verifications, or fewer, all of which are charged and held, and
        counted when the hold ends. Raises Unavailable if no store answers in time.
        """
        if not reserve and not (key is not None and key.limits) and not (owner is not None and owner.limits):
            return _KEPT_UNLIMITED if keep else _NOTHING
        demands = self._demands(key, owner, charges=charges, counts=counts, keep=keep if consume else 0)
        record = f"{key.key_id}/{request_id}" if key is not None and request_id else ""
        outcome = _NOTHING
        if demands.limits:
            found = await self._in_redis(demands, consume=consume, record=record)
            outcome = found or await self._without_redis(demands, consume=consume, record=record)
        if not consume or key is None or outcome.code is not DecisionCode.ALLOWED:
            return outcome
        if not reserve and outcome.kept is None:
            return outcome
        reservation_id = await self._reservations.hold(
            key,
            outcome.held,
            charges=charges,
            verifications=0 if outcome.kept is None else outcome.kept.verifications,
            request_id=request_id,
        )
        return replace(outcome, reservation_id=reservation_id)

    def _demands(
        self, key: Key | None, owner: Owner | None, *, charges: Mapping[str, int], counts: Mapping[str, int], keep: int
    ) -> Demands:
        """Made once for records as they are held in memory, for most requests charge the same."""
        place = id(key), id(owner), keep, *charges.items(), None, *counts.items()
        made = self._made.get(place)
        if made is not None and made.key is key and made.owner is owner:
            return made
        return self._made.put(place, Demands(key, owner, charges=dict(charges), counts=counts, keep=keep))

    async def settle(
        self, reservation_id: str, *, tenant_id: str | None, charges: Mapping[str, int], verifications: int = 1
    ) -> Settlement:
        """Charge amounts by unit instead of what a reservation holds; see ``Reservations.settle``."""
        return await self._reservations.settle(
            reservation_id, tenant_id=tenant_id, charges=charges, verifications=verifications
        )

    async def close(self) -> None:
        """Finish what was asked, and take no more."""
        await self._reservations.close()
        await self._refills.close()
        await self._counters.close()

    async def _in_redis(self, demands: Demands, *, consume: bool, record: str) -> ChargeOutcome | None:
        """The answer of Redis; None if it gave none."""
        deadline = 0.0
        while not deadline or time.monotonic() < deadline:
            charge = demands.charge(now_us=self._counters.clock.now_us(), consume=consume, record=record)
            asked = self._counters.ask(charge)
            answer = None if asked is None else await asked
            if not isinstance(answer, ChargeAnswer):
                return None
            if answer.verdict is not Verdict.LACKING and answer.verdict is not Verdict.MOVED:
                outcome = demands.told(charge, answer)
                return replace(outcome, kept=_kept(answer)) if answer.rates.times > 1 else outcome
            deadline = deadline or time.monotonic() + CONTENTION_SECONDS
            if answer.verdict is Verdict.LACKING:
                await self._refills.refill(charge, answer)
        raise Unavailable("others take the rest of the limit before this charge", reason="LIMIT_CONTENDED")

    async def _without_redis(self, demands: Demands, *, consume: bool, record: str) -> ChargeOutcome:
        if not demands.are_hard:
            charge = demands.charge(now_us=0, consume=consume)
            rates = self._direct.charge_rates(charge.scopes, consume=consume)
            return demands.outcome(rates, (), degradations=_RATE_LOCAL, counted=False)
        degradations = (_RATE_LOCAL if demands.have_rates else ()) + _LEDGER_DIRECT
        for _ in range(EPOCHS_MAX):
            with contextlib.suppress(EpochPassed):
                rates, levels = await self._direct.charge(demands, consume=consume, record=record)
                return demands.outcome(rates, levels, degradations=degradations, counted=True)
            # What others have charged since is in Redis alone, so it is looked at again before the next try.
            await self._epochs.adopt()
            await self._counters.look_again()
            if (outcome := await self._in_redis(demands, consume=consume, record=record)) is not None:
                return outcome
        raise Unavailable("Redis comes and goes", reason="REDIS_UNAVAILABLE")


def _kept(answer: ChargeAnswer) -> Kept:
    """How far an answer may be kept whose verifications are charged already, by clocks that run up to 1 % slow.

    One that is told again ends when it did before, so nothing may be left of its time.
    """
    left_us = max(0, answer.used_until_us - answer.now_us)
    return Kept(verifications=answer.rates.times, usable_for=timedelta(microseconds=left_us * 99 // 100))
