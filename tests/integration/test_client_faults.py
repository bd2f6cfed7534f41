"""The client and servers that stop, hang, or answer what it does not know; played by small servers of our own.

A real server cannot be made to fail at exactly the wrong moment; these can.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from tests.integration.faulty_server import address, eventually, failing, hang, new_server, running
from tollkeeper import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    DecisionCode,
    ImportKey,
    Internal,
    Unavailable,
    Verification,
)
from tollkeeper.v1 import key_service_pb2 as keys_pb2
from tollkeeper.v1 import verification_service_pb2 as verification_pb2
from tollkeeper.v1 import verification_service_pb2_grpc

TOKEN = "tk_of_the_caller"
CALLERS = 16
CODE_OF_A_LATER_VERSION = 99


@asynccontextmanager
async def load(client: AsyncClient) -> AsyncIterator[Counter[str]]:
    """Callers that verify and read all the time; what became of it is counted."""
    outcomes: Counter[str] = Counter()
    done = asyncio.Event()

    async def call(number: int) -> None:
        while not done.is_set():
            try:
                if number % 2:
                    await client.verify("tk_1")
                else:
                    await client.get_key("key_1")
            except Exception as error:
                outcomes[str(error)] += 1
            else:
                outcomes["ok"] += 1

    async with asyncio.TaskGroup() as callers:
        for number in range(CALLERS):
            callers.create_task(call(number))
        yield outcomes
        done.set()


async def test_rolling_restarts_fail_no_call() -> None:
    async with running(2) as servers, AsyncClient(address(*servers), token=TOKEN) as client:
        async with load(client) as outcomes:
            for server in servers * 2:
                seen = outcomes["ok"]
                await eventually(lambda enough=seen + 100: outcomes["ok"] > enough)  # type: ignore[misc]
                await server.restart()
                asked = len(server.requests)
                await eventually(lambda server=server, asked=asked: len(server.requests) > asked)  # type: ignore[misc]
        assert outcomes.keys() == {"ok"}, outcomes


async def test_the_restart_of_the_only_server_fails_no_call() -> None:
    async with running(1) as (server,), AsyncClient(address(server), token=TOKEN) as client:
        async with load(client) as outcomes:
            await eventually(lambda: outcomes["ok"] > 100)
            await server.restart()
            seen = outcomes["ok"]
            await eventually(lambda: outcomes["ok"] > seen + 100)
        assert outcomes.keys() == {"ok"}, outcomes


@pytest.mark.parametrize("watches_health", [True, False])
async def test_a_server_that_says_it_will_stop_is_asked_no_more(watches_health: bool) -> None:
    """Without watching its health, as with ``False``, calls still go to a server that is about to stop."""
    async with running(2) as (leaving, staying), AsyncExitStack() as stack:
        if watches_health:
            client = await stack.enter_async_context(AsyncClient(address(leaving, staying), token=TOKEN))
            stub = client.stubs.verification
        else:
            options = [("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')]
            channel = grpc.aio.insecure_channel(address(leaving, staying), options=options)
            stub = verification_service_pb2_grpc.VerificationServiceStub(await stack.enter_async_context(channel))

        async def ask() -> None:
            await stub.Verify(verification_pb2.VerifyRequest(), timeout=1)

        async with asyncio.timeout(5):
            while not (leaving.requests and staying.requests):
                await ask()
        await leaving.drain()
        before = len(leaving.requests)
        for _ in range(10):
            await ask()
        asked_again = len(leaving.requests) - before
        assert (asked_again == 0) is watches_health


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_reads_and_mutations_are_repeated_with_the_same_request(code: grpc.StatusCode) -> None:
    async with running(1) as (server,), AsyncClient(address(server), token=TOKEN) as client:
        server.before = failing(2, code)
        assert (await client.get_key("key_1")).key_id == "key_1"
        server.before = failing(2, code)
        assert (await client.create_key(name="ci")).key.name == "ci"
    gets, creations = server.requests[:3], server.requests[3:]
    assert [request.key_id for request in gets] == ["key_1"] * 3
    assert len(creations) == 3
    assert len({request.request_id for request in creations}) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_verification_that_may_have_been_charged_is_repeated_under_its_name(code: grpc.StatusCode) -> None:
    async with running(1) as (server,), AsyncClient(address(server), token=TOKEN) as client:
        server.before = failing(1, code)
        assert (await client.verify("tk_1")).allowed
    assert len(server.requests) == 2
    assert len({request.request_id for request in server.requests}) == 1


async def test_a_call_is_not_repeated_for_ever() -> None:
    async with running(1) as (server,), AsyncClient(address(server), token=TOKEN) as client:
        server.before = failing(100, grpc.StatusCode.UNAVAILABLE)
        with pytest.raises(Unavailable, match="not now"):
            await client.verify("tk_1", timeout=5)
        assert len(server.requests) == 4


async def test_the_largest_batch_is_repeated_as_well() -> None:
    keys = [ImportKey(raw_api_key="k" * 2000, metadata={"n": number}) for number in range(1_000)]
    async with running(1) as (server,), AsyncClient(address(server), token=TOKEN) as client:
        server.before = failing(1, grpc.StatusCode.UNAVAILABLE)
        outcomes = [outcome async for outcome in client.import_keys(keys)]
    first, again, *_ = server.requests
    assert first.ByteSize() > 1_900_000
    assert first == again
    assert len(outcomes) == len(keys)


async def test_an_import_that_fails_midway_tells_what_was_done_before() -> None:
    keys = [ImportKey(sha256_hex="0" * 64) for _ in range(1_500)]
    async with running(1) as (server,), AsyncClient(address(server), token=TOKEN) as client:
        outcomes = client.import_keys(keys)
        first = await anext(outcomes)
        server.before = failing(100, grpc.StatusCode.UNAVAILABLE)
        rest = [await anext(outcomes) for _ in range(999)]
        with pytest.raises(Unavailable):
            await anext(outcomes)
    assert len([first, *rest]) == 1_000


async def test_a_read_that_a_stopping_server_cancels_is_answered_by_another() -> None:
    async with running(2) as servers, AsyncClient(address(*servers), token=TOKEN) as client:
        for server in servers:
            server.before = hang
        call = asyncio.create_task(client.get_key("key_1"))
        await eventually(lambda: any(server.requests for server in servers))
        stopping, other = sorted(servers, key=lambda server: not server.requests)
        other.before = None
        await stopping.stop()
        assert (await call).key_id == "key_1"


async def test_a_server_that_hangs_ends_in_time_and_allows_nothing() -> None:
    async with running(1) as (server,), AsyncClient(address(server), token=TOKEN) as client:
        server.before = hang
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="no answer within the timeout"):
            await client.verify("tk_1", timeout=0.2)
        assert time.monotonic() - started < 1


async def test_calls_wait_for_a_server_that_starts_late() -> None:
    server = new_server()
    await server.start()
    await server.stop()
    async with AsyncClient(address(server), token=TOKEN) as client:
        call = asyncio.create_task(client.get_key("key_1"))
        done, _ = await asyncio.wait({call}, timeout=0.3)
        assert not done
        await server.start()
        assert (await call).key_id == "key_1"
        await server.stop()


async def test_calls_that_shall_not_wait_fail_at_once() -> None:
    server = new_server()
    await server.start()
    await server.stop()
    async with AsyncClient(address(server), token=TOKEN, wait_for_ready=False) as client:
        started = time.monotonic()
        with pytest.raises(Unavailable, match="refused"):
            await client.verify("tk_1")
        assert time.monotonic() - started < 0.5


async def test_a_code_of_a_later_version_denies() -> None:
    async with running(1) as (server,), AsyncClient(address(server), token=TOKEN) as client:
        server.code = CODE_OF_A_LATER_VERSION
        decision = await client.verify("tk_1")
    assert decision.code is DecisionCode.UNSPECIFIED
    assert not decision.allowed


async def test_a_batch_that_comes_back_short_is_an_error() -> None:
    async with running(1) as (server,), AsyncClient(address(server), token=TOKEN) as client:
        with pytest.raises(Internal, match="0 answers to 2 questions"):
            await client.verify_many([Verification("tk_1"), Verification("tk_2")])
        assert await client.verify_many([]) == []
    assert len(server.requests) == 1


async def test_every_call_says_who_calls() -> None:
    async with running(1) as (server,), AsyncClient(address(server), token=TOKEN) as client:
        await client.verify("tk_1")
        await client.stubs.keys.GetKey(keys_pb2.GetKeyRequest(), metadata=client.metadata, timeout=1)
    for metadata in server.metadata:
        assert metadata["authorization"] == f"Bearer {TOKEN}"
        assert str(metadata["user-agent"]).startswith("tollkeeper-python/")


async def test_the_synchronous_client_behaves_as_the_asynchronous_one() -> None:
    def use(target: str) -> None:
        with Client(target, token=TOKEN) as client:
            assert client.verify("tk_1").allowed
            server.before = failing(2, grpc.StatusCode.UNAVAILABLE)
            assert client.get_key("key_1").key_id == "key_1"
            server.before = failing(1, grpc.StatusCode.UNAVAILABLE)
            assert client.verify("tk_1").allowed
            server.before = failing(100, grpc.StatusCode.UNAVAILABLE)
            with pytest.raises(Unavailable, match="not now"):
                client.verify("tk_1", timeout=5)
            server.before = hang
            with pytest.raises(DeadlineExceeded):
                client.verify("tk_1", timeout=0.2)

    async with running(1) as (server,):
        await asyncio.to_thread(use, address(server))


def test_a_client_outside_an_event_loop_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncClient("127.0.0.1:1", token=TOKEN)


def test_a_client_from_an_empty_environment_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLKEEPER_ADDRESS", "127.0.0.1:1")
    monkeypatch.delenv("TOLLKEEPER_TOKEN", raising=False)
    with pytest.raises(ValueError, match="TOLLKEEPER_TOKEN"):
        Client.from_env()


def test_a_client_from_the_environment_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLKEEPER_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("TOLLKEEPER_TOKEN", TOKEN)
    with Client.from_env() as client:
        assert client.metadata == (("authorization", f"Bearer {TOKEN}"),)
