"""Answers of limited keys that are kept: charged for verifications to come, held, and settled; on real stores."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from tests.integration.quota_support import AMPLE, key, owner, quota, rate, server
from tests.integration.valkey_process import valkey_process
from tollkeeper_server.core.decision import DecisionCode, Kept
from tollkeeper_server.core.key import Key, Owner
from tollkeeper_server.core.limits import Limit
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.quota.demands import ChargeOutcome

ALLOWED = DecisionCode.ALLOWED
SECOND = timedelta(seconds=1)


@pytest.fixture
async def charger(postgres_url: str, redis_url: str) -> AsyncIterator[Charger]:
    async with server(postgres_url, redis_url) as charger:
        yield charger


async def take(
    charger: Charger, subject: Key, keep: int, *, units: int = 1, request_id: str = "", its: Owner | None = None
) -> ChargeOutcome:
    return await charger.charge(
        subject, owner=its, charges={"requests": units}, consume=True, keep=keep, request_id=request_id
    )


async def settle(charger: Charger, outcome: ChargeOutcome, units: int) -> list[int]:
    settlement = await charger.settle(outcome.reservation_id, tenant_id="acme", charges={"requests": units})
    assert not settlement.already_settled
    return [state.used for state in settlement.limits]


def used(outcome: ChargeOutcome) -> list[int]:
    return [state.used for state in outcome.limits]


def kept(outcome: ChargeOutcome) -> Kept:
    assert outcome.code is ALLOWED
    assert outcome.kept is not None
    assert outcome.reservation_id
    return outcome.kept


@pytest.mark.parametrize("limit", [quota(1000), rate(1000)], ids=["quota", "rate"])
async def test_a_hundredth_of_what_is_left_is_charged_at_once_and_held(charger: Charger, limit: Limit) -> None:
    outcome = await take(charger, key(limit), 10_000)
    assert kept(outcome).verifications == 10
    assert timedelta() < kept(outcome).usable_for <= SECOND
    assert used(outcome) == [10]
    fewer = await take(charger, key(limit, key_id="key_2"), 3)
    assert kept(fewer).verifications == 3


async def test_what_was_not_used_goes_back_and_of_rates_nothing_does(charger: Charger) -> None:
    subject = key(quota(1000), rate(2000))
    outcome = await take(charger, subject, 10)
    assert used(outcome) == [10, 10]
    assert await settle(charger, outcome, 4) == [4]
    after = await charger.charge(subject, charges={}, consume=False)
    assert used(after) == [4, 10]


async def test_where_only_one_fits_nothing_is_kept(charger: Charger) -> None:
    subject = key(quota(150))
    for expected in range(1, 151):
        outcome = await take(charger, subject, 10)
        assert (outcome.code, outcome.kept, outcome.reservation_id) == (ALLOWED, None, "")
        assert used(outcome) == [expected]
    assert (await take(charger, subject, 10)).code is DecisionCode.QUOTA_EXCEEDED


async def test_the_tightest_of_all_limits_bounds_what_is_kept(charger: Charger) -> None:
    subject, its = (
        key(rate(100_000), owner_id="owner_1"),
        owner(quota(700), quota(100_000, name="tokens", unit="tokens")),
    )
    outcome = await take(charger, subject, 10_000, its=its)
    assert kept(outcome).verifications == 7
    assert used(outcome) == [7, 0, 7]


async def test_charges_are_made_so_many_times(charger: Charger) -> None:
    outcome = await take(charger, key(quota(100_000)), 10_000, units=30)
    assert kept(outcome).verifications == 33
    assert used(outcome) == [990]
    assert await settle(charger, outcome, 60) == [60]


async def test_shadow_limits_count_and_bound_nothing(charger: Charger) -> None:
    shadows = quota(3, name="shadow", shadow=True), quota(10**6)
    outcome = await take(charger, key(*shadows), 50)
    assert (kept(outcome).verifications, used(outcome)) == (50, [50, 50])
    alone = await take(charger, key(quota(3, shadow=True), key_id="key_2"), 10_000)
    assert (kept(alone).verifications, used(alone)) == (10_000, [10_000])


async def test_a_limit_on_another_unit_is_told_and_bounds_nothing(charger: Charger) -> None:
    outcome = await take(charger, key(quota(10, unit="tokens")), 50)
    assert (kept(outcome).verifications, used(outcome)) == (50, [0])
    assert kept(outcome).usable_for <= SECOND


async def test_no_more_is_charged_at_once_than_one_charge_may_be(charger: Charger) -> None:
    outcome = await take(charger, key(quota(10, unit="tokens")), 10_000, units=10**13)
    assert kept(outcome).verifications == 100


async def test_units_are_used_in_the_window_that_they_are_charged_to(charger: Charger) -> None:
    left = timedelta(milliseconds=400)
    subject = key(quota(100_000, seconds=3600), created_at=datetime.now(UTC) - timedelta(seconds=3600) + left)
    outcome = await take(charger, subject, 10)
    assert timedelta() < kept(outcome).usable_for < left


async def test_units_of_rates_are_used_within_a_twentieth_of_the_shortest_window(charger: Charger) -> None:
    outcome = await take(charger, key(rate(10_000, name="second", seconds=1), rate(AMPLE)), 10)
    assert kept(outcome).usable_for == timedelta(milliseconds=49.5), "and 1 % less, for clocks that run slow"


async def test_the_same_request_is_charged_once_and_told_the_same(charger: Charger) -> None:
    subject = key(quota(1000), rate(5000))
    outcomes = [await take(charger, subject, 10, request_id="r-1") for _ in range(3)]
    assert {kept(outcome).verifications for outcome in outcomes} == {10}
    assert len({outcome.reservation_id for outcome in outcomes}) == 1
    assert [used(outcome) for outcome in outcomes] == [[10, 10]] * 3
    assert kept(outcomes[2]).usable_for < kept(outcomes[0]).usable_for
    assert await settle(charger, outcomes[2], 1) == [1]


async def test_an_answer_that_is_told_again_late_may_not_be_used_late(charger: Charger) -> None:
    subject = key(rate(10_000, seconds=1))
    outcome = await take(charger, subject, 10, request_id="r-1")
    while kept(outcome).usable_for > timedelta():
        outcome = await take(charger, subject, 10, request_id="r-1")
    assert kept(outcome).verifications == 10


async def test_asked_again_without_keeping_the_same_request_is_one_verification(charger: Charger) -> None:
    subject = key(quota(1000))
    await take(charger, subject, 10, request_id="r-1")
    outcome = await take(charger, subject, 0, request_id="r-1")
    assert (outcome.code, outcome.kept, used(outcome)) == (ALLOWED, None, [10])


async def test_without_redis_nothing_is_kept(postgres_url: str, tmp_path: Path) -> None:
    subject = key(quota(1000), rate(1000))
    async with valkey_process(tmp_path) as valkey, server(postgres_url, valkey.url, timeout_seconds=0.2) as charger:
        valkey.kill()
        outcome = await take(charger, subject, 10)
        assert (outcome.code, outcome.kept, outcome.reservation_id) == (ALLOWED, None, "")
        assert outcome.degradations


async def test_a_kept_answer_that_is_never_settled_ends_after_a_minute(charger: Charger, postgres_url: str) -> None:
    subject = key(quota(1000))
    outcome = await take(charger, subject, 10)
    connection = await asyncpg.connect(postgres_url)
    lasts = await connection.fetchval("SELECT expires_at - held_at FROM reservations")
    assert lasts == timedelta(seconds=60)
    await connection.execute("UPDATE reservations SET expires_at = now()")
    late = await charger.settle(outcome.reservation_id, tenant_id="acme", charges={})
    assert (late.already_settled, [state.used for state in late.limits]) == (True, [10])
    await connection.close()


async def test_more_than_was_held_is_overdraft(charger: Charger) -> None:
    outcome = await take(charger, key(quota(1000)), 10)
    assert await settle(charger, outcome, 25) == [25]


async def test_a_dry_run_keeps_nothing(charger: Charger) -> None:
    outcome = await charger.charge(key(quota(1000)), charges={"requests": 1}, consume=False, keep=10)
    assert (outcome.code, outcome.kept, used(outcome)) == (ALLOWED, None, [0])
