"""AsyncClient over its stream: batches form by themselves, callers do not disturb each other, ends are survived."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import uvloop

from tests.integration.faulty_server import (
    Context,
    FaultyServer,
    address,
    eventually,
    failing,
    hang,
    new_server,
    running,
)
from tollkeeper import (
    AsyncClient,
    DeadlineExceeded,
    Decision,
    Internal,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    _backlog,
    _verify_stream,
)
from tollkeeper.v1 import verification_service_pb2 as pb

TOKEN = "tk_of_the_caller"
SECONDS = 10
FOR_EVER = 1_000.0


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with running(1) as (server,):
        yield server


@pytest.fixture
async def client(server: FaultyServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address(server), token=TOKEN, verify_timeout=SECONDS) as client:
        yield client


@pytest.fixture
async def told() -> list[Any]:
    """What the event loop is told of: tasks that failed, or were destroyed, with nobody to notice."""
    contexts: list[Any] = []

    def note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "PollerCompletionQueue" not in context["message"]:  # grpc.aio's, left from the event loop of another test
            contexts.append(context)

    asyncio.get_running_loop().set_exception_handler(note)
    return contexts


class Hold:
    """Holds back answers until it is released: of all verifications, or of those whose API keys are named."""

    def __init__(self, *api_keys: str) -> None:
        self.released = asyncio.Event()
        self._api_keys = api_keys

    async def __call__(self, request: Any, context: Context) -> None:
        if isinstance(request, pb.VerifyRequest) and (not self._api_keys or request.api_key in self._api_keys):
            await self.released.wait()


def verifying(client: AsyncClient, count: int, **fields: Any) -> list[asyncio.Task[Decision]]:
    return [asyncio.create_task(client.verify(f"tk_{number}", **fields)) for number in range(count)]


async def test_a_verification_that_finds_nothing_under_way_does_not_wait_for_others(
    server: FaultyServer, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_verify_stream, "GATHER_SECONDS", FOR_EVER)
    for _ in range(3):
        assert (await client.verify("tk_1")).allowed
    assert server.batches == [1, 1, 1]


async def test_verifications_gather_while_one_is_under_way_and_go_together_once_it_is_answered(
    server: FaultyServer, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_verify_stream, "GATHER_SECONDS", FOR_EVER)
    server.before = hold = Hold()
    first = asyncio.create_task(client.verify("tk_first"))
    await eventually(lambda: server.batches == [1])
    rest = verifying(client, 50)
    await client.get_key("key_1")  # by then they wait
    hold.released.set()
    await asyncio.gather(first, *rest)
    assert server.batches == [1, 50]


async def test_what_gathers_does_not_wait_long_for_what_is_under_way(server: FaultyServer, client: AsyncClient) -> None:
    server.before = hold = Hold("tk_slow")
    slow = asyncio.create_task(client.verify("tk_slow"))
    await eventually(lambda: server.batches == [1])
    await asyncio.gather(*verifying(client, 50))
    assert not slow.done()
    hold.released.set()
    assert (await slow).allowed


async def test_every_caller_gets_its_own_answer(client: AsyncClient) -> None:
    async def verify(number: int) -> None:
        for turn in range(5):
            name = f"{number}.{turn}"
            assert (await client.verify(f"tk_{number}", request_id=name)).request_id == name

    await asyncio.gather(*(verify(number) for number in range(300)))


async def test_no_more_is_under_way_than_allowed_and_the_rest_waits(server: FaultyServer, client: AsyncClient) -> None:
    most = _verify_stream.BATCHES_MAX * _backlog.BATCH_MAX
    server.before = hold = Hold()
    tasks = verifying(client, 2 * most)
    await eventually(lambda: sum(server.batches) == most)
    for _ in range(10):  # everything else goes on
        await client.get_key("key_1")
    assert sum(server.batches) == most
    assert max(server.batches) == _backlog.BATCH_MAX
    hold.released.set()
    assert all(decision.allowed for decision in await asyncio.gather(*tasks))
    assert sum(server.batches) == 2 * most


async def test_one_caller_that_runs_out_of_time_disturbs_no_other_of_its_batch(
    server: FaultyServer, client: AsyncClient
) -> None:
    server.before = hold = Hold()
    patient = verifying(client, 5)
    hasty = asyncio.create_task(client.verify("tk_hasty", timeout=0.1))
    with pytest.raises(DeadlineExceeded, match="no answer within the timeout"):
        await hasty
    assert server.batches == [6]
    hold.released.set()
    assert all(decision.allowed for decision in await asyncio.gather(*patient))
    assert (server.streams, len(server.requests)) == (1, 6)


async def test_one_caller_that_gives_up_disturbs_no_other_of_its_batch(
    server: FaultyServer, client: AsyncClient
) -> None:
    server.before = hold = Hold()
    *patient, leaving = verifying(client, 6)
    await eventually(lambda: server.batches == [6])
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    hold.released.set()
    assert all(decision.allowed for decision in await asyncio.gather(*patient))
    assert (server.streams, len(server.requests)) == (1, 6)


async def test_what_nobody_waits_for_any_more_is_not_sent(
    server: FaultyServer, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_verify_stream, "BATCHES_MAX", 1)
    server.before = hold = Hold()
    first = asyncio.create_task(client.verify("tk_first"))
    await eventually(lambda: server.batches == [1])
    with pytest.raises(DeadlineExceeded):
        await client.verify("tk_late", timeout=0.05)
    hold.released.set()
    await first
    await client.verify("tk_next")
    assert [request.api_key for request in server.requests] == ["tk_first", "tk_next"]


async def test_what_a_stream_did_not_answer_is_asked_again_under_its_name_on_another(
    server: FaultyServer, client: AsyncClient
) -> None:
    server.before = hang
    tasks = verifying(client, 5)
    await eventually(lambda: len(server.requests) > 0)
    server.before = None
    server.end_streams()
    assert all(decision.allowed for decision in await asyncio.gather(*tasks))
    assert server.streams == 2
    assert len({request.request_id for request in server.requests}) == 5
    assert len(server.requests) > 5


async def test_a_stream_that_ended_while_nothing_was_asked_is_opened_again_when_it_is_needed(
    server: FaultyServer, client: AsyncClient
) -> None:
    await client.verify("tk_1")
    server.end_streams()
    await client.get_key("key_1")
    assert server.streams == 1
    assert (await client.verify("tk_1")).allowed
    assert server.streams == 2


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgument),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_refusal_is_told_to_every_caller_and_not_asked_for_again(
    server: FaultyServer, client: AsyncClient, code: grpc.StatusCode, error: type[Exception], at_once: bool
) -> None:
    if at_once:
        server.refusal = code
    else:
        server.before = failing(1000, code)
    outcomes = await asyncio.gather(*verifying(client, 20), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {error}
    assert len({id(outcome) for outcome in outcomes}) == 20
    server.before = server.refusal = None
    assert (await client.verify("tk_1")).allowed


async def test_a_server_that_has_no_streams_is_asked_call_by_call(
    server: FaultyServer, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.refusal = grpc.StatusCode.UNIMPLEMENTED
    for _ in range(2):
        assert all(decision.allowed for decision in await asyncio.gather(*verifying(client, 10)))
    assert (server.streams, len(server.requests), server.batches) == (1, 20, [])
    server.refusal = None
    monkeypatch.setattr(client._verify_rpc, "_unary_until", 0.0)
    await client.verify("tk_1")
    assert server.batches == [1]


async def test_a_request_too_large_for_the_contract_goes_alone(server: FaultyServer, client: AsyncClient) -> None:
    assert (await client.verify("x" * (_verify_stream.REQUEST_BYTES_MAX + 1))).allowed
    assert (server.streams, len(server.requests)) == (0, 1)


async def test_a_server_that_hangs_is_left_for_another_one() -> None:
    async with running(2) as servers, AsyncClient(address(*servers), token=TOKEN) as client:
        await client.verify("tk_1")
        hanging = next(server for server in servers if server.batches)
        hanging.before = hang
        with pytest.raises(DeadlineExceeded):
            await client.verify("tk_1", timeout=_verify_stream.SILENCE_SECONDS * 1.2)
        async with asyncio.timeout(SECONDS):
            while not any(server.batches for server in servers if server is not hanging):
                await asyncio.gather(client.verify("tk_1"), return_exceptions=True)
        assert (await client.verify("tk_1")).allowed


async def test_answers_that_make_no_sense_are_errors_of_those_whom_they_concern(
    server: FaultyServer, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def one_too_few(batch: Any, context: Context) -> None:
        results = [pb.VerifyResult()] * (len(batch.requests) - 1)
        await context.write(pb.VerifyStreamResponse(batch_id=batch.batch_id, results=results))

    async def empty(batch: Any, context: Context) -> None:
        results = [pb.VerifyResult()] * len(batch.requests)
        await context.write(pb.VerifyStreamResponse(batch_id=batch.batch_id + 1_000))
        await context.write(pb.VerifyStreamResponse(batch_id=batch.batch_id, results=results))

    async def exchanged(batch: Any, context: Context) -> None:
        answers = [pb.VerifyResponse(code=pb.DECISION_CODE_ALLOWED, request_id=it.request_id) for it in batch.requests]
        results = [pb.VerifyResult(response=answer) for answer in (*answers[1:], answers[0])]
        await context.write(pb.VerifyStreamResponse(batch_id=batch.batch_id, results=results))

    for answer, message in (
        (one_too_few, "4 answers to 5 questions"),
        (empty, "the answer is empty"),
        (exchanged, "the answer is to another question"),
    ):
        monkeypatch.setattr(server, "_answer", answer)
        outcomes = await asyncio.gather(*verifying(client, 5), return_exceptions=True)
        assert all(isinstance(outcome, Internal) and outcome.message == message for outcome in outcomes), outcomes
    monkeypatch.undo()
    assert (await client.verify("tk_1")).allowed
    assert server.streams == 1


async def test_closing_leaves_nobody_waiting_and_no_task_behind(server: FaultyServer, told: list[Any]) -> None:
    server.before = hang
    client = AsyncClient(address(server), token=TOKEN)
    tasks = verifying(client, 300, timeout=FOR_EVER)
    await eventually(lambda: len(server.batches) > 1)
    await client.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) and outcome.status == "CANCELLED" for outcome in outcomes)
    with pytest.raises(Unavailable, match="the client is closed"):
        await client.verify("tk_1")
    assert not [task for task in asyncio.all_tasks() if "verify_stream" in task.get_name()]
    del tasks, outcomes, client
    gc.collect()
    assert told == []


async def test_a_client_that_was_never_used_closes_as_well(server: FaultyServer) -> None:
    async with AsyncClient(address(server), token=TOKEN):
        pass
    assert server.streams == 0


async def test_calls_that_may_wait_are_answered_once_a_server_is_there() -> None:
    server = new_server()
    await server.start()
    await server.stop()
    async with AsyncClient(address(server), token=TOKEN, verify_timeout=SECONDS) as client:
        tasks = verifying(client, 20)
        for short in verifying(client, 3, timeout=_verify_stream.SILENCE_SECONDS * 1.2):
            with pytest.raises(DeadlineExceeded):
                await short
        await server.start()
        assert all(decision.allowed for decision in await asyncio.gather(*tasks))
        await server.stop()


async def test_a_mistake_of_the_client_is_told_and_leaves_nobody_waiting(
    server: FaultyServer, client: AsyncClient, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(_backlog.Backlog, "next_batch", lambda _: 1 // 0)
        with pytest.raises(Internal):
            await client.verify("tk_1")
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
    assert (await client.verify("tk_1")).allowed


async def test_it_runs_on_uvloop_too(server: FaultyServer) -> None:
    async def use() -> list[bool]:
        async with AsyncClient(address(server), token=TOKEN) as client:
            return [decision.allowed for decision in await asyncio.gather(*verifying(client, 100))]

    assert await asyncio.to_thread(uvloop.run, use()) == [True] * 100
    assert sum(server.batches) == 100
