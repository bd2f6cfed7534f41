"""RATE limits of keys, through the Charger, on a real Valkey and its clock."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis.asyncio

from tests.integration.quota_support import server
from tests.integration.valkey_process import valkey_cluster
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.key import Key
from tollkeeper_server.core.limits import Limit, LimitKind, LimitScope, LimitState
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.quota.demands import ChargeOutcome

REQUEST = {"requests": 1}
NewCharger = Callable[[], Awaitable[Charger]]


@pytest.fixture
async def new_charger(postgres_url: str, redis_url: str) -> AsyncIterator[NewCharger]:
    """Makes one more Charger, as one more server has, with connections of its own."""
    async with AsyncExitStack() as stack:

        async def make() -> Charger:
            return await stack.enter_async_context(server(postgres_url, redis_url))

        yield make


@pytest.fixture
async def charger(new_charger: NewCharger) -> Charger:
    return await new_charger()


def limit(
    amount: int, *, name: str = "requests", seconds: int = 60, unit: str = "requests", shadow: bool = False
) -> Limit:
    return Limit(name=name, kind=LimitKind.RATE, unit=unit, amount=amount, window_seconds=seconds, shadow=shadow)


def key(*limits: Limit, key_id: str = "key_1", owner_id: str = "") -> Key:
    now = datetime.now(UTC)
    return Key(key_id=key_id, tenant_id="acme", owner_id=owner_id, limits=limits, created_at=now, updated_at=now)


async def codes(charger: Charger, subject: Key, times: int) -> list[DecisionCode]:
    outcomes = [await charger.charge(subject, charges=REQUEST, consume=True) for _ in range(times)]
    return [outcome.code for outcome in outcomes]


async def test_a_limit_admits_its_amount_and_tells_when_to_come_back(charger: Charger) -> None:
    subject = key(limit(5))
    before = datetime.now(UTC)
    outcomes = [await charger.charge(subject, charges=REQUEST, consume=True) for _ in range(6)]
    after = datetime.now(UTC)
    assert [outcome.code for outcome in outcomes] == [DecisionCode.ALLOWED] * 5 + [DecisionCode.RATE_LIMITED]
    assert [outcome.limits[0].remaining for outcome in outcomes] == [4, 3, 2, 1, 0, 0]
    assert not any(outcome.degradations for outcome in outcomes)
    denied = outcomes[-1]
    assert denied.limits == (
        LimitState(
            name="requests",
            kind=LimitKind.RATE,
            unit="requests",
            limit=5,
            used=5,
            reset_at=denied.limits[0].reset_at,
            exceeded=True,
            shadow=False,
            scope=LimitScope.KEY,
        ),
    )
    minute = timedelta(seconds=60)
    assert denied.limits[0].reset_at is not None
    assert before + minute <= denied.limits[0].reset_at <= after + minute
    assert denied.retry_after is not None
    assert minute - (after - before) <= denied.retry_after <= minute


async def test_what_was_denied_is_admitted_after_retry_after_and_not_before(charger: Charger) -> None:
    subject = key(limit(1, seconds=1))
    await charger.charge(subject, charges=REQUEST, consume=True)
    asked = time.monotonic()
    denied = await charger.charge(subject, charges=REQUEST, consume=True)
    answered = time.monotonic()
    assert denied.retry_after is not None
    while True:
        again = time.monotonic()
        outcome = await charger.charge(subject, charges=REQUEST, consume=True)
        if outcome.code is DecisionCode.ALLOWED:
            break
        assert again < answered + denied.retry_after.total_seconds(), "denied although it waited as long as told"
        await asyncio.sleep(0.02)
    assert time.monotonic() >= asked + denied.retry_after.total_seconds(), "admitted too early"


async def test_many_servers_together_admit_exactly_the_amount(new_charger: NewCharger) -> None:
    chargers = [await new_charger() for _ in range(4)]
    subject = key(limit(500, seconds=3600), limit(700, name="day", seconds=86_400))

    async def caller(charger: Charger) -> int:
        outcomes = [await charger.charge(subject, charges=REQUEST, consume=True) for _ in range(20)]
        assert not any(outcome.degradations for outcome in outcomes)
        return sum(outcome.code is DecisionCode.ALLOWED for outcome in outcomes)

    admitted = await asyncio.gather(*(caller(charger) for charger in chargers for _ in range(25)))
    assert sum(admitted) == 500


async def test_charges_of_any_size_never_pass_the_amount_and_leave_no_room_for_a_smaller_one(
    new_charger: NewCharger,
) -> None:
    chargers = [await new_charger() for _ in range(3)]
    subject = key(limit(1000, unit="tokens", seconds=3600))

    async def caller(charger: Charger, choice: random.Random) -> int:
        admitted = 0
        for _ in range(40):
            units = choice.randrange(1, 20)
            outcome = await charger.charge(subject, charges={"tokens": units}, consume=True)
            admitted += units if outcome.code is DecisionCode.ALLOWED else 0
        return admitted

    callers = (caller(charger, random.Random(number)) for number, charger in enumerate(chargers * 8))
    assert sum(await asyncio.gather(*callers)) <= 1000
    (state,) = (await chargers[0].charge(subject, charges={"tokens": 1}, consume=False)).limits
    assert 1000 - 20 < state.used <= 1000


async def test_keys_do_not_share_their_limits(charger: Charger) -> None:
    one, other = key(limit(1), key_id="key_1", owner_id="o"), key(limit(1), key_id="key_2", owner_id="o")
    assert await codes(charger, one, 2) == [DecisionCode.ALLOWED, DecisionCode.RATE_LIMITED]
    assert await codes(charger, other, 1) == [DecisionCode.ALLOWED]


async def test_several_windows_are_charged_all_or_nothing(charger: Charger) -> None:
    subject = key(limit(10, name="minute"), limit(3, name="hour", seconds=3600))
    assert await codes(charger, subject, 5) == [DecisionCode.ALLOWED] * 3 + [DecisionCode.RATE_LIMITED] * 2
    outcome = await charger.charge(subject, charges=REQUEST, consume=True)
    assert [(state.used, state.exceeded) for state in outcome.limits] == [(3, False), (3, True)]


async def test_only_units_that_are_charged_are_counted_and_every_limit_is_told(charger: Charger) -> None:
    subject = key(limit(5), limit(100, name="tokens", unit="tokens"))
    outcome = await charger.charge(subject, charges={"tokens": 30, "unlimited": 7}, consume=True)
    assert [(state.name, state.used) for state in outcome.limits] == [("requests", 0), ("tokens", 30)]
    assert outcome.limits[0].reset_at is None


async def test_a_dry_run_answers_the_same_and_charges_nothing(charger: Charger) -> None:
    subject = key(limit(1))
    for _ in range(3):
        outcome = await charger.charge(subject, charges=REQUEST, consume=False)
        assert outcome.code is DecisionCode.ALLOWED
        assert outcome.limits[0].remaining == 1
    assert await codes(charger, subject, 1) == [DecisionCode.ALLOWED]
    outcome = await charger.charge(subject, charges=REQUEST, consume=False)
    assert outcome.code is DecisionCode.RATE_LIMITED
    assert outcome.retry_after is not None


async def test_a_shadow_limit_tells_and_never_denies(charger: Charger) -> None:
    subject = key(limit(1, shadow=True))
    outcomes = [await charger.charge(subject, charges=REQUEST, consume=True) for _ in range(3)]
    assert [outcome.code for outcome in outcomes] == [DecisionCode.ALLOWED] * 3
    assert [(state.used, state.exceeded) for outcome in outcomes for state in outcome.limits] == [
        (1, False),
        (2, True),
        (3, True),
    ]


async def test_a_charge_larger_than_the_limit_has_no_time_to_come_back(charger: Charger) -> None:
    outcome = await charger.charge(key(limit(5)), charges={"requests": 6}, consume=True)
    assert outcome.code is DecisionCode.RATE_LIMITED
    assert outcome.retry_after is None


async def test_the_largest_amounts_are_exact(charger: Charger) -> None:
    subject = key(limit(10**15, unit="tokens", seconds=366 * 86_400))
    await charger.charge(subject, charges={"tokens": 10**15 - 1}, consume=True)
    outcome = await charger.charge(subject, charges={"tokens": 1}, consume=True)
    assert (outcome.code, outcome.limits[0].used) == (DecisionCode.ALLOWED, 10**15)
    assert (await charger.charge(subject, charges={"tokens": 1}, consume=True)).code is DecisionCode.RATE_LIMITED


async def test_a_changed_amount_holds_at_once(charger: Charger) -> None:
    assert await codes(charger, key(limit(2)), 3) == [DecisionCode.ALLOWED] * 2 + [DecisionCode.RATE_LIMITED]
    assert await codes(charger, key(limit(3)), 2) == [DecisionCode.ALLOWED, DecisionCode.RATE_LIMITED]
    assert await codes(charger, key(limit(1)), 1) == [DecisionCode.RATE_LIMITED]


async def test_a_key_without_limits_never_touches_a_store(charger: Charger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(charger, "_counters")
    monkeypatch.delattr(charger, "_direct")
    outcome = await charger.charge(key(), charges=REQUEST, consume=True)
    monkeypatch.undo()
    assert outcome == ChargeOutcome(code=DecisionCode.ALLOWED, limits=(), retry_after=None)


async def test_a_script_that_redis_forgot_is_sent_again(charger: Charger, redis_url: str) -> None:
    subject = key(limit(3))
    assert await codes(charger, subject, 1) == [DecisionCode.ALLOWED]
    async with redis.asyncio.from_url(redis_url) as client:
        await client.script_flush()
    outcome = await charger.charge(subject, charges=REQUEST, consume=True)
    assert (outcome.limits[0].used, outcome.degradations) == (2, ())


async def test_a_caller_that_leaves_harms_no_other(charger: Charger) -> None:
    subject = key(limit(1000, seconds=3600))
    tasks = [asyncio.create_task(charger.charge(subject, charges=REQUEST, consume=True)) for _ in range(300)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::3])
    stayed = [result for position, result in enumerate(results) if position % 3]
    assert all(isinstance(result, ChargeOutcome) and not result.degradations for result in stayed)
    (state,) = (await charger.charge(subject, charges=REQUEST, consume=False)).limits
    assert 200 <= state.used <= 300


async def test_on_a_cluster_the_keys_of_many_slots_are_charged_at_once(postgres_url: str, tmp_path: Path) -> None:
    async with valkey_cluster(tmp_path) as url, server(postgres_url, url) as charger:
        owned = [key(limit(2), key_id=f"key_{number}", owner_id=f"owner_{number % 5}") for number in range(30)]
        for expected in (DecisionCode.ALLOWED, DecisionCode.ALLOWED, DecisionCode.RATE_LIMITED):
            outcomes = await asyncio.gather(*(charger.charge(one, charges=REQUEST, consume=True) for one in owned))
            assert {(outcome.code, outcome.degradations) for outcome in outcomes} == {(expected, ())}
