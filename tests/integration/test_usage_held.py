"""Usage of what was held follows what was really used, and is counted exactly once, whoever ends the hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from tests.integration.api_support import Api, api_on
from tests.integration.quota_support import key, quota, rate, server
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.core.limits import Limit
from tollkeeper_server.keys.commands import CreatedKey
from tollkeeper_server.quota import reservations, settlements
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.usage import flusher

DAILY, HOURLY = quota(1000), rate(1000)


@pytest.fixture
async def api(postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(flusher, "FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(reservations, "REAP_SECONDS", 0.05)
    async with api_on(postgres_url, redis_url) as api:
        yield api


async def verify(api: Api, created: CreatedKey, **fields: Any) -> pb.VerifyResponse:
    answer: pb.VerifyResponse = await api.verification.Verify(
        pb.VerifyRequest(api_key=created.api_key, **fields), metadata=api.root
    )
    assert answer.code == pb.DECISION_CODE_ALLOWED
    return answer


async def settle(api: Api, answer: pb.VerifyResponse, verifications: int = 0, **charges: int) -> pb.SettleResponse:
    request = pb.SettleRequest(reservation_id=answer.reservation_id, charges=charges, verifications=verifications)
    response: pb.SettleResponse = await api.verification.Settle(request, metadata=api.root)
    return response


async def counted(url: str, subject: str) -> dict[str, int]:
    """All that is stored of a key's or owner's usage."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT counter, sum(amount)::bigint AS amount FROM usage_buckets WHERE subject = $1 GROUP BY counter",
            subject,
        )
    finally:
        await connection.close()
    return {row["counter"]: row["amount"] for row in rows}


async def until_counted(url: str, subject: str, expected: dict[str, int]) -> None:
    async with asyncio.timeout(10):
        while await counted(url, subject) != expected:  # noqa: ASYNC110 (the database has no event for it)
            await asyncio.sleep(0.02)


async def run_out(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE reservations SET expires_at = now()")
    await connection.close()


@pytest.mark.parametrize("limit", [DAILY, HOURLY], ids=["quota", "rate"])
async def test_a_kept_answer_counts_what_it_was_used_for(api: Api, postgres_url: str, limit: Limit) -> None:
    created = await api.key("acme", owner_id="owner", limits=(limit,))
    answer = await verify(api, created, keep=10, charges={"requests": 1, "tokens": 7})
    for _ in range(3):
        await settle(api, answer, verifications=4, requests=4, tokens=30)
    await verify(api, created)  # one more, so that it is known to be flushed
    for subject in (created.key.key_id, "acme/owner"):
        await until_counted(postgres_url, subject, {"ALLOWED": 5, "requests": 5, "tokens": 30})


async def test_a_kept_answer_that_is_forgotten_counts_as_held(api: Api, postgres_url: str) -> None:
    created = await api.key("acme", owner_id="owner", limits=(DAILY,))
    answer = await verify(api, created, keep=10, charges={"requests": 1, "tokens": 7})
    await run_out(postgres_url)
    for subject in (created.key.key_id, "acme/owner"):
        await until_counted(postgres_url, subject, {"ALLOWED": 10, "requests": 10, "tokens": 70})
    assert (await settle(api, answer, verifications=1, requests=1)).already_settled
    await verify(api, created)
    await until_counted(postgres_url, created.key.key_id, {"ALLOWED": 11, "requests": 11, "tokens": 70})


async def test_a_reservation_counts_its_decision_at_once_and_its_units_when_it_ends(
    api: Api, postgres_url: str
) -> None:
    for limits in ((DAILY,), (HOURLY,), ()):
        created = await api.key("acme", limits=limits)
        settled, released, forgotten = [
            await verify(api, created, reserve=True, charges={"requests": 1, "tokens": 100}) for _ in range(3)
        ]
        await until_counted(postgres_url, created.key.key_id, {"ALLOWED": 3})
        await settle(api, settled, requests=1, tokens=150)
        await settle(api, released)
        await until_counted(postgres_url, created.key.key_id, {"ALLOWED": 3, "requests": 1, "tokens": 150})
        await run_out(postgres_url)
        await until_counted(postgres_url, created.key.key_id, {"ALLOWED": 3, "requests": 2, "tokens": 250})
        assert (await settle(api, forgotten)).already_settled


async def test_where_nothing_is_kept_the_answer_is_counted_as_any_other(api: Api, postgres_url: str) -> None:
    created = await api.key("acme", limits=(quota(50),))
    assert not (await verify(api, created, keep=10)).HasField("kept")
    await until_counted(postgres_url, created.key.key_id, {"ALLOWED": 1, "requests": 1})


async def test_an_answer_that_no_limit_counts_is_counted_once_by_who_asked_for_it(api: Api, postgres_url: str) -> None:
    created = await api.key("acme")
    assert (await verify(api, created, keep=10)).HasField("kept")
    await until_counted(postgres_url, created.key.key_id, {"ALLOWED": 1, "requests": 1})


async def end_all(postgres_url: str, redis_url: str, *, holds: int) -> dict[str, int]:
    """Holds run out just as three servers settle them, each all of them; gives what is counted."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(server(postgres_url, redis_url)) for _ in range(3)]
        subject, charges = key(rate(10**9), owner_id="owner"), {"requests": 3}
        held = await asyncio.gather(
            *(servers[0].charge(subject, charges=charges, consume=True, keep=3) for _ in range(holds))
        )
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(
            "UPDATE reservations SET expires_at = clock_timestamp() + random() * interval '1 second'"
        )

        async def settle(charger: Charger, reservation_id: str) -> None:
            await charger.settle(reservation_id, tenant_id="acme", charges={"requests": 9}, verifications=3)

        await asyncio.gather(*(settle(each, outcome.reservation_id) for outcome in held for each in servers))
        while await connection.fetchval("SELECT count(*) FROM reservations WHERE settled_at IS NULL"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        ran_out = await connection.fetchval("SELECT count(*) FROM reservations WHERE settled IS NULL")
        await connection.close()
    print(f"\n{holds} holds, {ran_out} of them ran out")
    assert 0 < ran_out < holds
    return await counted(postgres_url, "acme/owner")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations, "REAP_SECONDS", 0.01)


@pytest.mark.usefixtures("often")
async def test_a_hold_that_ends_at_several_servers_at_once_counts_once(postgres_url: str, redis_url: str) -> None:
    assert await end_all(postgres_url, redis_url, holds=300) == {"ALLOWED": 900, "requests": 2700}


@pytest.mark.usefixtures("often")
async def test_holds_that_end_twice_are_noticed(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unguarded = settlements._FIND.replace(" FOR UPDATE", "")
    assert unguarded != settlements._FIND
    monkeypatch.setattr(settlements, "_FIND", unguarded)
    assert (await end_all(postgres_url, redis_url, holds=300))["requests"] > 2700
