"""Usage of keys with limits: counted where it is charged, in Redis or in the ledger, and stored exactly once."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio

from tests.integration.quota_support import (
    PATIENT_SECONDS,
    charge,
    debited,
    key,
    quota,
    rate,
    server,
    until_nothing_is_lost,
    until_used,
    used,
)
from tests.integration.valkey_process import ValkeyProcess, valkey_nodes, valkey_process
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.quota import charge_store
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.storage.redis import Redis
from tollkeeper_server.usage import drainer, store
from tollkeeper_server.usage.drainer import UsageDrainer

ALLOWED, EXCEEDED = DecisionCode.ALLOWED, DecisionCode.QUOTA_EXCEEDED
MINUTE_US = 60_000_000
HURRIED_SECONDS = 0.3


def total(charges: int, units: int) -> dict[str, int]:
    return {"ALLOWED": charges, "requests": units}


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[ValkeyProcess]:
    async with valkey_process(tmp_path, ("--appendonly", "yes")) as process:
        yield process


@asynccontextmanager
async def drainer_on(postgres_url: str, redis_url: str, *, minutes_ahead: int = 0) -> AsyncIterator[UsageDrainer]:
    """A drainer that drains when it is told to."""
    postgres, connection = await Postgres.connect(postgres_url), await Redis.connect(redis_url)
    seconds, microseconds = await connection._client.time()
    now_us = seconds * 1_000_000 + microseconds + minutes_ahead * MINUTE_US
    yield UsageDrainer(connection, postgres, touched=set(), clock_us=lambda: now_us)
    await connection.close()
    await postgres.close()


async def names(redis_url: str) -> list[str]:
    async with redis.asyncio.from_url(redis_url) as client:
        return [name.decode() async for name in client.scan_iter("tk:*:usage:*")]


async def test_what_is_charged_is_counted_once_and_nothing_else_is(postgres_url: str, redis_url: str) -> None:
    subject = key(quota(10), rate(100), owner_id="owner_1")
    async with server(postgres_url, redis_url) as charger:
        assert await charge(charger, subject, 3, request_id="once") is ALLOWED
        assert await charge(charger, subject, 3, request_id="once") is ALLOWED
        assert await charge(charger, subject, 4) is ALLOWED
        assert await charge(charger, subject, 4) is EXCEEDED
        await charger.charge(subject, charges={"requests": 1}, consume=False, counts={"requests": 1})
        await until_used(postgres_url, total(2, 7))
        assert await used(postgres_url, "acme/owner_1") == total(2, 7)
        assert await charge(charger, subject, 1) is ALLOWED
    assert await used(postgres_url) == await used(postgres_url, "acme/owner_1") == total(3, 8)


async def test_keys_of_an_owner_are_told_apart_and_rates_alone_suffice(postgres_url: str, redis_url: str) -> None:
    async with server(postgres_url, redis_url) as charger:
        for number in (1, 2, 2):
            await charge(charger, key(rate(10), key_id=f"key_{number}", owner_id="owner_1"), number)
    assert await used(postgres_url, "key_1") == total(1, 1)
    assert await used(postgres_url, "key_2") == total(2, 4)
    assert await used(postgres_url, "acme/owner_1") == total(3, 5)


async def test_charges_of_a_key_that_go_to_redis_together_are_counted_together(
    postgres_url: str, redis_url: str
) -> None:
    async with server(postgres_url, redis_url) as charger, redis.asyncio.from_url(redis_url) as client:
        subject = key(rate(1000))
        await charge(charger, subject)
        await client.config_resetstat()
        await asyncio.gather(*(charge(charger, subject, 5) for _ in range(100)))
        increments = (await client.info("commandstats"))["cmdstat_hincrby"]["calls"]
    print(f"\n100 charges of one key at once: {increments} HINCRBY")
    assert increments <= 6
    assert await used(postgres_url) == total(101, 501)


async def test_more_units_than_a_minute_of_a_key_has_room_for_are_left_out(postgres_url: str, redis_url: str) -> None:
    async with server(postgres_url, redis_url) as charger:
        subject = key(rate(1000), key_id="key_1", owner_id="owner_1")
        for number in range(40):
            counts = {"ALLOWED": 1, f"unit{number}": 10**15}
            await charger.charge(subject, charges={"requests": 1}, consume=True, counts=counts)
        await charge(charger, key(rate(1000), key_id="key_2", owner_id="owner_1"))
    found = await used(postgres_url)
    assert (len(found), found["ALLOWED"], found["unit0"]) == (33, 40, 10**15)
    assert (await used(postgres_url, "acme/owner_1"))["ALLOWED"] == 41


async def test_amounts_beyond_what_lua_and_redis_count_end_at_the_greatest(postgres_url: str, redis_url: str) -> None:
    async with server(postgres_url, redis_url) as charger:
        subject = key(rate(10**6))
        counts = {"tokens": 10**15 - 1}
        for _ in range(4):
            charging = (
                charger.charge(subject, charges={"requests": 1}, consume=True, counts=counts) for _ in range(100)
            )
            await asyncio.gather(*charging)
    assert await used(postgres_url) == {"tokens": 400 * (10**15 - 1)}


async def test_a_hash_goes_once_its_minute_is_over_unless_it_was_counted_in_since_it_was_read(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server(postgres_url, redis_url) as charger:
        await charge(charger, key(rate(10)), 2)
    (name,) = await names(redis_url)
    async with drainer_on(postgres_url, redis_url, minutes_ahead=2) as late:
        original = late._store

        async def store_while_it_is_counted_in(hashes: object) -> None:
            await original(hashes)  # type: ignore[arg-type]
            await late._redis._client.hincrby(name, "key_1/requests", 5)

        monkeypatch.setattr(late, "_store", store_while_it_is_counted_in)
        late._touched.add(name)
        assert await late.drain()
        assert await names(redis_url) == [name]
        monkeypatch.setattr(late, "_store", original)
        assert await late.drain()
        assert await names(redis_url) == []
        assert await late.drain()
        assert not late._begun
    assert await used(postgres_url) == total(1, 7)


async def test_what_a_killed_server_left_is_found(postgres_url: str, redis_url: str) -> None:
    async with server(postgres_url, redis_url) as charger:
        charger._counters._store.touched = set()  # as if it had been killed before it drained
        await charge(charger, key(rate(10)), 2)
    async with drainer_on(postgres_url, redis_url) as other:
        await other.drain()
        assert await used(postgres_url) == {}
        assert await other.look(not_within_seconds=0)
        assert await used(postgres_url) == total(1, 2)
        await other._redis._client.hincrby((await names(redis_url))[0], "key_1/requests", 5)
        assert await other.look(not_within_seconds=60), "another server has looked a moment ago"
        assert await used(postgres_url) == total(1, 2)


async def test_one_that_does_not_answer_delays_what_is_stored_and_loses_nothing(
    postgres_url: str, valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drainer, "TIMEOUT_SECONDS", 0.2)
    async with server(postgres_url, valkey.url) as charger:
        await charge(charger, key(rate(10)), 2)
        (name,) = await names(valkey.url)
        valkey.pause()
        async with drainer_on_paused(postgres_url, valkey) as other:
            other._touched.add(name)
            assert not await other.drain()
            assert name in other._touched
            valkey.resume()
            assert await other.drain()
    assert await used(postgres_url) == total(1, 2)


@asynccontextmanager
async def drainer_on_paused(postgres_url: str, valkey: ValkeyProcess) -> AsyncIterator[UsageDrainer]:
    valkey.resume()
    async with drainer_on(postgres_url, valkey.url) as drainer:
        valkey.pause()
        yield drainer


async def test_what_redis_lost_after_it_was_stored_is_not_missed_and_what_came_after_is_added(
    postgres_url: str, redis_url: str
) -> None:
    async with server(postgres_url, redis_url) as charger, redis.asyncio.from_url(redis_url) as client:
        await charge(charger, key(rate(1000)), 5)
        await until_used(postgres_url, total(1, 5))
        await client.flushall()
        await charge(charger, key(rate(1000)), 2)
        await until_used(postgres_url, total(2, 7))


async def restored(postgres_url: str, valkey: ValkeyProcess, directory: Path) -> dict[str, int]:
    """What is stored after usage was drained, an older snapshot was restored, and more was used."""
    async with server(postgres_url, valkey.url) as charger, redis.asyncio.from_url(valkey.url) as client:
        await charge(charger, key(quota(1000)), 5)
        await client.save()
        shutil.copy(directory / "dump.rdb", directory / "old.rdb")
        await charge(charger, key(quota(1000)), 3)
        await until_used(postgres_url, total(2, 8))
        valkey.kill()
        shutil.rmtree(directory / "appendonlydir", ignore_errors=True)
        shutil.copy(directory / "old.rdb", directory / "dump.rdb")
        await valkey.start()
        await charge(charger, key(quota(1000)), 2)
    async with drainer_on(postgres_url, valkey.url) as late:
        assert await late.look(not_within_seconds=0)
    return await used(postgres_url)


async def test_a_restored_snapshot_counts_nothing_again_and_hides_nothing_new(
    postgres_url: str, tmp_path: Path
) -> None:
    async with valkey_process(tmp_path) as valkey:
        assert await restored(postgres_url, valkey, tmp_path) == total(3, 10)


@pytest.mark.parametrize("wrong", ["amount = bucket.amount + excluded.amount", "amount = excluded.amount"])
async def test_usage_that_is_added_again_or_lowered_is_noticed(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    right = "amount = excluded.amount\n        WHERE bucket.amount < excluded.amount"
    assert right in store._RAISE
    monkeypatch.setattr(store, "_RAISE", store._RAISE.replace(right, wrong))
    async with valkey_process(tmp_path) as valkey:
        with pytest.raises(AssertionError):
            assert await restored(postgres_url, valkey, tmp_path) == total(3, 10)


async def test_a_cluster_counts_and_drains_across_its_nodes(postgres_url: str, tmp_path: Path) -> None:
    async with valkey_nodes(tmp_path, count=3) as nodes:
        async with server(postgres_url, nodes[0].url) as charger:
            subjects = [key(quota(100), key_id=f"key_{number}") for number in range(30)]
            await asyncio.gather(*(charge(charger, subject, 2) for subject in subjects))
        assert [await used(postgres_url, subject.key_id) for subject in subjects] == [total(1, 2)] * 30
        async with drainer_on_cluster(postgres_url, nodes[0].url) as late:
            assert await late.look(not_within_seconds=0)
        assert [await names(node.url) for node in nodes] == [[], [], []]


@asynccontextmanager
async def drainer_on_cluster(postgres_url: str, url: str) -> AsyncIterator[UsageDrainer]:
    postgres, connection = await Postgres.connect(postgres_url), await Redis.connect(url)
    yield UsageDrainer(connection, postgres, touched=set(), clock_us=lambda: 2**62)
    await connection.close()
    await postgres.close()


async def test_without_redis_usage_is_stored_with_the_charge_once_for_each_record(
    postgres_url: str, valkey: ValkeyProcess
) -> None:
    subject = key(quota(100), owner_id="owner_1")
    async with server(postgres_url, valkey.url, timeout_seconds=HURRIED_SECONDS) as charger:
        await charge(charger, subject)
        await until_used(postgres_url, total(1, 1))
        valkey.kill()
        for _ in range(3):
            assert await charge(charger, subject, 4, request_id="once") is ALLOWED
        assert await charge(charger, subject, 2) is ALLOWED
        assert await charge(charger, subject, 1000) is EXCEEDED
        assert await used(postgres_url) == await used(postgres_url, "acme/owner_1") == total(3, 7)
        await valkey.start()
        while (await charger.charge(subject, charges={}, consume=False)).degradations:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await charge(charger, subject, 4, request_id="once") is ALLOWED
    assert await used(postgres_url) == total(3, 7)


async def charged_twice(postgres_url: str, valkey: ValkeyProcess, *, lose_redis: bool) -> tuple[int, dict[str, int]]:
    """Units debited, and usage stored, after a charge was made in Redis and again, elsewhere, without it.

    Every unit counts: the limit is so small that no pool holds more than was asked for.
    """
    subject = key(quota(50))
    async with (
        server(postgres_url, valkey.url, timeout_seconds=PATIENT_SECONDS / 10) as first,
        server(postgres_url, valkey.url, timeout_seconds=HURRIED_SECONDS) as second,
    ):
        assert await charge(first, subject, 4, request_id="once") is ALLOWED
        if lose_redis:
            valkey.kill()
        else:
            valkey.pause()
        assert await charge(second, subject, 1) is ALLOWED  # which finds out that Redis is away
        assert await charge(second, subject, 4, request_id="once") is ALLOWED
        assert await debited(postgres_url) in (9, 10)
        if lose_redis:
            shutil.rmtree(Path(valkey.url.removeprefix("unix://")).parent / "appendonlydir")
            await valkey.start()
        else:
            valkey.resume()
        while (await second.charge(subject, charges={}, consume=False)).degradations:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await charge(first, subject, 4, request_id="once") is ALLOWED
        await until_nothing_is_lost(postgres_url)
    return await debited(postgres_url), await used(postgres_url)


async def test_a_charge_made_in_redis_and_again_without_it_is_given_back(
    postgres_url: str, valkey: ValkeyProcess
) -> None:
    units, usage = await charged_twice(postgres_url, valkey, lose_redis=False)
    print(f"\nafter Redis was back: {units} units debited, {usage} stored")
    # What was asked of Redis while it was paused, and never answered, was made and counted there, too.
    assert units == 5
    assert usage in (total(2, 5), total(3, 6))


async def test_a_charge_that_redis_lost_stays_charged_twice(postgres_url: str, valkey: ValkeyProcess) -> None:
    units, usage = await charged_twice(postgres_url, valkey, lose_redis=True)
    assert units == 9
    assert usage["requests"] >= 5


async def test_a_charge_that_is_not_given_back_is_noticed(
    postgres_url: str, valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = charge_store.ChargeStore.remember

    async def remember(self: charge_store.ChargeStore, records: list[str]) -> dict[str, bool]:
        await original(self, records)
        return {}

    monkeypatch.setattr(charge_store.ChargeStore, "remember", remember)
    units, usage = await charged_twice(postgres_url, valkey, lose_redis=False)
    print(f"\nnothing is given back: {units} units debited, {usage} stored")
    assert units == 9
    assert usage["requests"] >= 9
