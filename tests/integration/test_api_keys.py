"""The life of a key as callers see it."""

from collections.abc import AsyncIterator
from datetime import timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.api_support import Api, api_on
from tests.tools.refusals import refused
from tollkeeper.v1 import key_pb2
from tollkeeper.v1 import key_service_pb2 as pb
from tollkeeper_server.core.credential import fingerprint


@pytest.fixture
async def api(postgres_url: str, redis_url: str) -> AsyncIterator[Api]:
    async with api_on(postgres_url, redis_url) as api:
        yield api


async def test_a_new_key_is_told_with_its_api_key_this_once(api: Api) -> None:
    acme = await api.caller("acme")
    created = await api.keys.CreateKey(pb.CreateKeyRequest(name="first", prefix="ila", length=76), metadata=acme)
    assert len(created.api_key) == 76
    assert created.api_key.startswith("ila_")
    assert created.fingerprint == fingerprint(created.api_key)
    assert created.key.api_key_hint == f"ila_…{created.api_key[-4:]}"
    assert created.key.tenant_id == "acme"
    assert created.key.state == key_pb2.KEY_STATE_ACTIVE
    assert created.revision == created.key.revision > 0
    got = await api.keys.GetKey(pb.GetKeyRequest(key_id=created.key.key_id), metadata=acme)
    assert got.key == created.key
    assert created.api_key not in str(got)


async def test_a_retried_creation_gives_the_first_answer_again(api: Api) -> None:
    request = pb.CreateKeyRequest(name="once", request_id="r-1", ttl=Duration(seconds=3600))
    first = await api.keys.CreateKey(request, metadata=api.root)
    assert await api.keys.CreateKey(request, metadata=api.root) == first
    request.name = "twice"
    with refused(grpc.StatusCode.ALREADY_EXISTS) as details:
        await api.keys.CreateKey(request, metadata=api.root)
    assert details.reason == "REQUEST_ID_REUSED"


async def test_a_time_to_live_is_counted_from_the_creation(api: Api) -> None:
    request = pb.CreateKeyRequest(ttl=Duration(seconds=90, nanos=500_000_000))
    key = (await api.keys.CreateKey(request, metadata=api.root)).key
    assert key.expires_at.ToDatetime() - key.created_at.ToDatetime() == timedelta(seconds=90, milliseconds=500)


async def test_an_expiry_is_kept_to_the_microsecond(api: Api) -> None:
    moment = Timestamp(seconds=4_000_000_000, nanos=123_456_000)
    key = (await api.keys.CreateKey(pb.CreateKeyRequest(expires_at=moment), metadata=api.root)).key
    assert key.expires_at == moment


async def test_pages_tell_every_key_once_newest_first(api: Api) -> None:
    acme = await api.caller("acme", permissions=["tollkeeper:keys.read"])
    created = [(await api.key("acme", owner_id="o", name=str(number))).key.key_id for number in range(5)]
    request, told, pages = pb.ListKeysRequest(owner_id="o", page_size=2), list[str](), 0
    while True:
        page = await api.keys.ListKeys(request, metadata=acme)
        told += [key.key_id for key in page.keys]
        pages += 1
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert told == created[::-1]
    assert pages == 3


async def test_a_page_token_of_other_filters_is_refused(api: Api) -> None:
    for number in range(2):
        await api.key("tollkeeper", owner_id="o", name=str(number))
    page = await api.keys.ListKeys(pb.ListKeysRequest(owner_id="o", page_size=1), metadata=api.root)
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
        await api.keys.ListKeys(pb.ListKeysRequest(owner_id="p", page_token=page.next_page_token), metadata=api.root)
    assert details.fields == ["page_token"]


async def test_keys_are_listed_by_state(api: Api) -> None:
    living, dead = await api.key("acme", owner_id="o"), await api.key("acme", owner_id="o")
    await api.keys.RevokeKey(pb.RevokeKeyRequest(key_id=dead.key.key_id), metadata=api.root)
    for state, expected in [
        (key_pb2.KEY_STATE_UNSPECIFIED, {living.key.key_id, dead.key.key_id}),
        (key_pb2.KEY_STATE_ACTIVE, {living.key.key_id}),
        (key_pb2.KEY_STATE_REVOKED, {dead.key.key_id}),
        (key_pb2.KEY_STATE_EXPIRED, set()),
    ]:
        request = pb.ListKeysRequest(tenant_id="acme", owner_id="o", state=state)
        page = await api.keys.ListKeys(request, metadata=api.root)
        assert {key.key_id for key in page.keys} == expected


@pytest.mark.parametrize("by_possession", [False, True])
async def test_a_revocation_tells_when_and_why_and_that_it_holds_everywhere(api: Api, by_possession: bool) -> None:
    created = await api.key("acme")
    request = pb.RevokeKeyRequest(reason=key_pb2.REVOKE_REASON_COMPROMISED, comment="found in a public repository")
    if by_possession:
        request.api_key = created.api_key
    else:
        request.key_id = created.key.key_id
    revoked = await api.keys.RevokeKey(request, metadata=api.root)
    assert revoked.key.key_id == created.key.key_id
    assert revoked.key.state == key_pb2.KEY_STATE_REVOKED
    assert revoked.key.revoke_reason == key_pb2.REVOKE_REASON_COMPROMISED
    assert revoked.key.HasField("revoked_at")
    assert revoked.revision == revoked.key.revision > created.revision
    assert revoked.propagation == pb.PROPAGATION_EVERYWHERE
    assert revoked.HasField("effective_at")


async def test_a_caller_cannot_give_away_what_it_does_not_have(api: Api) -> None:
    writer = await api.caller("acme", permissions=["tollkeeper:keys.write"])
    await api.keys.CreateKey(pb.CreateKeyRequest(permissions=["tollkeeper:keys.write"]), metadata=writer)
    with refused(grpc.StatusCode.PERMISSION_DENIED) as details:
        await api.keys.CreateKey(pb.CreateKeyRequest(permissions=["tollkeeper:verify"]), metadata=writer)
    assert details.reason == "CALLER_PERMISSION_MISSING"
    many = [f"tollkeeper:{number}{'x' * 50}" for number in range(100)]
    with refused(grpc.StatusCode.PERMISSION_DENIED):
        await api.keys.CreateKey(pb.CreateKeyRequest(permissions=many), metadata=writer)
