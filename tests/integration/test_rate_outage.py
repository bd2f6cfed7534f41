"""RATE limits while Redis is away, and when it comes back."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog.testing
from prometheus_client import REGISTRY

from tests.integration.quota_support import server
from tests.integration.valkey_process import ValkeyProcess, valkey_process
from tollkeeper_server.core.decision import DecisionCode, DegradationReason
from tollkeeper_server.core.key import Key
from tollkeeper_server.core.limits import Limit, LimitKind
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.quota.counters import PROBE_INTERVAL_SECONDS
from tollkeeper_server.quota.demands import ChargeOutcome
from tollkeeper_server.storage.redis import Redis

LOCAL = (DegradationReason.RATE_LOCAL,)
TIMEOUT_SECONDS = 0.3
REPLICAS = 4
RECOVERY_SECONDS = 1.0


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[ValkeyProcess]:
    async with valkey_process(tmp_path) as process:
        yield process


@pytest.fixture
async def charger(valkey: ValkeyProcess, postgres_url: str) -> AsyncIterator[Charger]:
    async with AsyncExitStack() as stack:
        for _ in range(REPLICAS - 1):
            await stack.enter_async_context(server(postgres_url, valkey.url))
        yield await stack.enter_async_context(server(postgres_url, valkey.url, timeout_seconds=TIMEOUT_SECONDS))


def key(amount: int = 100, *, key_id: str = "key_1") -> Key:
    now = datetime.now(UTC)
    limit = Limit(name="requests", kind=LimitKind.RATE, unit="requests", amount=amount, window_seconds=3600)
    return Key(key_id=key_id, tenant_id="acme", limits=(limit,), created_at=now, updated_at=now)


async def charge(charger: Charger, subject: Key) -> ChargeOutcome:
    return await charger.charge(subject, charges={"requests": 1}, consume=True)


async def back(charger: Charger, subject: Key) -> ChargeOutcome:
    """The first answer that Redis gives again."""
    async with asyncio.timeout(20):
        while (outcome := await charge(charger, subject)).degradations:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return outcome


def metric(name: str) -> float:
    value = REGISTRY.get_sample_value(name)
    assert value is not None
    return value


@pytest.mark.parametrize("loss", ["pause", "kill"])
async def test_without_redis_each_server_holds_its_share_and_says_so(
    valkey: ValkeyProcess, charger: Charger, loss: str
) -> None:
    assert (await charge(charger, key())).degradations == ()
    getattr(valkey, loss)()
    outcomes = [await charge(charger, key()) for _ in range(30)]
    assert all(outcome.degradations == LOCAL for outcome in outcomes)
    assert [outcome.code for outcome in outcomes] == [DecisionCode.ALLOWED] * 25 + [DecisionCode.RATE_LIMITED] * 5
    assert (outcomes[0].limits[0].limit, outcomes[0].limits[0].remaining) == (100 // REPLICAS, 24)
    assert outcomes[-1].retry_after is not None


async def test_the_share_of_a_small_limit_is_one_and_of_none_is_none(valkey: ValkeyProcess, charger: Charger) -> None:
    valkey.kill()
    for amount, expected in ((0, [False, False]), (3, [True, False])):
        subject = key(amount, key_id=f"key_{amount}")
        outcomes = [await charge(charger, subject) for _ in range(2)]
        assert [outcome.code is DecisionCode.ALLOWED for outcome in outcomes] == expected


async def test_a_redis_that_hangs_keeps_nobody_waiting_and_only_the_first_wait_at_all(
    valkey: ValkeyProcess, charger: Charger
) -> None:
    await charge(charger, key())
    valkey.pause()
    started = time.monotonic()
    outcomes = await asyncio.gather(*(charge(charger, key(key_id=f"key_{number}")) for number in range(500)))
    assert TIMEOUT_SECONDS <= time.monotonic() - started < 4 * TIMEOUT_SECONDS
    assert all(outcome.degradations == LOCAL for outcome in outcomes)
    started = time.monotonic()
    for _ in range(100):
        assert (await charge(charger, key())).degradations == LOCAL
    assert time.monotonic() - started < TIMEOUT_SECONDS


async def test_redis_is_used_again_within_a_second_of_its_return_and_its_counts_are_kept(
    valkey: ValkeyProcess, charger: Charger
) -> None:
    for _ in range(3):
        await charge(charger, key())
    valkey.pause()
    for number in range(20):
        await charge(charger, key(key_id=f"other_{number}"))
    valkey.resume()
    resumed = time.monotonic()
    outcome = await back(charger, key())
    assert time.monotonic() - resumed < RECOVERY_SECONDS
    assert outcome.limits[0].limit == 100
    assert outcome.limits[0].used == 4, "an answer that came too late was taken for another one's"


async def test_a_redis_that_lost_everything_is_used_again_within_a_second(
    valkey: ValkeyProcess, charger: Charger
) -> None:
    await charge(charger, key())
    valkey.kill()
    await charge(charger, key())
    await valkey.start()
    started = time.monotonic()
    assert (await back(charger, key())).limits[0].used == 1
    assert time.monotonic() - started < RECOVERY_SECONDS


async def test_a_restart_between_two_charges_goes_unnoticed(valkey: ValkeyProcess, charger: Charger) -> None:
    await charge(charger, key())
    valkey.kill()
    await valkey.start()
    assert (await charge(charger, key())).degradations == ()


async def test_a_redis_that_answers_but_cannot_write_stays_out_of_use(valkey: ValkeyProcess, charger: Charger) -> None:
    connection = await Redis.connect(valkey.url)
    await connection._client.config_set("maxmemory", 1)
    assert (await charge(charger, key())).degradations == LOCAL
    with structlog.testing.capture_logs() as log:
        await asyncio.sleep(3 * PROBE_INTERVAL_SECONDS)
    assert log == []
    assert (await charge(charger, key())).degradations == LOCAL
    await connection._client.config_set("maxmemory", 0)
    await back(charger, key())
    await connection.close()


async def test_each_loss_and_return_is_logged_once_and_counted(valkey: ValkeyProcess, charger: Charger) -> None:
    outages, local = metric("tollkeeper_redis_outages_total"), metric("tollkeeper_rate_charges_local_total")
    with structlog.testing.capture_logs() as log:
        valkey.kill()
        await asyncio.gather(*(charge(charger, key()) for _ in range(50)))
        assert metric("tollkeeper_redis_up") == 0
        await valkey.start()
        await back(charger, key())
    assert [(entry["event"], entry["log_level"]) for entry in log if entry["event"] != "redis_epoch_begun"] == [
        ("redis_lost", "error"),
        ("redis_back", "info"),
    ]
    assert metric("tollkeeper_redis_up") == 1
    assert metric("tollkeeper_redis_outages_total") == outages + 1
    assert metric("tollkeeper_rate_charges_local_total") >= local + 50


async def test_a_stall_of_this_process_is_not_taken_for_one_of_redis(charger: Charger) -> None:
    await charge(charger, key())
    asked = asyncio.create_task(charge(charger, key()))
    for _ in range(3):  # until it has gone out
        await asyncio.sleep(0)
    time.sleep(2 * TIMEOUT_SECONDS)  # noqa: ASYNC251 (the stall)
    assert (await asked).degradations == ()


async def test_closing_while_redis_is_away_ends_at_once(valkey: ValkeyProcess, postgres_url: str) -> None:
    async with asyncio.timeout(8 * TIMEOUT_SECONDS):
        async with server(postgres_url, valkey.url, timeout_seconds=TIMEOUT_SECONDS) as charger:
            valkey.pause()
            asked = asyncio.create_task(charge(charger, key()))
            await asyncio.sleep(0)
        assert (await asked).degradations == LOCAL
