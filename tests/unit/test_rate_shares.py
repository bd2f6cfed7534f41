"""RATE limits by this server's share of them."""

import pytest

from tollkeeper_server.core.rate_window import RateDemand, RateOutcome
from tollkeeper_server.quota.charges import RateScope
from tollkeeper_server.quota.rate_shares import RateShares


def charge(shares: RateShares, name: str, *, amount: int = 10, units: int = 1) -> RateOutcome:
    demand = RateDemand(amount=amount, window_us=60_000_000, units=units, shadow=False)
    return shares.charge([RateScope(name, ("requests",), (demand,))], consume=True)


@pytest.mark.parametrize(("amount", "replicas", "share"), [(100, 1, 100), (100, 3, 33), (2, 3, 1), (0, 3, 0)])
def test_a_share_is_the_amount_divided_by_the_live_replicas_but_never_nothing_of_something(
    amount: int, replicas: int, share: int
) -> None:
    shares = RateShares(live_replicas=lambda: replicas, clock_us=lambda: 0)
    admitted = [charge(shares, "key", amount=amount).admitted for _ in range(share + 1)]
    assert admitted == [True] * share + [False]


def test_a_share_grows_and_shrinks_with_the_replicas_alive() -> None:
    alive = 2
    shares = RateShares(live_replicas=lambda: alive, clock_us=lambda: 0)
    assert charge(shares, "key", units=5).admitted
    assert not charge(shares, "key").admitted
    alive = 1
    assert charge(shares, "key", units=5).admitted


def test_memory_is_bounded_and_what_was_not_charged_for_longest_is_forgotten_first() -> None:
    shares = RateShares(live_replicas=lambda: 1, clock_us=lambda: 0, scopes_max=2)
    used = [charge(shares, name).standings[0].used for name in ("a", "b", "a", "c", "a", "b")]
    assert used == [1, 1, 2, 1, 3, 1]
