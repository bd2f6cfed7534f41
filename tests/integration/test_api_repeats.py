"""What a service asks again and again is answered from memory, and still never after it has ended, over gRPC."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from tests.integration.api_support import Api, Metadata, api_on
from tests.tools.refusals import refused
from tollkeeper.v1 import key_pb2, key_service_pb2, limit_pb2, usage_service_pb2
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api.questions import Questions
from tollkeeper_server.core.limits import Limit, LimitKind
from tollkeeper_server.keys.commands import CreatedKey

FIVE_A_DAY = Limit(name="daily", kind=LimitKind.QUOTA, unit="requests", amount=5, window_seconds=86_400)


@pytest.fixture
async def api(postgres_url: str, redis_url: str) -> AsyncIterator[Api]:
    async with api_on(postgres_url, redis_url) as api:
        yield api


class Reads:
    """How many requests were read, and not recalled; with the step ``place``, also known ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, step: str = "read") -> None:
        self.number = 0
        read = getattr(Questions, step)

        def counted(*args: object, **kwargs: object) -> object:
            self.number += 1
            return read(*args, **kwargs)

        monkeypatch.setattr(Questions, step, counted)


async def learned(api: Api, request: pb.VerifyRequest, caller: Metadata, reads: Reads) -> None:
    """Ask until the call is recalled, as it is once the server's lease has been renewed."""
    async with asyncio.timeout(10):
        while True:
            before = reads.number
            answer = await api.verification.Verify(request, metadata=caller)
            assert answer.code == pb.DECISION_CODE_ALLOWED
            if reads.number == before:
                return


async def until(figure: Callable[[], Awaitable[int]], expected: int) -> None:
    """Wait until the figure is there, and no higher."""
    async with asyncio.timeout(10):
        while (found := await figure()) < expected:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert found == expected


async def revoke(api: Api, created: CreatedKey) -> int:
    await api.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=created.key.key_id), metadata=api.root)
    return pb.DECISION_CODE_KEY_REVOKED


async def disable(api: Api, created: CreatedKey) -> int:
    await api.keys.DisableKey(key_service_pb2.DisableKeyRequest(key_id=created.key.key_id), metadata=api.root)
    return pb.DECISION_CODE_KEY_DISABLED


async def narrow(api: Api, created: CreatedKey) -> int:
    narrowed = key_pb2.Key(key_id=created.key.key_id, allowed_cidrs=["198.51.100.0/24"])
    request = key_service_pb2.UpdateKeyRequest(key=narrowed, update_mask=FieldMask(paths=["allowed_cidrs"]))
    await api.keys.UpdateKey(request, metadata=api.root)
    return pb.DECISION_CODE_IP_DENIED


async def rotate(api: Api, created: CreatedKey) -> int:
    await api.keys.RotateKey(key_service_pb2.RotateKeyRequest(key_id=created.key.key_id), metadata=api.root)
    return pb.DECISION_CODE_KEY_INVALID


async def suspend(api: Api, created: CreatedKey) -> int:
    owner = key_service_pb2.Owner(owner_id=created.key.owner_id, suspended=True)
    request = key_service_pb2.SetOwnerRequest(owner=owner, tenant_id="acme")
    await api.keys.SetOwner(request, metadata=api.root)
    return pb.DECISION_CODE_KEY_DISABLED


