"""Charging: what a request is about to use, counted against every limit of its key."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tollkeeper_server.core.decision import DecisionCode, DegradationReason
from tollkeeper_server.core.errors import Unimplemented
from tollkeeper_server.core.key import Key
from tollkeeper_server.core.limits import Limit, LimitKind, LimitScope, LimitState
from tollkeeper_server.core.rate_window import RateDemand, RateStanding
from tollkeeper_server.quota.rate_store import RateCharge, RateScope
from tollkeeper_server.quota.rates import Rates

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeOutcome:
    """What limits say to a charge."""

    code: DecisionCode
    """ALLOWED or RATE_LIMITED."""
    limits: tuple[LimitState, ...]
    """Every limit of the key, whether or not its unit was charged."""
    retry_after: timedelta | None
    """How long to wait until the same charge fits; None if it fits, or never will."""
    degradations: tuple[DegradationReason, ...] = ()


class Charger:
    """Charges all limits of a key, or none of them."""

    def __init__(self, *, rates: Rates) -> None:
        self._rates = rates

    async def charge(self, key: Key, *, charges: Mapping[str, int], consume: bool) -> ChargeOutcome:
        """Charge amounts by unit; units without a limit, and amounts of 0, always fit.

        Without ``consume`` nothing is charged, and the code is what it would have been. If Redis does not answer,
        RATE limits are held by this server's share of them, and the answer says so: its states tell of the share.
        """
        if not key.limits:
            return ChargeOutcome(code=DecisionCode.ALLOWED, limits=(), retry_after=None)
        if any(limit.kind is not LimitKind.RATE for limit in key.limits):
            raise Unimplemented("QUOTA and SPEND limits are not held yet", reason="LIMIT_KIND_UNIMPLEMENTED")
        scope = RateScope(
            _scope_name(key),
            tuple(limit.name for limit in key.limits),
            tuple(_demand(limit, charges) for limit in key.limits),
        )
        outcome, is_local = await self._rates.charge(RateCharge((scope,), consume=consume))
        return ChargeOutcome(
            code=DecisionCode.ALLOWED if outcome.admitted else DecisionCode.RATE_LIMITED,
            limits=tuple(map(_state, key.limits, outcome.standings)),
            retry_after=None if outcome.retry_after_us is None else timedelta(microseconds=outcome.retry_after_us),
            degradations=(DegradationReason.RATE_LOCAL,) if is_local else (),
        )

    async def close(self) -> None:
        """Finish what was asked, and take no more."""
        await self._rates.close()


def _scope_name(key: Key) -> str:
    """Where Redis keeps the RATE limits of ``key``: all limits of an owner and of its keys share a slot."""
    together = f"{key.tenant_id}/{key.owner_id}" if key.owner_id else key.key_id
    return f"tk:{{{together}}}:rate:{key.key_id}"


def _demand(limit: Limit, charges: Mapping[str, int]) -> RateDemand:
    assert limit.window_seconds is not None, "RATE limits slide over a window of fixed length"
    return RateDemand(limit.amount, limit.window_seconds * 1_000_000, charges.get(limit.unit, 0), limit.shadow)


def _state(limit: Limit, standing: RateStanding) -> LimitState:
    reset_at = None if standing.reset_at_us is None else _EPOCH + timedelta(microseconds=standing.reset_at_us)
    return LimitState(
        name=limit.name,
        kind=limit.kind,
        unit=limit.unit,
        limit=standing.amount,
        used=standing.used,
        reset_at=reset_at,
        exceeded=standing.exceeded,
        shadow=limit.shadow,
        scope=LimitScope.KEY,
    )
