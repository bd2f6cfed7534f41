"""Clients with a near-cache on real servers: R0 and Q0 hold in their memory too."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from tests.integration.api_support import Api, api_on
from tests.tools.tcp_proxy import proxy_to
from tollkeeper import AsyncClient, CreatedKey, Decision, DecisionCode, Limit, Propagation
from tollkeeper._near_cache import NearCache, Question
from tollkeeper_server.core.sessions import Sessions
from tollkeeper_server.usage import flusher

LEASE_SECONDS = 2.0


@pytest.fixture
async def servers(postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Api]]:
    """Two servers on the same stores."""
    monkeypatch.setattr(flusher, "FLUSH_SECONDS", 0.05)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(api_on(postgres_url, redis_url)) for _ in range(2)]


def token(api: Api) -> str:
    return str(api.root[0][1]).removeprefix("Bearer ")


def addresses(servers: list[Api]) -> str:
    return "ipv4:" + ",".join(api.address for api in servers)


@pytest.fixture
async def manager(servers: list[Api]) -> AsyncIterator[AsyncClient]:
    """A client without a near-cache, which makes and changes keys."""
    async with AsyncClient(servers[1].address, token=token(servers[1]), timeout=20, verify_timeout=20) as client:
        yield client


@pytest.fixture
async def clients(servers: list[Api]) -> AsyncIterator[list[AsyncClient]]:
    """Three clients with a near-cache: of one server, of the other, and of both."""
    async with AsyncExitStack() as stack:
        places = servers[0].address, servers[1].address, addresses(servers)
        made = [near_client(place, servers[0]) for place in places]
        for client in made:
            await stack.enter_async_context(client)
            await leased(client)
        yield made


def near_client(address: str, api: Api) -> AsyncClient:
    return AsyncClient(address, token=token(api), near_cache=True, verify_timeout=20)


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


async def leased(client: AsyncClient) -> None:
    assert client._near_cache is not None
    await until(client._near_cache.holds_lease)


async def kept(client: AsyncClient, api_key: str, **question: Any) -> Decision:
    """Verify until the answer comes from memory."""
    deadline = time.monotonic() + 5
    before = await client.verify(api_key, **question)
    while (again := await client.verify(api_key, **question)) is not before:
        assert again.allowed
        assert time.monotonic() < deadline, "nothing is kept"
        before = again
    return again


MUTATIONS: dict[str, tuple[Callable[[AsyncClient, CreatedKey], Awaitable[Any]], DecisionCode]] = {
    "revoke": (lambda client, it: client.revoke_key(it.key.key_id), DecisionCode.KEY_REVOKED),
    "disable": (lambda client, it: client.disable_key(it.key.key_id), DecisionCode.KEY_DISABLED),
    "narrow": (lambda client, it: client.update_key(it.key.key_id, permissions=[]), DecisionCode.PERMISSION_DENIED),
    "rotate": (lambda client, it: client.rotate_key(it.key.key_id), DecisionCode.KEY_INVALID),
    "suspend": (
        lambda client, it: client.set_owner(it.key.owner_id, tenant_id="acme", suspended=True),
        DecisionCode.KEY_DISABLED,
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_a_change_that_takes_something_away_counts_in_every_memory_when_its_call_returns(
    clients: list[AsyncClient], manager: AsyncClient, mutation: str
) -> None:
    change, denial = MUTATIONS[mutation]
    for number in range(5):
        created = await manager.create_key(name="k", tenant_id="acme", owner_id=f"owner-{number}", permissions=["read"])
        bystander = await manager.create_key(name="b", tenant_id="acme", permissions=["read"])
        for client in clients:
            await kept(client, created.api_key, permissions=["read"])
            await kept(client, bystander.api_key, permissions=["read"])
        await change(manager, created)
        for client in clients:
            assert (await client.verify(created.api_key, permissions=["read"])).code is denial
            await kept(client, bystander.api_key, permissions=["read"])


async def test_verifications_that_race_with_a_revocation_never_outlive_it(
    clients: list[AsyncClient], manager: AsyncClient
) -> None:
    asked = 0

    async def verify_on(client: AsyncClient, api_key: str, over: asyncio.Event) -> None:
        nonlocal asked
        while True:
            was_over = over.is_set()
            decision = await client.verify(api_key)
            asked += 1
            assert not (was_over and decision.allowed), "allowed after the revocation had returned"
            if was_over:
                return
            await asyncio.sleep(0)

    for _ in range(10):
        created = await manager.create_key(name="k", tenant_id="acme")
        over = asyncio.Event()
        verifying = [asyncio.create_task(verify_on(client, created.api_key, over)) for client in clients * 2]
        await asyncio.sleep(0.02)
        assert (await manager.revoke_key(created.key.key_id)).propagation is Propagation.EVERYWHERE
        over.set()
        await asyncio.gather(*verifying)
    assert asked > 100


async def test_a_client_that_is_cut_off_forgets_nothing_that_was_revoked_meanwhile(
    servers: list[Api], manager: AsyncClient
) -> None:
    async with proxy_to(servers[0].address) as proxy, near_client(proxy.address, servers[0]) as client:
        await leased(client)
        assert client._near_cache is not None
        revoked, other = [await manager.create_key(name="k", tenant_id="acme") for _ in range(2)]
        await kept(client, revoked.api_key)
        decision = await kept(client, other.api_key)
        await proxy.cut()
        assert await client.verify(other.api_key) is decision, "the lease still holds"
        started = time.monotonic()
        answer = await manager.revoke_key(revoked.key.key_id)
        assert answer.propagation is Propagation.EVERYWHERE
        assert time.monotonic() - started < LEASE_SECONDS + 0.2
        assert not client._near_cache.holds_lease(), "the revocation returned although the client may still answer"
        proxy.mend()
        await leased(client)
        assert await client.verify(other.api_key) is decision, "it was told what it missed, and no more"
        assert (await client.verify(revoked.api_key)).code is DecisionCode.KEY_REVOKED


async def test_that_a_server_does_not_wait_for_its_clients_would_be_noticed(
    servers: list[Api], manager: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sessions, "frontier", lambda sessions, _now: sessions.revision)
    async with proxy_to(servers[0].address) as proxy, near_client(proxy.address, servers[0]) as client:
        await leased(client)
        created = await manager.create_key(name="k", tenant_id="acme")
        await kept(client, created.api_key)
        await proxy.cut()
        await manager.revoke_key(created.key.key_id)
        assert (await client.verify(created.api_key)).allowed
        proxy.mend()


async def test_a_client_whose_server_goes_keeps_its_answers_at_another(
    postgres_url: str, redis_url: str, servers: list[Api], manager: AsyncClient
) -> None:
    draining = asyncio.Event()
    async with (
        api_on(postgres_url, redis_url, draining=draining) as leaving,
        proxy_to(leaving.address) as proxy,
        near_client(proxy.address, servers[0]) as client,
    ):
        await leased(client)
        created = await manager.create_key(name="k", tenant_id="acme")
        decision = await kept(client, created.api_key)
        proxy.upstream = servers[0].address
        draining.set()
        assert client._near_cache is not None
        await proxy.cut()
        proxy.mend()
        renewed = client._near_cache._lease_ends_at
        await until(lambda: client._near_cache is not None and client._near_cache._lease_ends_at > renewed)
        assert await client.verify(created.api_key) is decision
        await manager.revoke_key(created.key.key_id)
        assert not (await client.verify(created.api_key)).allowed


async def test_what_passes_the_cache_is_asked_each_time(clients: list[AsyncClient], manager: AsyncClient) -> None:
    created = await manager.create_key(name="k", tenant_id="acme")
    client = clients[0]
    decision = await kept(client, created.api_key)
    assert await client.verify(created.api_key, dry_run=True) is not decision
    assert await client.verify(created.api_key, request_id="r-1") is not decision
    assert (await client.verify(created.api_key, reserve=True)).reservation_id
    other = await manager.create_key(name="k", tenant_id="acme")
    newer = await client.verify(created.api_key, min_revision=other.revision)
    near = client._near_cache
    assert near is not None
    assert newer.revision >= other.revision or near.revision >= other.revision, "it has heard of it by now"


async def test_uses_of_kept_answers_are_counted_when_the_client_closes_and_while_it_runs(
    servers: list[Api], manager: AsyncClient
) -> None:
    created = await manager.create_key(name="k", tenant_id="acme")
    async with near_client(servers[0].address, servers[0]) as client:
        await leased(client)
        for _ in range(100):
            await client.verify(created.api_key, charges={"requests": 1, "tokens": 3})
    await counted(manager, created, allowed=100, units={"requests": 100, "tokens": 300})


async def counted(manager: AsyncClient, created: CreatedKey, *, allowed: int, units: dict[str, int]) -> None:
    """Wait until so much is counted; never is more."""
    deadline = time.monotonic() + 10
    while True:
        usage = await manager.get_usage(key_id=created.key.key_id)
        told = sum(bucket.allowed for bucket in usage.buckets)
        assert told <= allowed
        if told == allowed:
            break
        assert time.monotonic() < deadline, f"only {told} of {allowed} were counted"
        await asyncio.sleep(0.05)
    totals: dict[str, int] = {}
    for bucket in usage.buckets:
        for unit, amount in bucket.units.items():
            totals[unit] = totals.get(unit, 0) + amount
    assert totals == units


async def test_a_quota_is_never_exceeded_by_what_clients_hold_and_what_is_unused_comes_back(
    servers: list[Api], clients: list[AsyncClient], manager: AsyncClient
) -> None:
    amount = 20_000
    created = await manager.create_key(
        name="k", tenant_id="acme", limits=[Limit.quota("total", amount, timedelta(days=1))]
    )
    asked = from_memory = allowed = 0

    async def spend(client: AsyncClient) -> None:
        nonlocal asked, from_memory, allowed
        before: Decision | None = None
        for _ in range(2_000):
            decision = await client.verify(created.api_key)
            asked += 1
            allowed += decision.allowed
            from_memory += decision is before
            before = decision
            await asyncio.sleep(0)

    await asyncio.gather(*(spend(client) for client in clients))
    assert allowed == asked == 6_000
    assert from_memory > 1_000
    for client in clients:
        await client.close()
    report = await manager.check_quota(key_id=created.key.key_id)
    assert report.limit("total").used == allowed, "what was not used came back, and all that was used counts"
    await counted(manager, created, allowed=allowed, units={"requests": allowed})


async def exhaust(clients: list[AsyncClient], manager: AsyncClient, *, amount: int) -> int:
    """All clients at once verify a key until its quota of ``amount`` denies them; gives how many were allowed."""
    created = await manager.create_key(
        name="k", tenant_id="acme", limits=[Limit.quota("total", amount, timedelta(days=1))]
    )
    allowed = 0

    async def spend(client: AsyncClient) -> None:
        nonlocal allowed
        while allowed < 2 * amount and (await client.verify(created.api_key)).allowed:
            allowed += 1
            await asyncio.sleep(0)

    await asyncio.gather(*(spend(client) for client in clients))
    return allowed


async def test_a_quota_that_runs_out_admits_its_amount_and_not_one_more(
    clients: list[AsyncClient], manager: AsyncClient
) -> None:
    allowed = await exhaust(clients, manager, amount=3_000)
    assert 0.95 * 3_000 <= allowed <= 3_000


async def test_that_a_spent_block_is_given_on_would_be_noticed(
    clients: list[AsyncClient], manager: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    recall = NearCache.recall

    def recall_without_end(cache: NearCache, question: Question, min_revision: int = 0) -> Decision | None:
        entry = cache._entries.get(question)
        if entry is not None and entry.reservation_id and entry.left == 0:
            return entry.decision
        return recall(cache, question, min_revision)

    monkeypatch.setattr(NearCache, "recall", recall_without_end)
    assert await exhaust(clients, manager, amount=3_000) > 3_000


async def test_without_a_server_that_can_be_watched_every_verification_is_asked(servers: list[Api]) -> None:
    created = await servers[0].key("acme")
    caller = await servers[0].caller("acme", permissions=["tollkeeper:verify"])
    async with AsyncClient(
        servers[0].address, token=str(caller[0][1]).removeprefix("Bearer "), near_cache=True
    ) as client:
        assert client._near_cache is not None
        assert (await client.verify(created.api_key)).allowed
        assert len(client._near_cache) == 0, "there was no lease yet"
        await leased(client)
        await kept(client, created.api_key)
