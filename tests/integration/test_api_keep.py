"""Answers that may be kept, as callers see them: over gRPC, on real stores."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.integration.api_support import Api, api_on
from tests.tools.refusals import refused
from tollkeeper.v1 import key_service_pb2
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.core.limits import Limit, LimitKind

MINUTE = timedelta(seconds=60)
IN_TOKENS = Limit(name="tokens", kind=LimitKind.RATE, unit="tokens", amount=5, window_seconds=60)
A_THOUSAND = Limit(name="daily", kind=LimitKind.QUOTA, unit="requests", amount=1000, window_seconds=86_400)


@pytest.fixture
async def api(postgres_url: str, redis_url: str) -> AsyncIterator[Api]:
    async with api_on(postgres_url, redis_url) as api:
        yield api


async def verify(api: Api, api_key: str, **fields: Any) -> pb.VerifyResponse:
    answer: pb.VerifyResponse = await api.verification.Verify(
        pb.VerifyRequest(api_key=api_key, **fields), metadata=api.root
    )
    return answer


async def test_an_answer_that_no_limit_counts_is_kept_for_a_minute_however_often(api: Api) -> None:
    created = await api.key("acme", owner_id="owner")
    kept = await verify(api, created.api_key, keep=1)
    assert (kept.code, kept.kept.verifications, kept.reservation_id) == (pb.DECISION_CODE_ALLOWED, 0, "")
    assert kept.kept.usable_for.ToTimedelta() == MINUTE
    assert kept.revision >= created.key.revision
    assert not (await verify(api, created.api_key)).HasField("kept")


async def test_batches_keep_as_single_verifications_do(api: Api) -> None:
    created = await api.key("acme")
    questions = [pb.VerifyRequest(api_key=created.api_key, keep=keep) for keep in (0, 9)]
    answer = await api.verification.BatchVerify(pb.BatchVerifyRequest(requests=questions), metadata=api.root)
    assert [result.response.HasField("kept") for result in answer.results] == [False, True]


async def test_streams_keep_as_single_verifications_do(api: Api) -> None:
    created = [await api.key("acme"), await api.key("acme", limits=(A_THOUSAND,))]
    questions = [pb.VerifyRequest(api_key=each.api_key, keep=9) for each in created]
    stream = api.verification.VerifyStream(metadata=api.root)
    await stream.write(pb.VerifyStreamRequest(batch_id=1, requests=questions))
    await stream.done_writing()
    kept = [result.response.kept.verifications async for answer in stream for result in answer.results]
    assert sorted(kept) == [0, 9]


async def test_no_answer_is_kept_beyond_the_end_of_its_key(api: Api) -> None:
    ends_at = datetime.now(UTC) + timedelta(seconds=20)
    created = await api.key("acme", expires_at=ends_at)
    answer = await verify(api, created.api_key, keep=1)
    assert timedelta() < answer.kept.usable_for.ToTimedelta() < timedelta(seconds=20)


async def test_no_answer_is_kept_beyond_the_end_of_its_api_key(api: Api) -> None:
    created = await api.key("acme")
    rotate = key_service_pb2.RotateKeyRequest(key_id=created.key.key_id, overlap=Duration(seconds=30))
    rotated = await api.keys.RotateKey(rotate, metadata=api.root)
    old, new = [await verify(api, api_key, keep=1) for api_key in (created.api_key, rotated.api_key)]
    assert timedelta() < old.kept.usable_for.ToTimedelta() < timedelta(seconds=30)
    assert new.kept.usable_for.ToTimedelta() == MINUTE


async def test_denials_are_never_kept(api: Api) -> None:
    created = await api.key("acme", resources=("api",), limits=(IN_TOKENS,))
    for fields in ({"resource": "other"}, {"resource": "api", "charges": {"tokens": 6}}):
        answer = await verify(api, created.api_key, keep=9, **fields)
        assert answer.code != pb.DECISION_CODE_ALLOWED
        assert not answer.HasField("kept")
    assert not (await verify(api, "tk_unknown", keep=9)).HasField("kept")


@pytest.mark.parametrize("field", ["reserve", "dry_run"])
async def test_what_is_held_or_decided_in_vain_is_not_kept(api: Api, field: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
        await verify(api, "tk_any", keep=1, **{field: True})
    assert details.fields == ["keep"]


async def test_a_kept_answer_of_a_limited_key_is_settled_over_the_api(api: Api) -> None:
    created = await api.key("acme", limits=(A_THOUSAND,))
    answer = await verify(api, created.api_key, keep=50)
    assert (answer.code, answer.kept.verifications) == (pb.DECISION_CODE_ALLOWED, 10)
    assert timedelta() < answer.kept.usable_for.ToTimedelta() <= timedelta(seconds=1)
    settle = pb.SettleRequest(reservation_id=answer.reservation_id, charges={"requests": 3}, verifications=3)
    first, second = [await api.verification.Settle(settle, metadata=api.root) for _ in range(2)]
    assert (first.already_settled, first.limits[0].used) == (False, 3)
    assert (second.already_settled, second.limits[0].used) == (True, 3)
