"""Who may call what: every RPC but health knows its caller, asks for one permission, and stays inside a tenant."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.integration.api_support import METHODS, Api, api_on
from tests.tools.refusals import refused
from tollkeeper.v1 import audit_service_pb2, key_pb2, key_service_pb2, verification_service_pb2
from tollkeeper_server.api.server import SERVICES
from tollkeeper_server.core.caller import CallerPermission

NEEDED = {
    "Verify": "tollkeeper:verify",
    "BatchVerify": "tollkeeper:verify",
    "VerifyStream": "tollkeeper:verify",
    "WatchInvalidations": "tollkeeper:verify",
    "CheckQuota": "tollkeeper:verify",
    "Settle": "tollkeeper:verify",
    "CreateKey": "tollkeeper:keys.write",
    "ImportKeys": "tollkeeper:keys.write",
    "GetKey": "tollkeeper:keys.read",
    "ListKeys": "tollkeeper:keys.read",
    "UpdateKey": "tollkeeper:keys.write",
    "DisableKey": "tollkeeper:keys.write",
    "EnableKey": "tollkeeper:keys.write",
    "RotateKey": "tollkeeper:keys.write",
    "EndOverlap": "tollkeeper:keys.write",
    "ReportLeakedKeys": None,
    "RevokeKey": None,
    "RevokeKeys": "tollkeeper:keys.write",
    "GetOwner": "tollkeeper:keys.read",
    "SetOwner": "tollkeeper:keys.write",
    "GetUsage": "tollkeeper:usage.read",
    "ListFindings": "tollkeeper:usage.read",
    "ListAuditEvents": "tollkeeper:audit.read",
}


@pytest.fixture
async def api(postgres_url: str, redis_url: str) -> AsyncIterator[Api]:
    async with api_on(postgres_url, redis_url) as api:
        yield api


async def code_of(api: Api, method: str, metadata: Any) -> grpc.StatusCode:
    try:
        await api.call(method, None, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_the_permission_of_every_rpc_is_known() -> None:
    assert set(NEEDED) == set(METHODS)


async def test_no_rpc_answers_a_caller_that_did_not_prove_who_it_is(api: Api) -> None:
    for method in METHODS:
        with refused(grpc.StatusCode.UNAUTHENTICATED) as details:
            await api.call(method, None, metadata=())
        assert details.reason == "CALLER_CREDENTIALS_MISSING"


async def test_every_rpc_answers_callers_with_its_permission_and_no_others(api: Api) -> None:
    callers = {permission: await api.caller(permissions=[permission]) for permission in CallerPermission}
    for method, needed in NEEDED.items():
        for permission, metadata in callers.items():
            code = await code_of(api, method, metadata)
            assert (code is not grpc.StatusCode.PERMISSION_DENIED) == (needed in (permission, None)), (
                method,
                permission,
            )
            assert code is not grpc.StatusCode.UNAUTHENTICATED


async def test_a_customers_wildcard_does_not_make_a_caller(api: Api) -> None:
    for permissions, expected in [
        (["tollkeeper:*"], grpc.StatusCode.OK),
        (["*"], grpc.StatusCode.PERMISSION_DENIED),
        (["verify"], grpc.StatusCode.PERMISSION_DENIED),
        ([], grpc.StatusCode.PERMISSION_DENIED),
    ]:
        assert await code_of(api, "Verify", await api.caller(permissions=permissions)) is expected


async def test_a_caller_is_refused_once_its_key_is_revoked_and_told_why(api: Api) -> None:
    created = await api.key(permissions=("tollkeeper:verify",))
    metadata = (("authorization", f"Bearer {created.api_key}"),)
    assert await code_of(api, "Verify", metadata) is grpc.StatusCode.OK
    await api.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=created.key.key_id), metadata=api.root)
    with refused(grpc.StatusCode.UNAUTHENTICATED) as details:
        await api.call("Verify", None, metadata=metadata)
    assert details.reason == "CALLER_KEY_REVOKED"


@pytest.mark.parametrize("mutation", ["RevokeKey", "DisableKey", "UpdateKey"])
async def test_no_call_of_a_recognized_caller_passes_once_a_mutation_that_forbids_it_returned(
    api: Api, mutation: str
) -> None:
    created = await api.key(permissions=("tollkeeper:verify",))
    metadata = (("authorization", f"Bearer {created.api_key}"),)
    question = verification_service_pb2.VerifyRequest(api_key="tk_1")
    passed, over = asyncio.Event(), asyncio.Event()

    async def keep_calling() -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            while not over.is_set():
                await api.verification.Verify(question, metadata=metadata)
                passed.set()

    calling = [asyncio.create_task(keep_calling()) for _ in range(4)]
    await asyncio.wait_for(passed.wait(), 5)
    if mutation == "UpdateKey":
        request: Any = key_service_pb2.UpdateKeyRequest(
            key=key_pb2.Key(key_id=created.key.key_id, permissions=["read"], etag=created.key.etag),
            update_mask=FieldMask(paths=["permissions"]),
        )
    else:
        request = getattr(key_service_pb2, f"{mutation}Request")(key_id=created.key.key_id)
    await getattr(api.keys, mutation)(request, metadata=api.root)
    code = await code_of(api, "Verify", metadata)
    over.set()
    await asyncio.gather(*calling)
    expected = grpc.StatusCode.PERMISSION_DENIED if mutation == "UpdateKey" else grpc.StatusCode.UNAUTHENTICATED
    assert code is expected


async def test_a_caller_that_nobody_knows_is_refused(api: Api) -> None:
    with refused(grpc.StatusCode.UNAUTHENTICATED) as details:
        await api.call("Verify", None, metadata=(("authorization", "Bearer tk_made-up"),))
    assert details.reason == "CALLER_KEY_INVALID"


async def test_a_caller_that_names_another_tenant_is_refused(api: Api) -> None:
    acme = await api.caller("acme")
    for method, request in [
        ("Verify", verification_service_pb2.VerifyRequest(tenant_id="other")),
        ("CheckQuota", verification_service_pb2.CheckQuotaRequest(api_key="x", tenant_id="other")),
        ("CreateKey", key_service_pb2.CreateKeyRequest(tenant_id="other")),
        ("ListKeys", key_service_pb2.ListKeysRequest(tenant_id="other")),
        ("ListAuditEvents", audit_service_pb2.ListAuditEventsRequest(tenant_id="other")),
    ]:
        with refused(grpc.StatusCode.PERMISSION_DENIED) as details:
            await api.call(method, request, metadata=acme)
        assert details.reason == "FOREIGN_TENANT"
        assert details.metadata == {"tenant_id": "other"}


async def test_a_caller_may_name_its_own_tenant(api: Api) -> None:
    acme = await api.caller("acme")
    created = await api.keys.CreateKey(key_service_pb2.CreateKeyRequest(tenant_id="acme"), metadata=acme)
    request = verification_service_pb2.VerifyRequest(api_key=created.api_key, tenant_id="acme")
    assert (
        await api.verification.Verify(request, metadata=acme)
    ).code == verification_service_pb2.DECISION_CODE_ALLOWED


async def test_the_keys_of_another_tenant_do_not_exist(api: Api) -> None:
    acme, foreign = await api.caller("acme"), await api.key("other")
    for method, request in [
        ("GetKey", key_service_pb2.GetKeyRequest(key_id=foreign.key.key_id)),
        ("RevokeKey", key_service_pb2.RevokeKeyRequest(key_id=foreign.key.key_id)),
        ("CheckQuota", verification_service_pb2.CheckQuotaRequest(key_id=foreign.key.key_id)),
        ("CheckQuota", verification_service_pb2.CheckQuotaRequest(api_key=foreign.api_key)),
    ]:
        with refused(grpc.StatusCode.NOT_FOUND) as details:
            await api.call(method, request, metadata=acme)
        assert details.reason == "KEY_NOT_FOUND"
    listed = await api.keys.ListKeys(key_service_pb2.ListKeysRequest(), metadata=acme)
    assert foreign.key.key_id not in [key.key_id for key in listed.keys]


async def test_naming_a_key_to_revoke_it_takes_a_permission_and_possession_of_its_api_key_takes_none(api: Api) -> None:
    nobody, found = await api.caller("other", permissions=[]), await api.key("acme", name="secret plans")
    with refused(grpc.StatusCode.PERMISSION_DENIED) as details:
        await api.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=found.key.key_id), metadata=nobody)
    assert details.reason == "CALLER_PERMISSION_MISSING"
    revoked = await api.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(api_key=found.api_key), metadata=nobody)
    told = {field.name for field, _ in revoked.key.ListFields()}
    assert told == {"key_id", "state", "revoked_at"}
    assert "secret plans" not in str(revoked)
    assert revoked.key.state == key_pb2.KEY_STATE_REVOKED


async def test_a_leaked_key_ends_itself(api: Api) -> None:
    found = await api.key("acme")
    itself = (("authorization", f"Bearer {found.api_key}"),)
    await api.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(api_key=found.api_key), metadata=itself)
    assert await code_of(api, "Verify", itself) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_root_caller_acts_in_the_tenant_that_it_names(api: Api) -> None:
    created = await api.keys.CreateKey(key_service_pb2.CreateKeyRequest(tenant_id="brand-new"), metadata=api.root)
    assert created.key.tenant_id == "brand-new"
    listed = await api.keys.ListKeys(key_service_pb2.ListKeysRequest(tenant_id="brand-new"), metadata=api.root)
    assert [key.key_id for key in listed.keys] == [created.key.key_id]
    got = await api.keys.GetKey(key_service_pb2.GetKeyRequest(key_id=created.key.key_id), metadata=api.root)
    assert got.key == created.key


async def test_a_root_caller_verifies_the_keys_of_the_tenant_it_names_or_of_all(api: Api) -> None:
    created = await api.key("acme")
    for named, code in [
        ("", verification_service_pb2.DECISION_CODE_ALLOWED),
        ("acme", verification_service_pb2.DECISION_CODE_ALLOWED),
        ("other", verification_service_pb2.DECISION_CODE_KEY_INVALID),
    ]:
        request = verification_service_pb2.VerifyRequest(api_key=created.api_key, tenant_id=named)
        assert (await api.verification.Verify(request, metadata=api.root)).code == code


async def test_health_needs_no_caller_and_tells_of_every_service(api: Api) -> None:
    health: Any = health_pb2_grpc.HealthStub(api.channel)
    for service in ("", *(service.full_name for service in SERVICES)):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert [line for line in api.log.lines if line["method"] not in METHODS] == []


async def test_reflection_tells_callers_of_every_service_and_nobody_else(api: Api) -> None:
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(api.channel)
    ask = [reflection_pb2.ServerReflectionRequest(list_services="")]
    with refused(grpc.StatusCode.UNAUTHENTICATED):
        [answer async for answer in reflection.ServerReflectionInfo(iter(ask))]
    metadata = await api.caller(permissions=[])
    (answer,) = [answer async for answer in reflection.ServerReflectionInfo(iter(ask), metadata=metadata)]
    named = {service.name for service in answer.list_services_response.service}
    assert named == {service.full_name for service in SERVICES} | {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_metadata_and_messages_beyond_their_bounds_are_refused_by_status(api: Api) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.call("Verify", None, metadata=(*api.root, ("x-filler", "x" * 16_384)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    huge = verification_service_pb2.VerifyRequest(api_key="x" * 16 * 2**20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.call("Verify", huge, metadata=api.root)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await code_of(api, "Verify", api.root) is grpc.StatusCode.OK
