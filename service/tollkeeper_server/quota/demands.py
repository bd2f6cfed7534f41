"""What a request asks of all limits of its key and its owner, and what their answers say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from datetime import datetime, timedelta
from typing import NamedTuple

from tollkeeper_server.core.decision import DecisionCode, DegradationReason, Kept
from tollkeeper_server.core.key import Key, Owner
from tollkeeper_server.core.limits import AMOUNT_MAX, Limit, LimitKind, LimitScope, LimitState
from tollkeeper_server.core.rate_window import GRANULES, LEAD_MAX_US, RateDemand, RateOutcome, RateStanding
from tollkeeper_server.core.value import value
from tollkeeper_server.core.windows import Window, moment, window_at
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, PoolDemand, PoolStanding, RateScope
from tollkeeper_server.usage.hashes import Counted

_DENIALS = {
    LimitKind.RATE: DecisionCode.RATE_LIMITED,
    LimitKind.QUOTA: DecisionCode.QUOTA_EXCEEDED,
    LimitKind.SPEND: DecisionCode.SPEND_LIMIT_EXCEEDED,
}
MINUTE_US = 60_000_000
_ALWAYS = Window(0, 2**63)

_HARDEST_FIRST = (LimitKind.SPEND, LimitKind.QUOTA, LimitKind.RATE)


@value
class ChargeOutcome:
    """What limits say to a charge."""

    code: DecisionCode
    """ALLOWED, RATE_LIMITED, QUOTA_EXCEEDED or SPEND_LIMIT_EXCEEDED; of several the hardest kind is told."""
    limits: tuple[LimitState, ...]
    """Every limit of the owner, then of the key, whether or not its unit was charged."""
    retry_after: timedelta | None
    """How long to wait until the same charge fits; None if it fits, or never will."""
    degradations: tuple[DegradationReason, ...] = ()
    held: tuple["Held", ...] = field(default=(), repr=False)
    """The QUOTA and SPEND limits that have the charge's units, if it was allowed."""
    reservation_id: str = ""
    """What to settle, if that was asked for and the charge is allowed."""
    kept: Kept | None = None
    """How far the answer may be kept, if that was asked for and the charge is allowed."""
    counted: bool = False
    """The charge was made, and the usage of its key tells of it."""


class Held(NamedTuple):
    """What was charged to one QUOTA or SPEND limit."""

    limit: Limit
    scope: LimitScope
    demand: PoolDemand


class Holder(NamedTuple):
    """What limits sit on: a key, or an owner."""

    scope: LimitScope
    name: str
    """Unique among holders of its scope."""
    limits: tuple[Limit, ...]
    created_at: datetime


class _Made(NamedTuple):
    """A charge without a record, and how long it is the one to make."""

    charge: Charge
    during: Window


