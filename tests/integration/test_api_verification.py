"""The request path as callers see it: decisions are answers, unknown is never ALLOWED, and bytes tell nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc
import pytest

from tests.integration.api_support import SECRET, Api, api_on
from tests.tools.refusals import details_of, refused
from tollkeeper.v1 import key_service_pb2, limit_pb2
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.core.credential import Keyring
from tollkeeper_server.core.limits import Limit, LimitKind

FIVE_A_MINUTE = Limit(name="burst", kind=LimitKind.RATE, unit="requests", amount=5, window_seconds=60)


@pytest.fixture
async def api(postgres_url: str, redis_url: str) -> AsyncIterator[Api]:
    async with api_on(postgres_url, redis_url) as api:
        yield api


@asynccontextmanager
async def stalled(postgres_url: str) -> AsyncIterator[None]:
    """Postgres takes questions about API keys, and does not answer."""
    connection = await asyncpg.connect(postgres_url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE secrets IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def test_a_decision_tells_whose_key_it_is_and_where_its_limits_stand(api: Api) -> None:
    created = await api.key(
        "acme",
        owner_id="owner",
        name="name",
        environment="production",
        permissions=("read",),
        resources=("api",),
        metadata={"plan": "pro"},
        limits=(FIVE_A_MINUTE,),
    )
    request = pb.VerifyRequest(
        api_key=created.api_key,
        resource="api",
        required_permissions=["read"],
        charges={"requests": 2},
        request_id="r-1",
    )
    response = await api.verification.Verify(request, metadata=api.root)
    assert response.code == pb.DECISION_CODE_ALLOWED
    assert response.message == "The request is allowed."
    assert response.request_id == "r-1"
    assert response.revision >= created.revision
    assert (response.key.key_id, response.key.tenant_id, response.key.owner_id) == (created.key.key_id, "acme", "owner")
    assert (response.key.name, response.key.environment) == ("name", "production")
    assert (list(response.key.permissions), list(response.key.resources)) == (["read"], ["api"])
    assert dict(response.key.metadata) == {"plan": "pro"}
    (state,) = response.limits
    assert (state.name, state.kind, state.unit, state.scope) == (
        "burst",
        limit_pb2.LIMIT_KIND_RATE,
        "requests",
        limit_pb2.LIMIT_SCOPE_KEY,
    )
    assert (state.limit, state.used, state.remaining, state.exceeded) == (5, 2, 3, False)
    assert state.HasField("reset_at")


async def test_a_rate_limited_request_is_told_when_to_come_back(api: Api) -> None:
    created = await api.key("acme", limits=(FIVE_A_MINUTE,))
    request = pb.VerifyRequest(api_key=created.api_key)
    codes = [(await api.verification.Verify(request, metadata=api.root)).code for _ in range(5)]
    assert set(codes) == {pb.DECISION_CODE_ALLOWED}
    response = await api.verification.Verify(request, metadata=api.root)
    assert response.code == pb.DECISION_CODE_RATE_LIMITED
    assert 0 < response.retry_after.ToTimedelta().total_seconds() <= 60
    assert response.limits[0].exceeded
    quota = await api.verification.CheckQuota(pb.CheckQuotaRequest(key_id=created.key.key_id), metadata=api.root)
    assert quota.code == pb.DECISION_CODE_RATE_LIMITED
    assert (quota.limits[0].used, quota.limits[0].remaining) == (5, 0)
    assert 0 < quota.retry_after.ToTimedelta().total_seconds() <= 60


async def test_a_dry_run_and_a_question_about_quota_charge_nothing(api: Api) -> None:
    created = await api.key("acme", limits=(FIVE_A_MINUTE,))
    for _ in range(3):
        request = pb.VerifyRequest(api_key=created.api_key, dry_run=True, charges={"requests": 5})
        assert (await api.verification.Verify(request, metadata=api.root)).code == pb.DECISION_CODE_ALLOWED
        by_api_key = pb.CheckQuotaRequest(api_key=created.api_key, charges={"requests": 5})
        answer = await api.verification.CheckQuota(by_api_key, metadata=api.root)
        assert (answer.code, answer.limits[0].used) == (pb.DECISION_CODE_ALLOWED, 0)


async def test_denials_are_answers_with_the_code_of_the_first_rule_that_denies(api: Api) -> None:
    created = await api.key("acme", permissions=("read",), resources=("api",), allowed_cidrs=())
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, pb.DECISION_CODE_RESOURCE_DENIED),
        ({"resource": "other"}, pb.DECISION_CODE_RESOURCE_DENIED),
        ({"resource": "api", "required_permissions": ["write"]}, pb.DECISION_CODE_PERMISSION_DENIED),
        ({"resource": "api"}, pb.DECISION_CODE_ALLOWED),
    ]
    for fields, code in cases:
        request = pb.VerifyRequest(api_key=created.api_key, **fields)
        assert (await api.verification.Verify(request, metadata=api.root)).code == code
    empty = await api.verification.Verify(pb.VerifyRequest(), metadata=api.root)
    assert empty.code == pb.DECISION_CODE_KEY_MISSING
    await api.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=created.key.key_id), metadata=api.root)
    revoked = await api.verification.Verify(pb.VerifyRequest(api_key=created.api_key), metadata=api.root)
    assert revoked.code == pb.DECISION_CODE_KEY_REVOKED


async def test_an_unknown_a_malformed_and_a_foreign_key_get_the_same_bytes(api: Api) -> None:
    acme, foreign, gone = await api.caller("acme"), await api.key("other"), await api.key("other")
    await api.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=gone.key.key_id), metadata=api.root)
    keyring = Keyring(peppers={1: SECRET}, tag_keys={1: SECRET})
    well_formed_but_unknown = keyring.mint(prefix="tk", length=43, seed=keyring.new_seed(bytes(32)))
    answers = set()
    for api_key in (
        well_formed_but_unknown,
        foreign.api_key,
        gone.api_key,
        foreign.api_key[:-1] + ("a" if foreign.api_key[-1] != "a" else "b"),
        "tk_",
        "x",
        "\0 ü \n" * 100,
        "y" * 4096,
    ):
        for _ in range(2):  # from Postgres, then perhaps from memory
            request = pb.VerifyRequest(api_key=api_key, request_id="same", resource="api", client_ip="192.0.2.1")
            answers.add((await api.verification.Verify(request, metadata=acme)).SerializeToString(deterministic=True))
    (answer,) = answers
    response = pb.VerifyResponse.FromString(answer)
    assert response.code == pb.DECISION_CODE_KEY_INVALID
    assert {field.name for field, _ in response.ListFields()} <= {"code", "message", "revision", "request_id"}


async def test_a_batch_is_answered_in_order(api: Api) -> None:
    created = [await api.key("acme", name=str(number)) for number in range(3)]
    questions = [pb.VerifyRequest(api_key=created[index % 3].api_key, request_id=f"r-{index}") for index in range(1000)]
    response = await api.verification.BatchVerify(pb.BatchVerifyRequest(requests=questions), metadata=api.root)
    told = [(result.response.key.name, result.response.request_id) for result in response.results]
    assert told == [(str(index % 3), f"r-{index}") for index in range(1000)]


async def test_every_verification_without_a_name_gets_one_of_its_own(api: Api) -> None:
    metadata = (*api.root, ("x-request-id", "of-the-users-request"))
    single = [(await api.verification.Verify(pb.VerifyRequest(), metadata=metadata)).request_id for _ in range(2)]
    batch = await api.verification.BatchVerify(
        pb.BatchVerifyRequest(requests=[pb.VerifyRequest()] * 2), metadata=metadata
    )
    names = {*single, *(result.response.request_id for result in batch.results)}
    assert len(names) == 4
    assert "of-the-users-request" not in names


async def test_the_access_line_of_a_verification_tells_the_decision_and_no_secret(api: Api) -> None:
    created = await api.key("acme")
    await api.verification.Verify(pb.VerifyRequest(api_key=created.api_key, request_id="r-1"), metadata=api.root)
    (line,) = api.log.lines
    assert line["method"] == "Verify"
    assert line["decision"] == "ALLOWED"
    assert line["request_id"] == "r-1"
    assert line["tenant"] == "tollkeeper"
    assert created.api_key not in str(line)


async def test_decisions_are_counted_by_code_alone_or_in_batches(api: Api) -> None:
    await api.verification.Verify(pb.VerifyRequest(), metadata=api.root)
    await api.verification.BatchVerify(
        pb.BatchVerifyRequest(requests=[pb.VerifyRequest(), pb.VerifyRequest(api_key="x")]), metadata=api.root
    )
    count = api.registry.get_sample_value
    assert count("tollkeeper_decisions_total", {"code": "KEY_MISSING"}) == 2
    assert count("tollkeeper_decisions_total", {"code": "KEY_INVALID"}) == 1


async def test_a_revision_that_is_not_there_yet_is_unavailable_and_not_a_denial(api: Api) -> None:
    created = await api.key("acme")
    request = pb.VerifyRequest(api_key=created.api_key, min_revision=created.revision)
    assert (await api.verification.Verify(request, metadata=api.root)).code == pb.DECISION_CODE_ALLOWED
    request.min_revision = created.revision + 1_000
    with refused(grpc.StatusCode.UNAVAILABLE) as details:
        await api.verification.Verify(request, metadata=api.root)
    assert details.reason == "REVISION_NOT_REACHED"


async def test_a_stalled_store_costs_a_caller_its_deadline_and_no_more(api: Api, postgres_url: str) -> None:
    created = await api.key("acme")
    await api.call("Verify", None, metadata=api.root)  # the caller is known from now on
    async with stalled(postgres_url):
        started = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await api.verification.Verify(pb.VerifyRequest(api_key=created.api_key), metadata=api.root, timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started < 2
    response = await api.verification.Verify(pb.VerifyRequest(api_key=created.api_key), metadata=api.root)
    assert response.code == pb.DECISION_CODE_ALLOWED


async def test_what_needs_a_stalled_store_is_unavailable_and_never_invalid(api: Api, postgres_url: str) -> None:
    created = await api.key("acme")
    await api.call("Verify", None, metadata=api.root)  # the caller is known from now on
    unknown = pb.VerifyRequest(api_key=created.api_key)
    batch = pb.BatchVerifyRequest(requests=[pb.VerifyRequest(), unknown, pb.VerifyRequest(api_key="x")])
    async with stalled(postgres_url):
        answering = asyncio.ensure_future(api.verification.BatchVerify(batch, metadata=api.root))
        with refused(grpc.StatusCode.UNAVAILABLE) as details:
            await api.verification.Verify(unknown, metadata=api.root)
        missing, unavailable, malformed = (await answering).results
    assert details.reason == "POSTGRES_UNAVAILABLE"
    assert details["RetryInfo"].retry_delay.ToMilliseconds() > 0
    assert missing.response.code == pb.DECISION_CODE_KEY_MISSING
    assert details_of(unavailable.error).reason == "POSTGRES_UNAVAILABLE"
    assert malformed.response.code == pb.DECISION_CODE_KEY_INVALID


async def test_many_calls_at_once_each_get_their_own_answer(api: Api) -> None:
    created = [await api.key("acme", name=str(number)) for number in range(20)]
    requests = [pb.VerifyRequest(api_key=it.api_key, request_id=it.key.name) for it in created * 5]
    responses = await asyncio.gather(*(api.verification.Verify(it, metadata=api.root) for it in requests))
    assert all(response.key.name == response.request_id for response in responses)
