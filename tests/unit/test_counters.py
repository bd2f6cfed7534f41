"""Charges that wait for the same flush: those that are the same go together, and each is answered and counted."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.core.rate_window import RateOutcome
from tollkeeper_server.core.windows import Window
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, PoolDemand, PoolStanding, Told, Verdict, alike
from tollkeeper_server.quota.counters import Counters
from tollkeeper_server.quota.spends import Spends
from tollkeeper_server.storage.boottime import boottime
from tollkeeper_server.storage.redis import ScriptLost

DEMAND = PoolDemand("tk:{k}:pool", "account", 100, 2, False, Window(0, 10))
CHARGE = Charge((), consume=True, pools=(DEMAND,))
POOL = ("account", 1)


def answer(verdict: Verdict) -> ChargeAnswer:
    admitted = verdict in (Verdict.ADMITTED, Verdict.REPLAYED)
    return ChargeAnswer(verdict, 5, RateOutcome(admitted, (), None), (PoolStanding(0, False, 1, 100, 0),))


class Store:
    """Admits ``room`` charges of each group, or has no answer."""

    def __init__(self) -> None:
        self.groups: list[list[Charge]] = []
        self.room = 100
        self.fault: Unavailable | None = None

    async def charge_together(self, charges: Sequence[Charge], *, timeout_seconds: float) -> list[Told]:
        groups = alike(charges)
        self.groups += [[charges[position] for position in group] for group in groups]
        await asyncio.sleep(0)
        return [told for group in groups for told in self._told(group)]

    def _told(self, group: Sequence[int]) -> list[Told]:
        if self.fault:
            return [Told(group, self.fault)]
        made, others = group[: self.room], group[self.room :]
        told = [Told(made, answer(Verdict.ADMITTED)), Told(others, answer(Verdict.DENIED))]
        return [each for each in told if each.positions]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def spends() -> Spends:
    spends = Spends()
    spends.lease.renew(sent_at=boottime(), seconds=600)
    return spends


@pytest.fixture
async def counters(store: Store, spends: Spends) -> AsyncIterator[Counters]:
    async def restore() -> None:
        raise Unavailable("still away", reason="REDIS_UNAVAILABLE")

    anything: Any = store
    counters = Counters(anything, spends=spends, restore=restore)
    yield counters
    await counters.close()


def once(name: str) -> Charge:
    return CHARGE._replace(record=name)


async def test_callers_of_the_same_charge_go_together_and_are_given_the_very_same_answers(
    counters: Counters, store: Store, spends: Spends
) -> None:
    store.room = 3
    other = CHARGE._replace(pools=(DEMAND._replace(units=5),))
    answers = await asyncio.gather(*map(counters.charge, [CHARGE, other, CHARGE, CHARGE, CHARGE, other, CHARGE]))
    assert store.groups == [[CHARGE] * 5, [other] * 2]
    of_charge = [answers[position] for position in (0, 2, 3, 4, 6)]
    assert all(each is of_charge[0] for each in of_charge[:3])
    assert all(each is of_charge[3] for each in of_charge[3:])
    assert [each.verdict.name for each in of_charge if each] == ["ADMITTED"] * 3 + ["DENIED"] * 2
    assert answers[1] is answers[5]
    assert spends.report({POOL: 100}) == [3 * 2 + 2 * 5]


async def test_charges_of_different_flushes_do_not_go_together(counters: Counters, store: Store) -> None:
    await counters.charge(CHARGE)
    await counters.charge(CHARGE)
    assert store.groups == [[CHARGE], [CHARGE]]


async def test_a_group_without_an_answer_is_doubted_record_by_record(
    counters: Counters, store: Store, spends: Spends
) -> None:
    store.fault = Unavailable("no answer", reason="REDIS_UNAVAILABLE")
    asked = [once("a"), CHARGE, once("b"), once("a"), once("c"), CHARGE]
    assert await asyncio.gather(*map(counters.charge, asked)) == [None] * 6
    assert [len(group) for group in store.groups] == [4, 2]
    spends.dispel(once("b"))
    assert spends.report({POOL: 100}) == [2 * 2]


async def test_a_group_that_a_lost_store_refused_is_not_doubted(
    counters: Counters, store: Store, spends: Spends
) -> None:
    store.fault = ScriptLost("another store", reason="REDIS_UNAVAILABLE")
    assert await asyncio.gather(*map(counters.charge, [once("a"), once("b")])) == [None, None]
    assert spends.report({POOL: 100}) == [0]


async def test_a_group_that_may_not_be_used_is_doubted_record_by_record(
    counters: Counters, store: Store, spends: Spends
) -> None:
    spends.report({POOL: 0})
    assert await asyncio.gather(*map(counters.charge, [once("a"), once("b")])) == [None, None]
    assert spends.report({("account", 2): 100}) == [2 * 2]


async def test_a_caller_that_leaves_a_group_harms_no_other_and_what_it_charged_is_counted(
    counters: Counters, store: Store, spends: Spends
) -> None:
    tasks = [asyncio.create_task(counters.charge(CHARGE)) for _ in range(4)]
    while not store.groups:  # noqa: ASYNC110 (it asks the loop, not the clock)
        await asyncio.sleep(0)
    tasks[1].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in found] == [ChargeAnswer, asyncio.CancelledError, ChargeAnswer, ChargeAnswer]
    assert spends.report({POOL: 100}) == [4 * 2]


kinds = [
    CHARGE,
    CHARGE._replace(pools=(DEMAND,)),
    CHARGE._replace(consume=False),
    CHARGE._replace(times_max=9),
]


@given(st.lists(st.tuples(st.sampled_from(kinds), st.sampled_from(["", "", "a", "b"]))))
def test_only_charges_that_are_the_same_but_for_their_records_go_together(asked: list[tuple[Charge, str]]) -> None:
    charges = [charge._replace(record=record) if record else charge for charge, record in asked]
    groups = alike(charges)
    assert sorted(position for group in groups for position in group) == list(range(len(charges)))
    assert groups == sorted(groups)
    for group in groups:
        first, *others = [charges[position] for position in group]
        assert all(other._replace(record="") == first._replace(record="") for other in others)
        assert all(bool(other.record) == bool(first.record) for other in others)
        assert first.times_max == 1 or not others