class Demands:
    """What a request charges to the limits of a key, of its owner, or of an owner alone. It changes no more.

    ``keep`` is to how many verifications the answer is to be given, at most. ``counts`` are added to the usage of the
    key with the charge.
    """

    def __init__(
        self,
        key: Key | None,
        owner: Owner | None,
        *,
        charges: Mapping[str, int],
        counts: Mapping[str, int],
        keep: int = 0,
    ) -> None:
        self.key = key
        self.owner = owner
        self._charges = charges
        self._key_id = key.key_id if key is not None else ""
        self._counts = tuple((name, amount) for name, amount in counts.items() if amount)
        self._times_max = max(1, min(keep, AMOUNT_MAX // max([1, *charges.values()])))
        self._home = _home(key, owner)
        self._holders = tuple(_holders(key, owner))
        self._limits = [(limit, holder.scope) for holder in self._holders for limit in holder.limits]
        self._hard = [(limit, scope) for limit, scope in self._limits if limit.kind is not LimitKind.RATE]
        self._rates = tuple(self._rate_scopes())
        self._made: dict[bool, _Made] = {}
        """The last charge, by whether it consumes."""
        self._told: tuple[ChargeAnswer, ChargeOutcome] | None = None

    @property
    def limits(self) -> Sequence[tuple[Limit, LimitScope]]:
        """Every limit and where it sits."""
        return self._limits

    @property
    def have_rates(self) -> bool:
        """Whether any is a RATE limit."""
        return any(limit.kind is LimitKind.RATE for limit, _ in self._limits)

    @property
    def are_hard(self) -> bool:
        """Whether any is a QUOTA or SPEND limit."""
        return bool(self._hard)

    def charge(self, *, now_us: int, consume: bool, record: str = "") -> Charge:
        """The charge to make at ``now_us``; once only, if it is given the name of a ``record`` and consumes.

        As long as nothing else changes it is the very same, or of a record has the very same parts.
        """
        made = self._made.get(consume)
        if made is None or not made.during.contains(now_us):
            made = self._made[consume] = self._make(now_us, consume=consume)
        charge = made.charge
        if not (record and consume):
            return charge
        kept = f"tk:{{{self._home}}}:once:{record}"
        return Charge(self._rates, True, charge.pools, kept, charge.times_max, charge.lead_us, charge.counted)

    def told(self, charge: Charge, answer: ChargeAnswer) -> ChargeOutcome:
        """What Redis answered to the charge: the very same outcome for all who got the very same answer."""
        if self._told is None or self._told[0] is not answer:
            levels = list(zip(charge.pools, answer.pools, strict=True))
            self._told = answer, self.outcome(answer.rates, levels, counted=answer.rates.times == 1)
        return self._told[1]

    def outcome(
        self,
        rates: RateOutcome,
        pools: Sequence[tuple[PoolDemand, PoolStanding]],
        *,
        degradations: tuple[DegradationReason, ...] = (),
        counted: bool,
    ) -> ChargeOutcome:
        """The answer to the request; ``counted`` if whoever gave it has counted usage too."""
        standings, levels = iter(rates.standings), iter(pools)
        states = tuple(
            _rate_state(limit, scope, next(standings))
            if limit.kind is LimitKind.RATE
            else _level_state(limit, scope, *next(levels))
            for limit, scope in self._limits
        )
        after_us = rates.retry_after_us
        return ChargeOutcome(
            code=DecisionCode.ALLOWED if rates.admitted else _denial(states),
            limits=states,
            retry_after=None if after_us is None else timedelta(microseconds=after_us),
            degradations=degradations,
            held=self._held(pools, rates.times) if rates.admitted else (),
            counted=counted and rates.admitted and bool(self._key_id and self._counts),
        )

    def _held(self, pools: Sequence[tuple[PoolDemand, PoolStanding]], times: int) -> tuple[Held, ...]:
        return tuple(
            Held(limit, scope, demand._replace(units=demand.units * times))
            for (limit, scope), (demand, _) in zip(self._hard, pools, strict=True)
            if demand.units
        )

    def _make(self, now_us: int, *, consume: bool) -> "_Made":
        pools = tuple(self._pools(now_us))
        during = [_ALWAYS, *(pool.window for pool in pools)]
        counted = None
        if consume and self._key_id and self._counts:
            minute = now_us // MINUTE_US
            counted = Counted(self._home, self._key_id, minute, self._counts)
            during.append(Window(minute * MINUTE_US, (minute + 1) * MINUTE_US))
        lead_us = self._lead_us() if self._times_max > 1 else 0
        return _Made(
            Charge(self._rates, consume, pools, "", self._times_max, lead_us, counted),
            Window(max(window.starts_us for window in during), min(window.ends_us for window in during)),
        )

    def _lead_us(self) -> int:
        """How much later units may be used than they are charged."""
        windows = [limit.window_seconds for limit, _ in self._limits if limit.kind is LimitKind.RATE]
        return min([LEAD_MAX_US, *(seconds * 1_000_000 // GRANULES for seconds in windows if seconds)])

    def _rate_scopes(self) -> Iterator[RateScope]:
        for holder in self._holders:
            limits = [limit for limit in holder.limits if limit.kind is LimitKind.RATE]
            if limits:
                kept = holder.name if holder.scope is LimitScope.KEY else "owner"
                yield RateScope(
                    f"tk:{{{self._home}}}:rate:{kept}",
                    tuple(limit.name for limit in limits),
                    tuple(self._rate_demand(limit) for limit in limits),
                )

    def _rate_demand(self, limit: Limit) -> RateDemand:
        assert limit.window_seconds is not None, "RATE limits slide over a window of fixed length"
        return RateDemand(
            limit.amount, limit.window_seconds * 1_000_000, self._charges.get(limit.unit, 0), limit.shadow
        )

    def _pools(self, now_us: int) -> Iterator[PoolDemand]:
        for holder in self._holders:
            for limit in holder.limits:
                if limit.kind is LimitKind.RATE:
                    continue
                window = window_at(limit, created_at=holder.created_at, instant_us=now_us)
                # Another window, or another unit, is another account, which begins with nothing.
                account = f"{holder.scope}/{holder.name}/{limit.name}/{limit.unit}/{window.starts_us}-{window.ends_us}"
                yield PoolDemand(
                    f"tk:{{{self._home}}}:pool:{account}",
                    account,
                    limit.amount,
                    self._charges.get(limit.unit, 0),
                    limit.shadow,
                    window,
                )


def _holders(key: Key | None, owner: Owner | None) -> Iterator[Holder]:
    if owner is not None:
        yield Holder(LimitScope.OWNER, f"{owner.tenant_id}/{owner.owner_id}", owner.limits, owner.created_at)
    if key is not None:
        yield Holder(LimitScope.KEY, key.key_id, key.limits, key.created_at)


def _home(key: Key | None, owner: Owner | None) -> str:
    """Hash tag of all that is kept in Redis: limits of an owner and of its keys are charged together, in one slot."""
    if owner is not None:
        return f"{owner.tenant_id}/{owner.owner_id}"
    assert key is not None, "limits sit on a key or an owner"
    return f"{key.tenant_id}/{key.owner_id}" if key.owner_id else key.key_id


def _denial(states: Sequence[LimitState]) -> DecisionCode:
    exceeded = {state.kind for state in states if state.exceeded and not state.shadow}
    return _DENIALS[next(kind for kind in _HARDEST_FIRST if kind in exceeded)]


def _rate_state(limit: Limit, scope: LimitScope, standing: RateStanding) -> LimitState:
    return LimitState(
        name=limit.name,
        kind=limit.kind,
        unit=limit.unit,
        limit=standing.amount,
        used=standing.used,
        reset_at=None if standing.reset_at_us is None else moment(standing.reset_at_us),
        exceeded=standing.exceeded,
        shadow=limit.shadow,
        scope=scope,
    )


def pool_state(limit: Limit, scope: LimitScope, window: Window, *, used: int, exceeded: bool = False) -> LimitState:
    """Where a QUOTA or SPEND limit stands."""
    return LimitState(
        name=limit.name,
        kind=limit.kind,
        unit=limit.unit,
        limit=limit.amount,
        used=used,
        reset_at=moment(window.ends_us) if used else None,
        exceeded=exceeded,
        shadow=limit.shadow,
        scope=scope,
    )


def _level_state(limit: Limit, scope: LimitScope, demand: PoolDemand, standing: PoolStanding) -> LimitState:
    return pool_state(limit, scope, demand.window, used=standing.used, exceeded=standing.exceeded)