@pytest.mark.parametrize("end", [revoke, disable, narrow, rotate, suspend])
async def test_a_repeated_call_is_denied_as_soon_as_its_key_has_ended(
    api: Api, end: Callable[[Api, CreatedKey], Awaitable[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    created = await api.key(owner_id="owner")
    request = pb.VerifyRequest(api_key=created.api_key, client_ip="192.0.2.7")
    await learned(api, request, api.root, reads)
    expected = await end(api, created)
    assert (await api.verification.Verify(request, metadata=api.root)).code == expected


async def test_a_repeated_call_is_refused_as_soon_as_the_key_of_its_caller_has_ended(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    created, calling = await api.key(), await api.key(permissions=("tollkeeper:verify",))
    request = pb.VerifyRequest(api_key=created.api_key)
    caller = (("authorization", f"Bearer {calling.api_key}"),)
    await learned(api, request, caller, reads)
    await revoke(api, calling)
    with refused(grpc.StatusCode.UNAUTHENTICATED):
        await api.verification.Verify(request, metadata=caller)


async def test_repeated_calls_are_told_apart_logged_and_counted_as_all_others(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    created = await api.key()
    request = pb.VerifyRequest(api_key=created.api_key)
    await learned(api, request, api.root, reads)
    before, logged = reads.number, len(api.log.lines)
    answers = [await api.verification.Verify(request, metadata=api.root) for _ in range(10)]
    assert reads.number == before
    assert len({answer.request_id for answer in answers}) == 10
    lines = api.log.lines[logged:]
    assert [line["request_id"] for line in lines] == [answer.request_id for answer in answers]
    earlier = api.log.lines[0]
    varying = ("request_id", "timestamp", "duration_ms")
    for line in lines:
        assert {name: line[name] for name in line if name not in varying} == {
            name: earlier[name] for name in earlier if name not in varying
        }
    verified = logged + 10

    async def counted() -> int:
        asked = usage_service_pb2.GetUsageRequest(key_id=created.key.key_id)
        usage = await api.usage.GetUsage(asked, metadata=api.root)
        return sum(bucket.allowed for bucket in usage.buckets)

    await until(counted, verified)


@pytest.mark.parametrize("limits", [(), (replace(FIVE_A_DAY, amount=1_000_000),)], ids=["no limits", "a limit"])
async def test_a_call_whose_key_has_changed_is_read_once_and_then_repeats_again(
    api: Api, limits: tuple[Limit, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Reads(monkeypatch, step="place")
    created = await api.key(limits=limits)
    request = pb.VerifyRequest(api_key=created.api_key)
    await learned(api, request, api.root, looks)
    renamed = key_pb2.Key(key_id=created.key.key_id, name="renamed")
    update = key_service_pb2.UpdateKeyRequest(key=renamed, update_mask=FieldMask(paths=["name"]))
    await api.keys.UpdateKey(update, metadata=api.root)
    assert (await api.verification.Verify(request, metadata=api.root)).key.name == "renamed"
    await learned(api, request, api.root, looks)


async def test_each_repeated_call_is_charged_and_no_unit_too_many_is_let_through(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    created = await api.key(limits=(FIVE_A_DAY,))
    request = pb.VerifyRequest(api_key=created.api_key, charges={"requests": 1})
    await learned(api, request, api.root, reads)
    spent = (await api.verification.CheckQuota(pb.CheckQuotaRequest(api_key=created.api_key), metadata=api.root)).limits
    left = 5 - spent[0].used
    before = reads.number
    answers = await asyncio.gather(*(api.verification.Verify(request, metadata=api.root) for _ in range(20)))
    assert reads.number == before
    codes = [answer.code for answer in answers]
    assert codes.count(pb.DECISION_CODE_ALLOWED) == left
    assert codes.count(pb.DECISION_CODE_QUOTA_EXCEEDED) == 20 - left
    assert all(answer.limits[0].kind == limit_pb2.LIMIT_KIND_QUOTA for answer in answers)
    assert max(answer.limits[0].used for answer in answers) == 5


async def test_what_is_asked_again_under_one_id_is_charged_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    created = await api.key(limits=(replace(FIVE_A_DAY, amount=100),))
    await learned(api, pb.VerifyRequest(api_key=created.api_key), api.root, reads)
    before = reads.number

    async def used(*names: str) -> int:
        requests = [pb.VerifyRequest(api_key=created.api_key, request_id=name) for name in names]
        batch = await api.verification.BatchVerify(pb.BatchVerifyRequest(requests=requests), metadata=api.root)
        ones = [await api.verification.Verify(request, metadata=api.root) for request in requests]
        answers = [result.response for result in batch.results] + ones
        assert [answer.request_id for answer in answers] == [*names, *names]
        assert {answer.code for answer in answers} == {pb.DECISION_CODE_ALLOWED}
        return max(int(answer.limits[0].used) for answer in answers)

    first = await used("a", "b", "c")
    assert await used("a", "b", "c") == first
    assert await used("c", "d") == first + 1
    assert reads.number == before


async def test_credentials_that_are_ambiguous_are_refused_also_where_the_call_is_known(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    request = pb.VerifyRequest(api_key=(await api.key()).api_key)
    await learned(api, request, api.root, reads)
    with refused(grpc.StatusCode.UNAUTHENTICATED):
        await api.verification.Verify(request, metadata=(*api.root, ("authorization", "Bearer other")))
