"""Hard limits, reservations and charge once as callers see them: over gRPC, on real stores."""

from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.integration.api_support import Api, api_on
from tests.tools.refusals import refused
from tollkeeper.v1 import key_service_pb2
from tollkeeper.v1 import limit_pb2 as limits
from tollkeeper.v1 import verification_service_pb2 as pb

DAILY = limits.Limit(name="daily", kind=limits.LIMIT_KIND_QUOTA, amount=10, window=Duration(seconds=86_400))
BUDGET = limits.Limit(
    name="budget", kind=limits.LIMIT_KIND_SPEND, amount=5_000_000, calendar=limits.CALENDAR_WINDOW_MONTH,
    time_zone="Europe/Berlin",
)  # fmt: skip


@pytest.fixture
async def api(postgres_url: str, redis_url: str) -> AsyncIterator[Api]:
    async with api_on(postgres_url, redis_url) as api:
        yield api


async def new_key(api: Api, *its: limits.Limit) -> key_service_pb2.CreateKeyResponse:
    request = key_service_pb2.CreateKeyRequest(tenant_id="acme", limits=its)
    response: key_service_pb2.CreateKeyResponse = await api.keys.CreateKey(request, metadata=api.root)
    return response


async def test_a_quota_is_held_and_checked_over_the_api(api: Api) -> None:
    created = await new_key(api, DAILY, BUDGET)
    asked = pb.VerifyRequest(api_key=created.api_key, charges={"requests": 4, "spend": 1_000_000})
    codes = [(await api.verification.Verify(asked, metadata=api.root)).code for _ in range(3)]
    assert codes == [pb.DECISION_CODE_ALLOWED] * 2 + [pb.DECISION_CODE_QUOTA_EXCEEDED]
    report = await api.verification.CheckQuota(
        pb.CheckQuotaRequest(key_id=created.key.key_id, charges={"spend": 3_000_001}), metadata=api.root
    )
    assert report.code == pb.DECISION_CODE_SPEND_LIMIT_EXCEEDED
    assert [(state.name, state.used, state.remaining) for state in report.limits] == [
        ("daily", 8, 2),
        ("budget", 2_000_000, 3_000_000),
    ]
    assert report.HasField("retry_after")


async def test_a_request_id_is_charged_once_over_the_api(api: Api) -> None:
    created = await new_key(api, DAILY)
    asked = pb.VerifyRequest(api_key=created.api_key, charges={"requests": 6}, request_id="once")
    answers = [await api.verification.Verify(asked, metadata=api.root) for _ in range(3)]
    assert {answer.code for answer in answers} == {pb.DECISION_CODE_ALLOWED}
    assert [answer.limits[0].used for answer in answers] == [6, 6, 6]
    asked.request_id = ""
    assert (await api.verification.Verify(asked, metadata=api.root)).code == pb.DECISION_CODE_QUOTA_EXCEEDED


async def test_a_reservation_is_settled_over_the_api(api: Api) -> None:
    created = await new_key(api, BUDGET)
    asked = pb.VerifyRequest(api_key=created.api_key, charges={"spend": 5_000_000}, reserve=True)
    held = await api.verification.Verify(asked, metadata=api.root)
    assert (held.code, held.limits[0].remaining) == (pb.DECISION_CODE_ALLOWED, 0)
    settle = pb.SettleRequest(reservation_id=held.reservation_id, charges={"spend": 1_250_000})
    first = await api.verification.Settle(settle, metadata=api.root)
    assert (first.already_settled, first.limits[0].used) == (False, 1_250_000)
    assert (await api.verification.Settle(settle, metadata=api.root)).already_settled
    foreign = await api.caller("other")
    with refused(grpc.StatusCode.NOT_FOUND) as details:
        await api.verification.Settle(settle, metadata=foreign)
    assert details.reason == "RESERVATION_NOT_FOUND"
