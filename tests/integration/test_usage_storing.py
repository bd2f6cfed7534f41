"""Usage is stored exactly once: across flushes, lost answers, outages and a stop; and it waits for nobody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.integration.keys_support import ROOT
from tests.integration.usage_support import DAY, HOUR, MINUTE, NOON, Usage, usage_on
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.keys.commands import RevokeKey
from tollkeeper_server.storage.postgres import Connection, Postgres
from tollkeeper_server.usage.store import add_counters

THIS_MINUTE = NOON.replace(second=0)


class UnreliablePostgres:
    """A Postgres whose answers get lost on the way: after so many statements' work is done, or before it is begun."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self.is_away = False
        self.loses_answers = 0

    @asynccontextmanager
    async def connection(self, *, timeout_seconds: float = 5.0) -> AsyncIterator[Connection]:
        if self.is_away:
            raise Unavailable("away", reason="POSTGRES_UNAVAILABLE")
        async with self._postgres.connection(timeout_seconds=timeout_seconds) as connection:
            yield connection
        if self.loses_answers:
            self.loses_answers -= 1
            raise Unavailable("the answer was lost", reason="POSTGRES_UNAVAILABLE")


@pytest.fixture
async def usage(postgres_url: str) -> AsyncIterator[Usage]:
    async with usage_on(postgres_url) as usage:
        yield usage


@pytest.fixture
def postgres(usage: Usage) -> UnreliablePostgres:
    unreliable = UnreliablePostgres(usage.keys.postgres)
    usage.flusher._postgres = unreliable  # type: ignore[assignment]
    return unreliable


async def test_what_is_told_is_what_was_recorded_whenever_it_was_flushed(usage: Usage) -> None:
    secret = await usage.key(owner_id="customer-1")
    for _ in range(3):
        usage.use(secret, times=7, charges={"requests": 1, "tokens": 250})
        usage.use(secret, DecisionCode.RATE_LIMITED, times=2)
        assert await usage.flusher.flush()
    (bucket,) = await usage.buckets(secret.key)
    assert bucket.starts_at == THIS_MINUTE
    assert bucket.decisions == {DecisionCode.ALLOWED: 21, DecisionCode.RATE_LIMITED: 6}
    assert bucket.units == {"requests": 21, "tokens": 5250}
    assert await usage.buckets(owner_id="customer-1") == [bucket]


async def test_an_owner_is_told_the_sum_of_its_keys(usage: Usage) -> None:
    secrets = [await usage.key(owner_id="customer-1"), await usage.key(owner_id="customer-1"), await usage.key()]
    for times, secret in enumerate(secrets, start=1):
        usage.use(secret, times=times)
    await usage.flusher.flush()
    (bucket,) = await usage.buckets(owner_id="customer-1")
    assert bucket.decisions == {DecisionCode.ALLOWED: 3}


async def test_servers_add_to_the_same_minute_at_the_same_time(usage: Usage) -> None:
    secrets = [await usage.key(owner_id="customer-1") for _ in range(5)]
    servers = [usage.another_server() for _ in range(4)]
    for turn in range(5):
        for server in servers:
            for secret in secrets if turn % 2 else reversed(secrets):
                usage.use(secret)
            server._waiting.extend(usage.recorder.take())
        assert all(await asyncio.gather(*(server.flush() for server in servers)))
    (bucket,) = await usage.buckets(owner_id="customer-1")
    assert bucket.units == {"requests": 5 * 4 * 5}


async def test_a_batch_whose_answer_was_lost_is_added_once(usage: Usage, postgres: UnreliablePostgres) -> None:
    secret = await usage.key()
    usage.use(secret, times=10)
    postgres.loses_answers = 3
    for _ in range(3):
        assert not await usage.flusher.flush()
        usage.use(secret, times=5)
    assert await usage.flusher.flush()
    assert await usage.total(secret.key, "ALLOWED") == 25


async def test_a_batch_that_is_sent_again_while_its_first_sending_goes_on_is_added_once(usage: Usage) -> None:
    secret = await usage.key()
    usage.use(secret, times=10)
    async with usage.keys.postgres.transaction() as slow:
        usage.flusher._waiting.extend(usage.recorder.take())
        batch = usage.flusher._next()
        assert batch is not None
        await add_counters(slow, batch.counters, server_id=usage.flusher._server_id, number=batch.number)
        again = asyncio.create_task(usage.flusher.flush())
        await usage.keys.until("SELECT count(*) > 0 AS done FROM pg_locks WHERE NOT granted")
    assert await again
    assert await usage.total(secret.key, "ALLOWED") == 10


async def test_while_postgres_is_away_usage_waits_and_is_stored_when_it_is_back(
    usage: Usage, postgres: UnreliablePostgres
) -> None:
    secret = await usage.key()
    postgres.is_away = True
    for minute in range(10):
        usage.use(secret, times=3, at=NOON + minute * MINUTE)
        assert not await usage.flusher.flush()
    postgres.is_away = False
    assert await usage.flusher.flush()
    buckets = await usage.buckets(secret.key, start_time=NOON, end_time=NOON + HOUR)
    assert [bucket.units["requests"] for bucket in buckets] == [3] * 10


