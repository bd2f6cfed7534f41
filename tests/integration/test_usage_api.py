"""Usage as callers see it: what they verify is what they are told, a moment later and after a stop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.api_support import Api, Metadata, api_on
from tests.tools.refusals import refused
from tollkeeper.v1 import key_service_pb2, usage_service_pb2
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.core.limits import Limit, LimitKind
from tollkeeper_server.keys.commands import CreatedKey
from tollkeeper_server.usage import flusher

ALLOWED, RATE_LIMITED = pb.DECISION_CODE_ALLOWED, pb.DECISION_CODE_RATE_LIMITED
DAY = usage_service_pb2.USAGE_GRANULARITY_DAY
FIVE_A_MINUTE = Limit(name="burst", kind=LimitKind.RATE, unit="requests", amount=5, window_seconds=60)


@pytest.fixture
async def api(postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(flusher, "FLUSH_SECONDS", 0.05)
    async with api_on(postgres_url, redis_url) as api:
        yield api


async def verify(api: Api, created: CreatedKey, **fields: Any) -> Any:
    return await api.verification.Verify(pb.VerifyRequest(api_key=created.api_key, **fields), metadata=api.root)


async def told(api: Api, metadata: Metadata | None = None, **query: Any) -> list[Any]:
    """The days told; tests that run at midnight see two."""
    request = usage_service_pb2.GetUsageRequest(granularity=DAY, **query)
    response = await api.usage.GetUsage(request, metadata=api.root if metadata is None else metadata)
    return list(response.buckets)


async def until(api: Api, done: Callable[[list[Any]], bool], **query: Any) -> list[Any]:
    async with asyncio.timeout(5):
        while not done(buckets := await told(api, **query)):  # noqa: ASYNC110 (the database has no event for it)
            await asyncio.sleep(0.02)
    return buckets


def allowed(buckets: list[Any]) -> int:
    return sum(bucket.allowed for bucket in buckets)


def denied(buckets: list[Any]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for bucket in buckets:
        for denial in bucket.denied:
            counts[denial.code] = counts.get(denial.code, 0) + denial.count
    return counts


def units(buckets: list[Any], unit: str) -> int:
    return sum(bucket.units[unit] for bucket in buckets if unit in bucket.units)


async def test_a_customer_is_told_what_its_key_did_by_decision_and_unit(api: Api) -> None:
    created = await api.key("acme", owner_id="customer-1", resources=("api",), limits=(FIVE_A_MINUTE,))
    codes = [(await verify(api, created, resource="api", charges={"requests": 1, "tokens": 9})).code for _ in range(7)]
    assert codes == [ALLOWED] * 5 + [RATE_LIMITED] * 2
    assert (await verify(api, created, resource="other")).code == pb.DECISION_CODE_RESOURCE_DENIED
    denials = {RATE_LIMITED: 2, pb.DECISION_CODE_RESOURCE_DENIED: 1}
    buckets = await until(api, lambda found: (allowed(found), denied(found)) == (5, denials), key_id=created.key.key_id)
    assert (units(buckets, "requests"), units(buckets, "tokens")) == (5, 45)
    assert {bucket.granularity for bucket in buckets} == {DAY}
    metadata = await api.caller("acme", permissions=["tollkeeper:usage.read"])
    assert await told(api, metadata, key_id=created.key.key_id) == buckets
    assert await told(api, metadata, owner_id="customer-1") == buckets


async def test_batches_count_as_what_is_in_them(api: Api) -> None:
    created = await api.key("acme")
    question = pb.VerifyRequest(api_key=created.api_key)
    await api.verification.BatchVerify(pb.BatchVerifyRequest(requests=[question] * 30), metadata=api.root)
    await until(api, lambda found: allowed(found) == 30, key_id=created.key.key_id)


async def test_dry_runs_unproven_api_keys_and_callers_count_nowhere(api: Api) -> None:
    created = await api.key("acme", owner_id="customer-1")
    caller = await api.key("acme", permissions=("tollkeeper:verify",))
    acme, other = (("authorization", f"Bearer {caller.api_key}"),), await api.caller("other")
    for request, metadata in [
        (pb.VerifyRequest(api_key=created.api_key, dry_run=True), acme),
        (pb.VerifyRequest(api_key=created.api_key), other),
        (pb.VerifyRequest(api_key=created.api_key[:-1] + "_"), acme),
        (pb.VerifyRequest(), acme),
        (pb.VerifyRequest(api_key=created.api_key), acme),
    ]:
        await api.verification.Verify(request, metadata=metadata)
    buckets = await until(api, bool, owner_id="customer-1", tenant_id="acme")
    assert (allowed(buckets), denied(buckets), units(buckets, "requests")) == (1, {}, 1)
    assert await told(api, key_id=caller.key.key_id) == []


async def last_use(api: Api, created: CreatedKey) -> Any:
    request = key_service_pb2.GetKeyRequest(key_id=created.key.key_id)
    key = (await api.keys.GetKey(request, metadata=api.root)).key
    return key.last_used_at if key.HasField("last_used_at") else None


async def test_the_last_use_of_keys_and_of_callers_shows_to_the_minute(api: Api) -> None:
    created, unused = await api.key("acme"), await api.key("acme")
    caller = await api.key("acme", permissions=("tollkeeper:verify",))
    before = datetime.now(UTC).replace(second=0, microsecond=0)
    request = pb.VerifyRequest(api_key=created.api_key, required_permissions=["read"])
    await api.verification.Verify(request, metadata=(("authorization", f"Bearer {caller.api_key}"),))
    async with asyncio.timeout(5):
        while None in [await last_use(api, used) for used in (created, caller)]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for used in (created, caller):
        at = (await last_use(api, used)).ToDatetime(UTC)
        assert before <= at <= before + timedelta(minutes=1)
        assert (at.second, at.microsecond) == (0, 0)
    assert await last_use(api, unused) is None


async def test_a_server_that_stops_stores_what_it_counted(postgres_url: str, redis_url: str) -> None:
    async with api_on(postgres_url, redis_url) as api:
        created = await api.key("acme")
        await asyncio.gather(*(verify(api, created) for _ in range(40)))
    async with api_on(postgres_url, redis_url) as api:
        assert allowed(await told(api, key_id=created.key.key_id)) == 40


async def findings(api: Api, created: CreatedKey, *, count: int) -> list[int]:
    """The kinds of what was found about a key, newest first, once there are so many."""
    request = usage_service_pb2.ListFindingsRequest(key_id=created.key.key_id)
    async with asyncio.timeout(5):
        while len(found := (await api.usage.ListFindings(request, metadata=api.root)).findings) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return [finding.kind for finding in found]


async def test_an_earlier_api_key_is_reported_during_the_overlap_and_after_it(api: Api) -> None:
    created = await api.key("acme")
    key_id = created.key.key_id
    rotate = key_service_pb2.RotateKeyRequest(key_id=key_id, overlap=Duration(seconds=3600))
    renewed = await api.keys.RotateKey(rotate, metadata=api.root)
    assert (await verify(api, replace(created, api_key=renewed.api_key))).code == ALLOWED
    assert (await verify(api, created)).code == ALLOWED
    assert await findings(api, created, count=1) == [usage_service_pb2.FINDING_KIND_EARLIER_API_KEY_USED]
    got = await api.keys.GetKey(key_service_pb2.GetKeyRequest(key_id=key_id), metadata=api.root)
    assert got.key.rotation.old_last_used_at == got.key.last_used_at != Timestamp()
    await api.keys.RotateKey(key_service_pb2.RotateKeyRequest(key_id=key_id), metadata=api.root)
    assert (await verify(api, created)).code == pb.DECISION_CODE_KEY_INVALID
    assert usage_service_pb2.FINDING_KIND_ENDED_API_KEY_USED in await findings(api, created, count=2)
    assert allowed(await told(api, key_id=key_id)) == 2


async def test_a_range_out_of_bounds_is_refused_by_the_name_of_its_field(api: Api) -> None:
    created = await api.key("acme")
    for start, end in [(100, 100), (100, 99), (0, 1_500 * 86_400 + 1)]:
        with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
            await told(
                api,
                key_id=created.key.key_id,
                start_time=Timestamp(seconds=start),
                end_time=Timestamp(seconds=end),
            )
        assert details.fields == ["end_time"]


async def test_the_usage_of_a_key_that_a_caller_may_not_see_is_not_found(api: Api) -> None:
    acme, foreign = await api.caller("acme"), await api.key("other")
    with refused(grpc.StatusCode.NOT_FOUND) as details:
        await told(api, acme, key_id=foreign.key.key_id)
    assert details.reason == "KEY_NOT_FOUND"
    for request in (
        usage_service_pb2.GetUsageRequest(owner_id="customer-1", tenant_id="other"),
        usage_service_pb2.ListFindingsRequest(tenant_id="other"),
    ):
        method = "GetUsage" if isinstance(request, usage_service_pb2.GetUsageRequest) else "ListFindings"
        with refused(grpc.StatusCode.PERMISSION_DENIED) as details:
            await api.call(method, request, metadata=acme)
        assert details.reason == "FOREIGN_TENANT"
