"""The interceptor of a real gRPC server, with a real Tollkeeper: every shape of method, every kind of refusal."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.e2e.middleware_support import NOBODY, Keys, make_keys
from tests.e2e.server_process import ServerProcess
from tollkeeper import AsyncClient
from tollkeeper.middleware import Needs, current_decision
from tollkeeper.middleware.grpc import TollkeeperInterceptor

NEEDS = Needs(resource="billing", permissions=["read"])


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, token=server.root_key) as client:
        yield client


@pytest.fixture
async def keys(client: AsyncClient) -> Keys:
    return await make_keys(client)


def owner() -> bytes:
    key = current_decision().key
    assert key is not None
    return key.owner_id.encode()


async def unary(_request: bytes, _context: Any) -> bytes:
    return owner()


async def generate(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for _ in range(2):
        yield owner()


async def write(_request: bytes, context: Any) -> None:
    for _ in range(2):
        await context.write(owner())


async def collect(requests: AsyncIterator[bytes], _context: Any) -> bytes:
    return owner() + b"".join([request async for request in requests])


async def echo(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield owner() + request


def blocking(_request: bytes, _context: Any) -> bytes:
    return b"let in"


HANDLERS: dict[str, Any] = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Open": grpc.unary_unary_rpc_method_handler(blocking),
    "Generate": grpc.unary_stream_rpc_method_handler(generate),
    "Write": grpc.unary_stream_rpc_method_handler(write),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Blocking": grpc.unary_unary_rpc_method_handler(blocking),
}


@asynccontextmanager
async def serving(interceptor: TollkeeperInterceptor) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[interceptor])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def ask(channel: grpc.aio.Channel, method: str, *metadata: tuple[str, str]) -> list[bytes]:
    """All that the method answers."""
    handler = HANDLERS[method]
    shape = (
        f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
    )
    request: Any = iter([b"1", b"2"]) if handler.request_streaming else b""
    call = getattr(channel, shape)(f"/test.Service/{method}")(request, metadata=metadata, timeout=10)
    return [answer async for answer in call] if handler.response_streaming else [await call]


def bearer(api_key: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {api_key}")


async def refusal(channel: grpc.aio.Channel, method: str, *metadata: tuple[str, str]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(channel, method, *metadata)
    return refused.value


def details(error: grpc.aio.AioRpcError) -> tuple[str, float | None]:
    """The reason, and the seconds to wait."""
    (packed,) = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    status = status_pb2.Status.FromString(packed)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    status.details[0].Unpack(info)
    if len(status.details) == 1:
        return info.reason, None
    status.details[1].Unpack(retry)
    return info.reason, retry.retry_delay.ToTimedelta().total_seconds()


@pytest.mark.parametrize(
    ("method", "answers"),
    [
        ("Unary", [b"acme"]),
        ("Generate", [b"acme", b"acme"]),
        ("Write", [b"acme", b"acme"]),
        ("Collect", [b"acme12"]),
        ("Echo", [b"acme1", b"acme2"]),
    ],
)
async def test_methods_of_every_shape_are_checked_and_find_the_decision(
    method: str, answers: list[bytes], client: AsyncClient, keys: Keys
) -> None:
    async with serving(TollkeeperInterceptor(client, needs=Needs(resource="billing"))) as channel:
        assert await ask(channel, method, bearer(keys.allowed)) == answers
        refused = await refusal(channel, method, bearer(keys.revoked))
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("revoked", grpc.StatusCode.UNAUTHENTICATED, "KEY_REVOKED"),
        ("disabled", grpc.StatusCode.UNAUTHENTICATED, "KEY_DISABLED"),
        ("ip_denied", grpc.StatusCode.PERMISSION_DENIED, "IP_DENIED"),
        ("resource_denied", grpc.StatusCode.PERMISSION_DENIED, "RESOURCE_DENIED"),
        ("permission_denied", grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
        ("rate_limited", grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
        ("quota_exceeded", grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"),
    ],
)
async def test_denied_calls_are_refused_with_details(
    kind: str, status: grpc.StatusCode, reason: str, client: AsyncClient, keys: Keys
) -> None:
    api_key: str = getattr(keys, kind)
    async with serving(TollkeeperInterceptor(client, needs=NEEDS)) as channel:
        error = await refusal(channel, "Unary", bearer(api_key))
    assert (error.code(), details(error)[0]) == (status, reason)
    assert api_key not in str(error) + repr(error.trailing_metadata())


async def test_who_comes_too_fast_is_told_when_to_come_back(client: AsyncClient, keys: Keys) -> None:
    async with serving(TollkeeperInterceptor(client, needs=NEEDS)) as channel:
        for _ in range(5):
            await ask(channel, "Unary", bearer(keys.allowed))
        reason, seconds = details(await refusal(channel, "Unary", bearer(keys.allowed)))
    assert reason == "RATE_LIMITED"
    assert seconds is not None
    assert 0 < seconds <= 60


async def test_without_a_good_api_key_nobody_gets_in(client: AsyncClient) -> None:
    async with serving(TollkeeperInterceptor(client)) as channel:
        assert details(await refusal(channel, "Unary")) == ("KEY_MISSING", None)
        assert details(await refusal(channel, "Unary", bearer("tk_1"), bearer("tk_2"))) == ("KEY_MISSING", None)
        assert details(await refusal(channel, "Unary", bearer("tk_unknown"))) == ("KEY_INVALID", None)


async def test_what_is_needed_is_told_by_method_and_may_be_nothing(client: AsyncClient, keys: Keys) -> None:
    def needs(method: str) -> Needs | None:
        return None if method == "/test.Service/Open" else NEEDS

    async with serving(TollkeeperInterceptor(client, needs=needs, api_key_header="x-api-key")) as channel:
        assert await ask(channel, "Open") == [b"let in"]
        assert await ask(channel, "Unary", ("x-api-key", keys.allowed)) == [b"acme"]


async def test_the_end_clients_address_is_of_the_peer_or_told_by_trusted_proxies(
    client: AsyncClient, keys: Keys
) -> None:
    forwarded = ("x-forwarded-for", "192.0.2.1, 10.1.2.3")
    async with serving(TollkeeperInterceptor(client, needs=NEEDS)) as channel:
        error = await refusal(channel, "Unary", bearer(keys.ip_denied), forwarded)
        assert details(error)[0] == "IP_DENIED"
    async with serving(TollkeeperInterceptor(client, needs=NEEDS, trusted_proxies=1)) as channel:
        await ask(channel, "Unary", bearer(keys.ip_denied), forwarded)
    loopback = await client.create_key(resources=["billing"], permissions=["read"], allowed_cidrs=["127.0.0.0/8"])
    async with serving(TollkeeperInterceptor(client, needs=NEEDS)) as channel:
        await ask(channel, "Unary", bearer(loopback.api_key))


async def test_what_could_not_be_decided_is_never_let_through(keys: Keys) -> None:
    interceptor = TollkeeperInterceptor(
        lambda: AsyncClient(NOBODY, token="tk_caller", wait_for_ready=False), needs=NEEDS
    )
    async with serving(interceptor) as channel:
        for method in ("Unary", "Echo"):
            error = await refusal(channel, method, bearer(keys.allowed))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert details(error) == ("UNAVAILABLE", 1.0)
            assert keys.allowed not in str(error)
    await interceptor.close()


async def test_a_handler_that_cannot_be_checked_is_not_called(client: AsyncClient, keys: Keys) -> None:
    async with serving(TollkeeperInterceptor(client, needs=NEEDS)) as channel:
        error = await refusal(channel, "Blocking", bearer(keys.allowed))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "must be asynchronous" in (error.details() or "")
