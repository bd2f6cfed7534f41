"""Verifications batch after batch over one stream: answered as BatchVerify answers, bounded, ended in good order."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.integration.api_support import Api, Metadata, api_on
from tests.tools.refusals import details_of, refused
from tollkeeper.v1 import key_service_pb2
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api import verify_stream
from tollkeeper_server.core.limits import Limit, LimitKind
from tollkeeper_server.verify.begun import Begun, Outcome
from tollkeeper_server.verify.verification import Verification

FIVE_A_MINUTE = Limit(name="burst", kind=LimitKind.RATE, unit="requests", amount=5, window_seconds=60)
SECONDS = 10


@pytest.fixture
def draining() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def api(postgres_url: str, redis_url: str, draining: asyncio.Event) -> AsyncIterator[Api]:
    async with api_on(postgres_url, redis_url, draining=draining) as api:
        yield api


class Held:
    """Holds back verifications that are named ``held``, and counts those that came to be decided."""

    def __init__(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = asyncio.Event()
        self.seen = 0
        self.cancelled = 0
        self._verifier = api.parts.verifier
        self._begin = self._verifier.begin
        self._changed = asyncio.Event()
        monkeypatch.setattr(api.parts.verifier, "begin", self._begin_or_hold)
        monkeypatch.setattr(api.parts.verifier, "precedent", lambda *_: None)

    def _begin_or_hold(self, verification: Verification) -> Begun:
        if not verification.request_id.startswith("held"):
            return self._begin(verification)
        self.seen += 1
        self._changed.set()
        return self._hold(verification)

    async def _hold(self, verification: Verification) -> Outcome:
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self._changed.set()
            raise
        return await self._verifier.verify(verification)

    async def until(self, *, seen: int = 0, cancelled: int = 0) -> None:
        """So much came to be decided."""
        async with asyncio.timeout(SECONDS):
            while self.seen < seen or self.cancelled < cancelled:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def held(api: Api, monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(api, monkeypatch)


def opened(api: Api, metadata: Metadata | None = None) -> Any:
    return api.verification.VerifyStream(metadata=api.root if metadata is None else metadata, timeout=SECONDS)


def batch(batch_id: int, api_key: str, *names: str) -> pb.VerifyStreamRequest:
    """One verification for each name."""
    requests = [pb.VerifyRequest(api_key=api_key, request_id=name) for name in names]
    return pb.VerifyStreamRequest(batch_id=batch_id, requests=requests)


def names(response: pb.VerifyStreamResponse) -> list[str]:
    return [result.response.request_id for result in response.results]


async def results_of(stream: Any) -> dict[tuple[int, int], pb.VerifyResult]:
    """Every result by batch and position, each of which comes once."""
    results: dict[tuple[int, int], pb.VerifyResult] = {}
    async for response in stream:
        positions = response.positions or range(len(response.results))
        for position, result in zip(positions, response.results, strict=True):
            assert (response.batch_id, position) not in results
            results[response.batch_id, position] = result
    return results


async def test_every_batch_is_answered_under_its_number_each_item_in_its_place(api: Api) -> None:
    created = [await api.key("acme", name=str(number)) for number in range(3)]
    stream = opened(api)
    for batch_id in range(20):
        requests = [
            pb.VerifyRequest(api_key=created[index % 3].api_key, request_id=f"{batch_id}.{index}")
            for index in range(batch_id + 1)
        ]
        await stream.write(pb.VerifyStreamRequest(batch_id=batch_id, requests=requests))
    await stream.done_writing()
    results = await results_of(stream)
    assert len(results) == sum(range(1, 21))
    for (batch_id, index), result in results.items():
        told = (result.response.key.name, result.response.request_id)
        assert told == (str(index % 3), f"{batch_id}.{index}")


async def test_a_batch_that_takes_long_holds_up_no_other(api: Api, held: Held) -> None:
    api_key = (await api.key("acme")).api_key
    stream = opened(api)
    await stream.write(batch(1, api_key, "held"))
    await stream.write(batch(2, api_key, "quick"))
    assert (await stream.read()).batch_id == 2
    held.release.set()
    assert (await stream.read()).batch_id == 1


async def test_what_takes_long_in_a_batch_holds_up_nothing_else_in_it(api: Api, held: Held) -> None:
    api_key = (await api.key("acme")).api_key
    stream = opened(api)
    await stream.write(batch(1, api_key, "held-0", "quick-1", "held-2", "quick-3"))
    first = await stream.read()
    assert (names(first), list(first.positions)) == (["quick-1", "quick-3"], [1, 3])
    held.release.set()
    last = await stream.read()
    assert (names(last), list(last.positions)) == (["held-0", "held-2"], [0, 2])
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_what_is_wrong_with_one_item_is_the_answer_to_that_one_alone(api: Api) -> None:
    created = await api.key("acme", limits=(FIVE_A_MINUTE,))
    requests = [
        pb.VerifyRequest(api_key=created.api_key, charges={"requests": 5}),
        pb.VerifyRequest(api_key=created.api_key, client_ip="nowhere"),
        pb.VerifyRequest(api_key=created.api_key, min_revision=created.revision + 1000),
        pb.VerifyRequest(api_key="tk_unknown"),
        pb.VerifyRequest(api_key=created.api_key),
    ]
    stream = opened(api)
    await stream.write(pb.VerifyStreamRequest(batch_id=-7, requests=requests))
    await stream.done_writing()
    answers = [response async for response in stream]
    results = {
        position: result for each in answers for position, result in zip(each.positions, each.results, strict=True)
    }
    allowed, invalid, unavailable, unknown, limited = (results[position] for position in range(5))
    assert {response.batch_id for response in answers} == {-7}
    assert allowed.response.code == pb.DECISION_CODE_ALLOWED
    assert details_of(invalid.error).fields == ["client_ip"]
    assert details_of(unavailable.error).reason == "REVISION_NOT_REACHED"
    assert unknown.response.code == pb.DECISION_CODE_KEY_INVALID
    assert limited.response.code == pb.DECISION_CODE_RATE_LIMITED
    named = {result.response.request_id for result in results.values()}
    assert len(named - {""}) == 3


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_bad_batch_ends_the_stream_once_what_came_before_is_answered(api: Api, held: Held, count: int) -> None:
    api_key = (await api.key("acme")).api_key
    stream = opened(api)
    await stream.write(batch(1, api_key, "held"))
    await stream.write(batch(2, api_key, *(["name"] * count)))
    await held.until(seen=1)
    held.release.set()
    assert (await stream.read()).batch_id == 1
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
        await stream.read()
    assert details.fields == ["requests"]
    assert held.seen == 1


async def test_a_stream_does_not_outlive_the_revocation_of_its_callers_key(api: Api) -> None:
    api_key = (await api.key("acme")).api_key
    caller = await api.key("acme", permissions=("tollkeeper:verify",))
    stream = opened(api, (("authorization", f"Bearer {caller.api_key}"),))
    await stream.write(batch(1, api_key, "before"))
    assert names(await stream.read()) == ["before"]
    await api.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=caller.key.key_id), metadata=api.root)
    await stream.write(batch(2, api_key, "after"))
    with refused(grpc.StatusCode.UNAUTHENTICATED) as details:
        await stream.read()
    assert details.reason == "CALLER_KEY_REVOKED"
    assert api.registry.get_sample_value("tollkeeper_decisions_total", {"code": "ALLOWED"}) == 1


async def test_a_caller_that_may_not_verify_gets_no_stream(api: Api) -> None:
    with refused(grpc.StatusCode.PERMISSION_DENIED):
        await opened(api, await api.caller(permissions=["tollkeeper:keys.read"])).read()


async def test_a_server_about_to_go_answers_what_it_has_read_and_ends_the_stream(
    api: Api, held: Held, draining: asyncio.Event
) -> None:
    api_key = (await api.key("acme")).api_key
    stream = opened(api)
    await stream.write(batch(1, api_key, "held"))
    await held.until(seen=1)
    draining.set()
    await stream.write(batch(2, api_key, "too late"))
    held.release.set()
    assert [response.batch_id async for response in stream] == [1]
    assert await stream.code() is grpc.StatusCode.OK
    assert [response async for response in opened(api)] == []


async def test_an_old_stream_ends(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_stream, "STREAM_SECONDS", 0.1)
    stream = opened(api)
    assert [response async for response in stream] == []
    assert await stream.code() is grpc.StatusCode.OK


async def test_a_stream_with_much_under_way_is_not_read_on(api: Api, held: Held) -> None:
    api_key = (await api.key("acme")).api_key
    stream = opened(api)
    for batch_id in range(30):
        await stream.write(batch(batch_id, api_key, *(f"held-{item}" for item in range(100))))
    await stream.done_writing()
    await held.until(seen=verify_stream.UNDER_WAY_MAX)
    for _ in range(10):  # the server goes on with everything else
        await api.verification.Verify(pb.VerifyRequest(api_key=api_key), metadata=api.root)
    assert held.seen == verify_stream.UNDER_WAY_MAX
    held.release.set()
    assert {response.batch_id async for response in stream} == set(range(30))


async def test_a_stream_that_its_caller_gave_up_ends_its_work(api: Api, held: Held) -> None:
    api_key = (await api.key("acme")).api_key
    stream = opened(api)
    for batch_id in range(3):
        await stream.write(batch(batch_id, api_key, "held"))
    await held.until(seen=3)
    stream.cancel()
    await held.until(cancelled=3)
    async with asyncio.timeout(SECONDS):
        while ending := [task for task in asyncio.all_tasks() if task.get_name() == "verify_stream"]:
            await asyncio.wait(ending)


async def test_verifications_of_a_stream_are_counted_and_logged_like_others(api: Api) -> None:
    created = await api.key("acme")
    stream = opened(api)
    for batch_id in range(3):
        await stream.write(batch(batch_id, created.api_key, "", ""))
    await stream.done_writing()
    assert len(await results_of(stream)) == 6
    assert await stream.code() is grpc.StatusCode.OK
    (line,) = [line for line in api.log.lines if line["method"] == "VerifyStream"]
    assert (line["code"], line["verifications"]) == ("OK", 6)
    assert created.api_key not in str(line)
    assert api.registry.get_sample_value("tollkeeper_decisions_total", {"code": "ALLOWED"}) == 6
