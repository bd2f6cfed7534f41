"""Servers of two versions, whose charging scripts differ, hold limits together, as during a rolling upgrade."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from tests.integration.quota_support import charge, key, quota, rate, server, until_nothing_is_lost
from tests.integration.valkey_process import ValkeyProcess, valkey_process
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.quota import charging
from tollkeeper_server.quota.charge_script import SCRIPT
from tollkeeper_server.quota.charge_store import ChargeStore
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.quota.charges import ChargeAnswer
from tollkeeper_server.quota.demands import Demands
from tollkeeper_server.storage.redis import Redis, Script, ScriptLost

ALLOWED, EXCEEDED = DecisionCode.ALLOWED, DecisionCode.QUOTA_EXCEEDED
LATER = Script(SCRIPT.text + "\n-- a later version\n")
SECONDS = 20


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[ValkeyProcess]:
    async with valkey_process(tmp_path) as process:
        yield process


@contextlib.asynccontextmanager
async def later_server(postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Charger]:
    """A server of a later version."""
    with monkeypatch.context() as patched:
        patched.setattr(charging, "ChargeStore", partial(ChargeStore, script=LATER))
        later = server(postgres_url, redis_url)
        charger = await later.__aenter__()
    try:
        yield charger
    finally:
        await later.__aexit__(None, None, None)


async def epoch(postgres_url: str) -> str:
    connection = await asyncpg.connect(postgres_url)
    try:
        return str(await connection.fetchval("SELECT epoch FROM quota_epoch"))
    finally:
        await connection.close()


async def seal(postgres_url: str) -> str | None:
    """That of the later version in the current epoch."""
    connection = await asyncpg.connect(postgres_url)
    try:
        found = "SELECT seal FROM quota_scripts JOIN quota_epoch USING (epoch) WHERE script = $1"
        return await connection.fetchval(found, LATER.digest)  # type: ignore[no-any-return]
    finally:
        await connection.close()


@pytest.mark.parametrize("later_first", [False, True])
async def test_they_share_an_epoch_and_its_pools(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, later_first: bool
) -> None:
    subject = key(quota(100), rate(1000))
    earlier, later = server(postgres_url, redis_url), later_server(postgres_url, redis_url, monkeypatch)
    first, second = (later, earlier) if later_first else (earlier, later)
    async with first as one:
        assert await charge(one, subject) is ALLOWED
        begun = await epoch(postgres_url)
        async with second as other:
            outcomes = await asyncio.gather(
                *(each.charge(subject, charges={"requests": 1}, consume=True) for each in (one, other) * 80)
            )
    assert [outcome.code for outcome in outcomes].count(ALLOWED) == 99
    assert {outcome.degradations for outcome in outcomes} == {()}
    assert await epoch(postgres_url) == begun


async def test_all_of_them_notice_that_redis_was_replaced(
    postgres_url: str, valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = key(quota(100))
    async with (
        server(postgres_url, valkey.url) as one,
        later_server(postgres_url, valkey.url, monkeypatch) as other,
    ):
        admitted = [await charge(each, subject) for each in (one, other)]
        begun = await epoch(postgres_url)
        valkey.kill()
        await valkey.start()
        async with asyncio.timeout(SECONDS):
            for each in (one, other):
                while (await each.charge(subject, charges={"requests": 1}, consume=False)).degradations:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert await epoch(postgres_url) != begun
        after = await epoch(postgres_url)
        admitted += [await charge(each, subject) for each in (one, other) * 80]
        assert await epoch(postgres_url) == after
        assert admitted.count(ALLOWED) <= 100
        await until_nothing_is_lost(postgres_url)
        admitted += [await charge(each, subject) for each in (one, other) * 80]
    assert admitted.count(ALLOWED) == 100


async def test_a_script_that_a_replaced_redis_learned_is_never_used(
    postgres_url: str, valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of the later version comes after Redis was replaced, and dies before it has begun a new epoch."""
    subject = key(quota(100))
    async with server(postgres_url, valkey.url) as one:
        assert await charge(one, subject) is ALLOWED
    begun = await epoch(postgres_url)
    valkey.kill()
    await valkey.start()
    learned: list[str] = []
    load = ChargeStore.load

    async def noted(self: ChargeStore, epoch: str, *, seal: str) -> None:
        learned.append(seal)
        await load(self, epoch, seal=seal)

    with monkeypatch.context() as patched:
        patched.setattr(ChargeStore, "load", noted)
        patched.setattr(ChargeStore, "begin", _die)
        with pytest.raises(_Died):
            await later_server(postgres_url, valkey.url, monkeypatch).__aenter__()
    assert (len(learned), await epoch(postgres_url)) == (1, begun)
    redis = await Redis.connect(valkey.url)
    try:
        demands = Demands(subject, None, charges={"requests": 1}, counts={}, keep=0)
        asked = demands.charge(now_us=time.time_ns() // 1000, consume=True)
        store = ChargeStore(redis, script=LATER)
        store.enter(begun, seal=await seal(postgres_url))
        (answer,) = await store.charge([asked], timeout_seconds=SECONDS)
        assert isinstance(answer, ScriptLost)
        store.enter(begun, seal=learned[0])
        (answer,) = await store.charge([asked], timeout_seconds=SECONDS)
        assert isinstance(answer, ChargeAnswer), "Redis knows it, so nothing but the seal keeps it from being used"
    finally:
        await redis.close()


class _Died(Exception):
    pass


async def _die(*_: object, **__: object) -> None:
    raise _Died
