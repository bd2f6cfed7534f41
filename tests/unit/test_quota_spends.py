"""What a server says that it spent from a lost pool: no less than it can have spent, and no more than that held."""

import pytest

from tollkeeper_server.core.rate_window import RateOutcome
from tollkeeper_server.core.windows import Window
from tollkeeper_server.quota.charge_store import Charge, ChargeAnswer, PoolDemand, PoolStanding, Verdict
from tollkeeper_server.quota.spends import Spends
from tollkeeper_server.storage.boottime import boottime

WINDOW = Window(0, 10)


@pytest.fixture
def spends() -> Spends:
    spends = Spends()
    spends.lease.renew(sent_at=boottime(), seconds=600)
    return spends


def charge(units: int = 1, *, keep: int = 1, amount: int = 1000, shadow: bool = False, record: str = "once") -> Charge:
    demand = PoolDemand("pool", "account", amount, units, shadow, WINDOW)
    return Charge((), consume=True, pools=(demand,), record=record, times_max=keep)


def answer(*, times: int = 1, generation: int = 1) -> ChargeAnswer:
    standing = PoolStanding(used=0, exceeded=False, generation=generation, received=100, left=0)
    return ChargeAnswer(Verdict.ADMITTED, 5, RateOutcome(True, (), None, times), (standing,))


def report(spends: Spends, generation: int = 1, *, granted: int = 100) -> int:
    (units,) = spends.report({("account", generation): granted})
    return units


def test_a_kept_answer_spends_what_all_its_verifications_do(spends: Spends) -> None:
    assert spends.accept(charge(2, keep=10), answer(times=7))
    assert report(spends) == 14


@pytest.mark.parametrize(
    ("asked", "units"),
    [(charge(2), 2), (charge(2, keep=3), 6), (charge(2, keep=10_000), 10), (charge(50, keep=10), 50)],
)
def test_an_unanswered_charge_may_have_taken_a_hundredth(spends: Spends, asked: Charge, units: int) -> None:
    spends.doubt(asked)
    assert report(spends) == units


def test_an_unanswered_charge_to_a_shadow_limit_may_have_taken_all_that_was_asked_for(spends: Spends) -> None:
    spends.doubt(charge(2, keep=40, shadow=True))
    assert report(spends) == 80


def test_what_was_charged_in_the_ledger_for_one_leaves_the_others_doubted(spends: Spends) -> None:
    spends.doubt(charge(2, keep=5))
    spends.dispel(charge(2, keep=5))
    assert report(spends) == 8


def test_doubts_count_as_far_as_a_pool_can_have_held_them_and_then_with_the_next(spends: Spends) -> None:
    spends.accept(charge(60), answer())
    for number in range(7):
        spends.doubt(charge(1, keep=10, record=str(number)))
    assert report(spends) == 100
    assert report(spends, 2) == 30
    assert report(spends, 3) == 0


def test_a_report_that_did_not_arrive_is_made_again_as_it_was(spends: Spends) -> None:
    spends.doubt(charge(5))
    assert [report(spends), report(spends)] == [5, 5]


def test_a_server_that_leaves_tells_its_doubts_with_the_newest_pool(spends: Spends) -> None:
    for generation in (1, 2):
        spends.accept(charge(1), answer(generation=generation))
    report(spends, 1)
    spends.doubt(charge(5))
    assert dict(zip(spends.pools(), spends.report(spends.pools()), strict=True)) == {
        ("account", 2): 6,
        ("account", 1): 1,
    }
