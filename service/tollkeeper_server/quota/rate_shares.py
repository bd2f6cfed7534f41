"""RATE limits without Redis: each server holds its own share of them, in memory."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from tollkeeper_server.core.rate_window import RateOutcome, SlidingLog, charge
from tollkeeper_server.quota.charges import RateScope

SCOPES_MAX = 20_000
"""Most scopes remembered; at most about 20 MB. Those that were not charged for longest go first."""


class RateShares:
    """Logs of this server's share of every RATE limit: its amount divided by the number of live replicas.

    A share is at least 1, so as long as each replica has 1 left, more than the amount may be admitted by all of them
    together. ``clock_us`` gives the time in microseconds since 1970.
    """

    def __init__(
        self, *, live_replicas: Callable[[], int], clock_us: Callable[[], int], scopes_max: int = SCOPES_MAX
    ) -> None:
        self._live_replicas = live_replicas
        self._clock_us = clock_us
        self._scopes_max = scopes_max
        self._scopes: OrderedDict[str, dict[str, SlidingLog]] = OrderedDict()

    def charge(self, scopes: Sequence[RateScope], *, consume: bool) -> RateOutcome:
        """Make the charge, without ``consume`` as if; the standings tell of the share."""
        replicas = self._live_replicas()
        logs, demands = [], []
        for scope in scopes:
            kept = self._kept(scope.name)
            for limit, demand in zip(scope.limits, scope.demands, strict=True):
                logs.append(kept.setdefault(limit, SlidingLog()))
                demands.append(demand._replace(amount=_share(demand.amount, replicas)))
        return charge(logs, demands, now_us=self._clock_us(), consume=consume)

    def _kept(self, scope: str) -> dict[str, SlidingLog]:
        kept = self._scopes.setdefault(scope, {})
        self._scopes.move_to_end(scope)
        if len(self._scopes) > self._scopes_max:
            self._scopes.popitem(last=False)
        return kept


def _share(amount: int, replicas: int) -> int:
    return max(1, amount // replicas) if amount else 0
