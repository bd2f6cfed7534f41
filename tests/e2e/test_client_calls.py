"""Both clients against a real server: every call, every kind of answer, every kind of error."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import grpc
import pytest

from tests.e2e.server_process import ServerProcess
from tollkeeper import (
    AlreadyExists,
    AsyncClient,
    CallError,
    Client,
    Decision,
    DecisionCode,
    InvalidArgument,
    KeyRevoked,
    KeyState,
    Limit,
    LimitKind,
    LimitScope,
    NotFound,
    PermissionDenied,
    Propagation,
    RateLimited,
    RevokeReason,
    Unauthenticated,
    Verification,
)
from tollkeeper.v1 import key_service_pb2

PER_MINUTE = Limit.rate("per-minute", 5, timedelta(minutes=1))


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, token=server.root_key) as client:
        yield client


async def test_a_key_is_what_was_asked_for(client: AsyncClient) -> None:
    expires_at = datetime(2099, 1, 1, 12, tzinfo=UTC)
    created = await client.create_key(
        name="ci",
        description="builds",
        owner_id="acme",
        environment="production",
        permissions=["read", "write"],
        resources=["billing"],
        allowed_cidrs=["10.0.0.0/8", "2001:db8::/32"],
        limits=[PER_MINUTE, Limit.rate("burst", 100, timedelta(seconds=1), unit="tokens", shadow=True)],
        metadata={"plan": "pro", "seats": 3, "tags": ["a"]},
        expires_at=expires_at,
        prefix="ila",
        length=72,
        tenant_id="t1",
    )
    key = created.key
    assert created.api_key.startswith("ila_")
    assert len(created.api_key) == 72
    assert len(created.fingerprint) == 64
    assert (key.name, key.description, key.owner_id, key.environment) == ("ci", "builds", "acme", "production")
    assert (key.tenant_id, key.state, key.expires_at) == ("t1", KeyState.ACTIVE, expires_at)
    assert (set(key.permissions), key.resources) == ({"read", "write"}, ("billing",))
    assert set(key.allowed_cidrs) == {"10.0.0.0/8", "2001:db8::/32"}
    assert {limit.name: limit for limit in key.limits}["per-minute"] == PER_MINUTE
    assert key.metadata == {"plan": "pro", "seats": 3, "tags": ["a"]}
    assert key.created_at is not None
    assert abs(key.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert await client.get_key(key.key_id) == key
    decision = await client.verify(
        created.api_key, resource="billing", permissions=["read"], client_ip=ip_address("10.1.2.3")
    )
    assert decision.allowed
    assert decision.key is not None
    assert (decision.key.key_id, decision.key.metadata) == (key.key_id, key.metadata)


async def test_a_rate_limit_admits_as_many_as_it_says_and_tells_when_to_come_back(client: AsyncClient) -> None:
    api_key = (await client.create_key(limits=[PER_MINUTE])).api_key
    decisions = [await client.verify(api_key) for _ in range(6)]
    assert [decision.allowed for decision in decisions] == [True] * 5 + [False]
    assert [decision.limit("per-minute").remaining for decision in decisions] == [4, 3, 2, 1, 0, 0]
    with pytest.raises(RateLimited) as denial:
        decisions[5].raise_if_denied()
    retry_after = denial.value.decision.retry_after
    assert retry_after is not None
    assert timedelta() < retry_after <= timedelta(minutes=1)
    state = decisions[5].limit("per-minute")
    assert (state.kind, state.unit, state.limit, state.used) == (LimitKind.RATE, "requests", 5, 5)
    assert (state.exceeded, state.scope) == (True, LimitScope.KEY)


async def test_asking_for_the_quota_consumes_nothing(client: AsyncClient) -> None:
    created = await client.create_key(limits=[PER_MINUTE])
    for _ in range(3):
        by_key_id = await client.check_quota(key_id=created.key.key_id)
        by_api_key = await client.check_quota(api_key=created.api_key, charges={"requests": 6})
    assert (by_key_id.code, by_key_id.limit("per-minute").remaining) == (DecisionCode.ALLOWED, 5)
    assert (by_api_key.code, by_api_key.limit("per-minute").exceeded) == (DecisionCode.RATE_LIMITED, True)


async def test_charging_nothing_charges_nothing(client: AsyncClient) -> None:
    api_key = (await client.create_key(limits=[PER_MINUTE])).api_key
    assert (await client.verify(api_key, charges={})).limit("per-minute").used == 0
    assert (await client.verify(api_key, dry_run=True)).allowed
    assert (await client.verify(api_key, charges={"requests": 2})).limit("per-minute").used == 2


async def test_a_revoked_key_is_denied_from_then_on(client: AsyncClient) -> None:
    created = await client.create_key()
    assert (await client.verify(created.api_key)).allowed
    revoked = await client.revoke_key(created.key.key_id, reason=RevokeReason.COMPROMISED, comment="leaked")
    assert revoked.propagation is Propagation.EVERYWHERE
    assert revoked.revision > created.revision
    assert (revoked.key.state, revoked.key.revoke_reason) == (KeyState.REVOKED, RevokeReason.COMPROMISED)
    decision = await client.verify(created.api_key, min_revision=revoked.revision)
    with pytest.raises(KeyRevoked):
        decision.raise_if_denied()


async def test_a_key_is_revoked_by_whoever_holds_it(client: AsyncClient) -> None:
    created = await client.create_key()
    revoked = await client.revoke_key(api_key=created.api_key)
    assert revoked.key.key_id == created.key.key_id
    assert not (await client.verify(created.api_key)).allowed


async def test_the_same_request_id_gives_the_same_key(client: AsyncClient) -> None:
    first, again = [await client.create_key(name="once", request_id="creation-1") for _ in range(2)]
    assert again == first
    with pytest.raises(AlreadyExists):
        await client.create_key(name="another", request_id="creation-1")


async def test_keys_are_listed_page_by_page_newest_first(client: AsyncClient) -> None:
    created = [(await client.create_key(owner_id="lister", tenant_id="t2")).key for _ in range(5)]
    listed = [key async for key in client.list_keys(owner_id="lister", tenant_id="t2", page_size=2)]
    assert listed == created[::-1]
    page = await client.list_keys_page(owner_id="lister", tenant_id="t2", page_size=2)
    assert list(page.keys) == listed[:2]
    assert page.next_page_token
    assert [key async for key in client.list_keys(owner_id="lister", tenant_id="t2", state=KeyState.REVOKED)] == []


async def test_one_bad_item_of_many_spoils_no_other(client: AsyncClient) -> None:
    api_key = (await client.create_key()).api_key
    good, unknown, bad, last = await client.verify_many(
        [
            Verification(api_key),
            Verification("tk_unknown"),
            Verification(api_key, client_ip="not an address"),
            Verification(api_key),
        ]
    )
    assert isinstance(good, Decision)
    assert isinstance(unknown, Decision)
    assert isinstance(last, Decision)
    assert (good.allowed, unknown.code, last.allowed) == (True, DecisionCode.KEY_INVALID, True)
    assert isinstance(bad, InvalidArgument)
    assert [violation.field for violation in bad.violations] == ["requests[2].client_ip"]


async def test_every_field_at_fault_is_named_at_once(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        await client.create_key(name="n" * 129, permissions=["a b"], limits=[Limit.rate("UPPER", -1, timedelta(0))])
    fields = {violation.field for violation in refusal.value.violations}
    assert {"name", "permissions[0]", "limits[0].name", "limits[0].amount", "limits[0].window"} <= fields
    assert refusal.value.reason == "INVALID_FIELDS"
    assert refusal.value.request_id


async def test_what_is_not_there_is_not_found(client: AsyncClient) -> None:
    with pytest.raises(NotFound, match=r"^\[GetKey\] NOT_FOUND .* \(KEY_NOT_FOUND\) \[request-id: \w+\]$"):
        await client.get_key("key_" + "0" * 22)


async def test_a_caller_that_is_not_known_is_unauthenticated(server: ServerProcess) -> None:
    async with AsyncClient(server.address, token="tk_nobody") as stranger:
        with pytest.raises(Unauthenticated) as refusal:
            await stranger.verify("tk_1")
        assert "tk_nobody" not in str(refusal.value)


async def test_a_caller_may_do_what_its_permissions_say(server: ServerProcess, client: AsyncClient) -> None:
    service = await client.create_key(permissions=["tollkeeper:verify"], tenant_id="t3")
    api_key = (await client.create_key(tenant_id="t3")).api_key
    async with AsyncClient(server.address, token=service.api_key) as caller:
        assert (await caller.verify(api_key)).allowed
        with pytest.raises(PermissionDenied) as refusal:
            await caller.create_key()
    assert isinstance(refusal.value, CallError)


async def test_the_stubs_reach_what_the_client_has_no_method_for(client: AsyncClient) -> None:
    response = await client.stubs.keys.ListKeys(
        key_service_pb2.ListKeysRequest(page_size=1), metadata=client.metadata, timeout=5
    )
    assert len(response.keys) == 1
    with pytest.raises(grpc.aio.AioRpcError):
        await client.stubs.keys.ListKeys(key_service_pb2.ListKeysRequest(), timeout=5)


def test_the_synchronous_client_does_the_same(server: ServerProcess) -> None:
    with Client(server.address, token=server.root_key) as client:
        created = client.create_key(limits=[PER_MINUTE], owner_id="sync")
        assert client.get_key(created.key.key_id) == created.key
        assert client.verify(created.api_key).limit("per-minute").remaining == 4
        assert client.check_quota(key_id=created.key.key_id).limit("per-minute").remaining == 4
        (decision,) = client.verify_many([Verification(created.api_key)])
        assert isinstance(decision, Decision)
        assert decision.allowed
        assert [key.key_id for key in client.list_keys(owner_id="sync", page_size=1)] == [created.key.key_id]
        client.revoke_key(created.key.key_id)
        assert client.verify(created.api_key).code is DecisionCode.KEY_REVOKED
        with pytest.raises(NotFound):
            client.get_key("key_" + "0" * 22)
