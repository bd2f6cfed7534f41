"""QUOTA and SPEND limits of keys and owners, through the Charger, on real stores."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.integration.quota_support import charge, debited, key, owner, quota, rate, server
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.limits import LimitKind, LimitScope
from tollkeeper_server.quota.charger import Charger

ALLOWED, EXCEEDED = DecisionCode.ALLOWED, DecisionCode.QUOTA_EXCEEDED


@pytest.fixture
async def charger(postgres_url: str, redis_url: str) -> AsyncIterator[Charger]:
    async with server(postgres_url, redis_url) as charger:
        yield charger


async def test_a_quota_admits_its_amount_and_tells_when_its_window_ends(charger: Charger) -> None:
    subject = key(quota(5))
    outcomes = [await charger.charge(subject, charges={"requests": 1}, consume=True) for _ in range(7)]
    assert [outcome.code for outcome in outcomes] == [ALLOWED] * 5 + [EXCEEDED] * 2
    assert [outcome.limits[0].used for outcome in outcomes] == [1, 2, 3, 4, 5, 5, 5]
    last = outcomes[-1]
    assert (last.limits[0].exceeded, last.limits[0].remaining, last.degradations) == (True, 0, ())
    assert last.limits[0].reset_at is not None
    assert (last.limits[0].reset_at - subject.created_at).total_seconds() == 86_400
    assert last.retry_after is not None
    assert 22 * 3600 < last.retry_after.total_seconds() <= 23 * 3600


async def test_all_limits_of_key_and_owner_are_charged_or_none(charger: Charger) -> None:
    shared = owner(quota(5, name="shared"), rate(100))
    first = key(quota(3), rate(50), key_id="key_1", owner_id="owner_1")
    second = key(quota(3), key_id="key_2", owner_id="owner_1")

    async def spend(subject: object) -> DecisionCode:
        outcome = await charger.charge(subject, owner=shared, charges={"requests": 1}, consume=True)  # type: ignore[arg-type]
        return outcome.code

    assert [await spend(first) for _ in range(4)] == [ALLOWED] * 3 + [EXCEEDED]
    assert [await spend(second) for _ in range(3)] == [ALLOWED] * 2 + [EXCEEDED]
    told = await charger.charge(second, owner=shared, charges={"requests": 1}, consume=False)
    assert [(state.scope, state.name, state.used, state.exceeded) for state in told.limits] == [
        (LimitScope.OWNER, "shared", 5, True),
        (LimitScope.OWNER, "rate", 5, False),
        (LimitScope.KEY, "quota", 2, False),
    ]


async def test_the_hardest_kind_that_denies_is_told(charger: Charger) -> None:
    subject = key(rate(1), quota(1), quota(1, name="spend", kind=LimitKind.SPEND))
    assert await charge(charger, subject) is ALLOWED
    assert await charge(charger, subject) is DecisionCode.SPEND_LIMIT_EXCEEDED


async def test_a_raised_limit_unblocks_and_a_lowered_one_blocks_at_once(charger: Charger) -> None:
    assert [await charge(charger, key(quota(2))) for _ in range(3)] == [ALLOWED] * 2 + [EXCEEDED]
    assert [await charge(charger, key(quota(4))) for _ in range(3)] == [ALLOWED] * 2 + [EXCEEDED]
    assert await charge(charger, key(quota(1000))) is ALLOWED
    assert await charge(charger, key(quota(3))) is EXCEEDED
    (state,) = (await charger.charge(key(quota(3)), charges={}, consume=False)).limits
    assert (state.used, state.remaining, state.exceeded) == (5, 0, False)


async def test_a_shadow_quota_tells_and_never_denies(charger: Charger) -> None:
    subject = key(quota(2, shadow=True))
    outcomes = [await charger.charge(subject, charges={"requests": 1}, consume=True) for _ in range(4)]
    assert [(outcome.code, outcome.limits[0].used, outcome.limits[0].exceeded) for outcome in outcomes] == [
        (ALLOWED, 1, False),
        (ALLOWED, 2, False),
        (ALLOWED, 3, True),
        (ALLOWED, 4, True),
    ]


async def test_a_dry_run_answers_the_same_and_charges_nothing(charger: Charger, postgres_url: str) -> None:
    subject = key(quota(2))
    for _ in range(5):
        outcome = await charger.charge(subject, charges={"requests": 2}, consume=False)
        assert (outcome.code, outcome.limits[0].used) == (ALLOWED, 0)
    assert (await charger.charge(subject, charges={"requests": 3}, consume=False)).code is EXCEEDED
    assert await charge(charger, subject, 2) is ALLOWED
    assert await debited(postgres_url) == 2


async def test_charges_of_any_size_leave_no_room_for_a_smaller_one(charger: Charger) -> None:
    subject = key(quota(10**15))
    assert await charge(charger, subject, 10**15 - 10) is ALLOWED
    assert await charge(charger, subject, 11) is EXCEEDED
    assert [await charge(charger, subject, units) for units in (7, 3, 1)] == [ALLOWED, ALLOWED, EXCEEDED]


async def test_sixteen_limits_are_one_charge(charger: Charger) -> None:
    subject = key(
        *(quota(100 + number, name=f"q{number}") for number in range(12)), *(rate(100, name=f"r{n}") for n in range(4))
    )
    codes = await asyncio.gather(*(charge(charger, subject) for _ in range(150)))
    assert codes.count(ALLOWED) == 100
    told = await charger.charge(subject, charges={}, consume=False)
    assert {state.used for state in told.limits} == {100}


async def test_a_clock_of_this_machine_that_is_wrong_does_not_matter(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = key(quota(10, seconds=7200))
    import time

    right = time.time_ns
    admitted = 0
    for skew_hours in (-1, 0, 1):
        monkeypatch.setattr(time, "time_ns", lambda skew=skew_hours: right() + skew * 3_600_000_000_000)
        async with server(postgres_url, redis_url) as charger:
            admitted += sum([await charge(charger, subject) is ALLOWED for _ in range(6)])
    assert admitted == 10
    connection = await asyncpg.connect(postgres_url)
    assert await connection.fetchval("SELECT count(*) FROM quota_ledger") == 1
    await connection.close()
