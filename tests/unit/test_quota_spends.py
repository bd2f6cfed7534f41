"""What a server says that it spent from a lost pool: no less than it can have spent, and no more than that held."""

import pytest

from tollkeeper_server.core.rate_window import RateOutcome
from tollkeeper_server.core.windows import Window
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, PoolDemand, PoolStanding, Verdict
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


def answer(*, times: int = 1, generation: int = 1, verdict: Verdict = Verdict.ADMITTED) -> ChargeAnswer:
    standing = PoolStanding(used=0, exceeded=False, generation=generation, received=100, left=0)
    return ChargeAnswer(verdict, 5, RateOutcome(True, (), None, times), (standing,))


def report(spends: Spends, generation: int = 1, *, granted: int = 100) -> int:
    (units,) = spends.report({("account", generation): granted})
    return units


def test_a_kept_answer_spends_what_all_its_verifications_do(spends: Spends) -> None:
    assert spends.accept(charge(2, keep=10), answer(times=7))
    assert report(spends) == 14


def test_who_tells_a_kept_answer_again_counts_its_verifications_for_who_charged_them_may_not_have(
    spends: Spends,
) -> None:
    spends.accept(charge(2, keep=10), answer(times=7, verdict=Verdict.REPLAYED))
    assert report(spends) == 14


def test_a_kept_answer_of_a_pool_that_was_reported_is_not_told_again(spends: Spends) -> None:
    report(spends)
    assert not spends.accept(charge(2, keep=10), answer(times=7, verdict=Verdict.REPLAYED))


def test_what_was_not_charged_for_want_of_a_refill_is_not_counted(spends: Spends) -> None:
    assert spends.accept(charge(2, keep=10), answer(times=7, verdict=Verdict.LACKING))
    assert report(spends) == 0


def test_who_tells_a_single_verification_again_counts_nothing_and_who_got_no_answer_does(spends: Spends) -> None:
    assert spends.accept(charge(2), answer(verdict=Verdict.REPLAYED))
    assert report(spends) == 0
    spends.doubt(charge(2, keep=10))
    assert report(spends, 2) == 2


def test_what_was_charged_in_the_ledger_is_doubted_no_more(spends: Spends) -> None:
    spends.doubt(charge(2, keep=5))
    spends.dispel(charge(2, keep=5))
    assert report(spends) == 0


def test_doubts_count_as_far_as_a_pool_can_have_held_them_and_then_with_the_next(spends: Spends) -> None:
    spends.accept(charge(60), answer())
    for number in range(7):
        spends.doubt(charge(10, record=str(number)))
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