async def test_nothing_is_lost_when_a_server_stops_in_the_middle_of_a_flush(usage: Usage) -> None:
    secret = await usage.key()
    usage.use(secret, times=10)
    async with usage.keys.postgres.transaction() as blocker:
        await blocker.execute("LOCK TABLE usage_buckets")
        flush = asyncio.create_task(usage.flusher.flush())
        await usage.keys.until("SELECT count(*) > 0 AS done FROM pg_locks WHERE NOT granted")
        usage.use(secret, times=5)
        flush.cancel()
        await asyncio.wait([flush])
    await usage.flusher.close()
    assert await usage.total(secret.key, "ALLOWED") == 15


async def test_more_keys_than_fit_one_batch_are_all_stored(usage: Usage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollkeeper_server.usage.flusher.BATCH_KEY_MINUTES", 3)
    secrets = [await usage.key(owner_id="customer-1") for _ in range(8)]
    for secret in secrets:
        usage.use(secret)
    assert await usage.flusher.flush()
    (bucket,) = await usage.buckets(owner_id="customer-1")
    assert bucket.units == {"requests": 8}


async def test_amounts_beyond_a_64_bit_number_are_told_as_the_greatest(usage: Usage) -> None:
    secret = await usage.key()
    usage.use(secret, times=10_000, charges={"tokens": 10**15})
    usage.use(secret)
    assert await usage.flusher.flush()
    (bucket,) = await usage.buckets(secret.key)
    assert bucket.units == {"tokens": 2**63 - 1, "requests": 1}


async def test_a_batch_that_postgres_refuses_holds_up_no_other(
    usage: Usage, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = await usage.key()
    usage.use(secret, charges={"bad\0unit": 1})
    assert await usage.flusher.flush()
    usage.use(secret)
    assert await usage.flusher.flush()
    assert await usage.total(secret.key, "requests") == 1
    assert "usage_batch_refused" in capsys.readouterr().out


async def last_uses(usage: Usage, key_id: str) -> tuple[object, object]:
    (row,) = await usage.keys.rows(
        "SELECT keys.last_used_at AS of_key, secrets.last_used_at AS of_secret FROM keys JOIN secrets USING (key_id) "
        "WHERE key_id = $1",
        key_id,
    )
    return row["of_key"], row["of_secret"]


async def test_the_last_use_is_told_to_the_minute_and_never_goes_back(usage: Usage) -> None:
    secret = await usage.key()
    assert await last_uses(usage, secret.key.key_id) == (None, None)
    for at, expected in [
        (NOON, THIS_MINUTE),
        (NOON - HOUR, THIS_MINUTE),
        (NOON + MINUTE, THIS_MINUTE + MINUTE),
        (NOON - DAY, THIS_MINUTE + MINUTE),
    ]:
        await usage.stored(secret, at=at, code=DecisionCode.PERMISSION_DENIED)
        assert await last_uses(usage, secret.key.key_id) == (expected, expected)


async def test_a_callers_use_is_noted_and_counts_as_no_verification(usage: Usage) -> None:
    secret = await usage.key(owner_id="ops")
    usage.recorder.record_use(secret, client_ip=None, now=NOON)
    assert await usage.flusher.flush()
    assert await last_uses(usage, secret.key.key_id) == (THIS_MINUTE, THIS_MINUTE)
    assert await usage.buckets(secret.key) == await usage.buckets(owner_id="ops") == []


async def test_a_key_is_not_written_again_within_the_minute(usage: Usage) -> None:
    secret = await usage.key()

    async def version() -> list[dict[str, object]]:
        return await usage.keys.rows("SELECT keys.ctid, secrets.ctid FROM keys JOIN secrets USING (key_id)")

    await usage.stored(secret, at=NOON)
    before = await version()
    await usage.stored(secret, at=NOON)
    assert await version() == before
    await usage.stored(secret, at=NOON + MINUTE)
    assert await version() != before


async def test_a_key_under_a_mutation_is_left_for_the_next_flush(usage: Usage) -> None:
    secret, free = await usage.key(), await usage.key()
    async with usage.keys.postgres.transaction() as mutation:
        await mutation.execute("SELECT FROM keys WHERE key_id = $1 FOR UPDATE", secret.key.key_id)
        usage.use(secret)
        usage.use(free)
        async with asyncio.timeout(2):
            assert await usage.flusher.flush()
        assert await last_uses(usage, free.key.key_id) == (THIS_MINUTE, THIS_MINUTE)
    await usage.stored(free, at=NOON)
    assert await last_uses(usage, secret.key.key_id) == (THIS_MINUTE, THIS_MINUTE)
    assert await usage.total(secret.key, "ALLOWED") == 1


async def test_mutations_and_flushes_of_the_same_keys_all_get_through(usage: Usage) -> None:
    secrets = [await usage.key() for _ in range(20)]

    async def flush_all_the_time() -> None:
        for minute in range(60):
            for secret in secrets:
                usage.use(secret, at=NOON + minute * MINUTE)
            assert await usage.flusher.flush()

    flushing = asyncio.create_task(flush_all_the_time())
    revoked = await asyncio.gather(
        *(usage.keys.service.revoke(ROOT, RevokeKey(key_id=secret.key.key_id)) for secret in secrets)
    )
    await flushing
    assert all(mutation.key.revoked_at for mutation in revoked)
    states = await usage.keys.rows("SELECT state, last_used_at FROM keys")
    assert states == [{"state": "REVOKED", "last_used_at": THIS_MINUTE + 59 * MINUTE}] * 20
