"""Over the wire every bound of the contract holds: what is allowed is done, what is not is refused field by field."""

from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.api_support import METHODS, Api, api_on
from tests.tools.refusals import details_of, refused
from tests.tools.requests import ALLOWED, FORBIDDEN, RATE, SPEND, Limit, create
from tollkeeper.v1 import audit_service_pb2, key_service_pb2, usage_service_pb2, verification_service_pb2

METHOD_OF = {method.input_type.full_name: name for name, method in METHODS.items()}


def needs_more_than_its_shape(request: Message) -> grpc.StatusCode:
    """What comes of a well-formed request: most are done, some name what is not there or what no clock reaches."""
    fields = {field.name for field, _ in request.ListFields()}
    match request:
        case key_service_pb2.CreateKeyRequest() if "expires_at" in fields:
            return grpc.StatusCode.INVALID_ARGUMENT
        case (
            key_service_pb2.ListKeysRequest()
            | audit_service_pb2.ListAuditEventsRequest()
            | usage_service_pb2.ListFindingsRequest()
        ) if "page_token" in fields:
            return grpc.StatusCode.INVALID_ARGUMENT
        case (
            key_service_pb2.GetKeyRequest()
            | key_service_pb2.UpdateKeyRequest()
            | key_service_pb2.DisableKeyRequest()
            | key_service_pb2.EnableKeyRequest()
            | key_service_pb2.RotateKeyRequest()
            | key_service_pb2.EndOverlapRequest()
            | key_service_pb2.RevokeKeyRequest()
            | key_service_pb2.GetOwnerRequest()
            | verification_service_pb2.CheckQuotaRequest()
            | verification_service_pb2.SettleRequest()
        ):
            return grpc.StatusCode.NOT_FOUND
        case usage_service_pb2.GetUsageRequest() | usage_service_pb2.ListFindingsRequest() if "key_id" in fields:
            return grpc.StatusCode.NOT_FOUND
    return grpc.StatusCode.OK


@pytest.fixture
async def api(postgres_url: str, redis_url: str) -> AsyncIterator[Api]:
    async with api_on(postgres_url, redis_url) as api:
        yield api


async def test_every_request_beyond_a_bound_is_refused_by_the_name_of_its_field(api: Api) -> None:
    for request, path in FORBIDDEN:
        if request.DESCRIPTOR.full_name not in METHOD_OF:
            continue  # an item of a request, each answered on its own
        with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
            await api.call(METHOD_OF[request.DESCRIPTOR.full_name], request, metadata=api.root)
        assert details.reason == "INVALID_FIELDS"
        assert details.fields == [path], request


async def test_every_request_within_the_bounds_is_taken(api: Api) -> None:
    for request in ALLOWED:
        if request.DESCRIPTOR.full_name not in METHOD_OF:
            continue
        code = grpc.StatusCode.OK
        try:
            await api.call(METHOD_OF[request.DESCRIPTOR.full_name], request, metadata=api.root)
        except grpc.aio.AioRpcError as error:
            code = error.code()
        assert code is needs_more_than_its_shape(request), request


async def test_a_key_is_stored_and_told_exactly_as_it_was_asked_for(api: Api) -> None:
    for request in ALLOWED:
        if not isinstance(request, key_service_pb2.CreateKeyRequest):
            continue
        if needs_more_than_its_shape(request) is not grpc.StatusCode.OK:
            continue
        created = await api.keys.CreateKey(request, metadata=api.root)
        got = await api.keys.GetKey(key_service_pb2.GetKeyRequest(key_id=created.key.key_id), metadata=api.root)
        assert got.key == created.key
        for name in ("name", "description", "owner_id", "environment", "metadata"):
            assert getattr(got.key, name) == getattr(request, name)
        for name in ("permissions", "resources", "allowed_cidrs"):
            assert list(getattr(got.key, name)) == list(getattr(request, name))
        for told, asked in zip(got.key.limits, request.limits, strict=True):
            asked.unit = asked.unit or ("spend" if asked.kind == SPEND else "requests")
            asked.time_zone = asked.time_zone or ("UTC" if asked.calendar else "")
            assert told == asked
        assert got.key.tenant_id == (request.tenant_id or "tollkeeper")
        assert created.api_key.startswith((request.prefix or "tk") + "_")
        assert request.length in (0, len(created.api_key))


async def test_all_faults_of_a_request_arrive_at_once(api: Api) -> None:
    request = create(
        name="n" * 129,
        permissions=[""] * 100,
        limits=[Limit(name="ok", kind=RATE, amount=-1)],
        tenant_id="!",
    )
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
        await api.call("CreateKey", request, metadata=api.root)
    assert {"name", "permissions[0]", "permissions[20]"} <= set(details.fields)


async def test_a_key_that_ends_in_the_past_or_in_too_far_a_future_is_refused(api: Api) -> None:
    for seconds in (1, 253_402_300_799):
        with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
            await api.call("CreateKey", create(expires_at=Timestamp(seconds=seconds)), metadata=api.root)
        assert details.fields == ["expires_at"]


async def test_one_bad_question_of_a_batch_is_answered_to_it_alone(api: Api) -> None:
    acme = await api.caller("acme")
    created = await api.key("acme")
    question = verification_service_pb2.VerifyRequest
    response = await api.verification.BatchVerify(
        verification_service_pb2.BatchVerifyRequest(
            requests=[
                question(api_key=created.api_key, request_id="r-0"),
                question(api_key=created.api_key, request_id="r-1", charges={"tokens": -1}, resource=" "),
                question(api_key=created.api_key, request_id="r-2", tenant_id="other"),
                question(api_key=created.api_key, request_id="r-3", reserve=True),
                question(api_key="x" * 4097),
                question(request_id="r-5"),
            ]
        ),
        metadata=acme,
    )
    first, charged, foreign, reserved, long, last = response.results
    assert (first.response.code, first.response.request_id) == (verification_service_pb2.DECISION_CODE_ALLOWED, "r-0")
    assert (last.response.code, last.response.request_id) == (verification_service_pb2.DECISION_CODE_KEY_MISSING, "r-5")
    assert charged.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert details_of(charged.error).fields == ["requests[1].resource", 'requests[1].charges["tokens"]']
    assert details_of(charged.error).request_id == "r-1"
    assert details_of(foreign.error).reason == "FOREIGN_TENANT"
    assert reserved.response.reservation_id.startswith("res_")
    assert details_of(long.error).fields == ["requests[4].api_key"]
