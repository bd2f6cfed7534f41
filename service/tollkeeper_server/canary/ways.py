"""The ways in which an API key is verified: all that the canary has to look down."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from grpc.aio import AioRpcError

from tollkeeper import AsyncClient, CallError
from tollkeeper.v1 import verification_service_pb2 as pb

TIMEOUT_SECONDS = 2.0
"""For each verification."""


class Undecided(Exception):
    """A verification gave no decision; its text is a gRPC status."""


class Way(Protocol):
    """One way of verifying, through one server."""

    name: str
    address: str

    async def allows(self, api_key: str) -> bool:
        """Whether the API key is ALLOWED. Raises Undecided."""


class _NearCache:
    """As a user of the client asks who has a near-cache."""

    name = "near_cache"

    def __init__(self, client: AsyncClient, address: str) -> None:
        self._client = client
        self.address = address

    async def allows(self, api_key: str) -> bool:
        try:
            return (await self._client.verify(api_key, timeout=TIMEOUT_SECONDS)).allowed
        except CallError as error:
            raise Undecided(error.status) from error


class _ByStub:
    """One of the RPCs as such."""

    name: str

    def __init__(self, client: AsyncClient, address: str) -> None:
        self._stub: Any = client.stubs.verification
        self._metadata = client.metadata
        self.address = address

    async def allows(self, api_key: str) -> bool:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                answer = await self._ask(pb.VerifyRequest(api_key=api_key))
        except AioRpcError as error:
            raise Undecided(error.code().name) from error
        except TimeoutError as error:
            raise Undecided("DEADLINE_EXCEEDED") from error
        return answer.code == pb.DECISION_CODE_ALLOWED

    async def _ask(self, request: pb.VerifyRequest) -> pb.VerifyResponse:
        raise NotImplementedError


class _Unary(_ByStub):
    name = "unary"

    async def _ask(self, request: pb.VerifyRequest) -> pb.VerifyResponse:
        answer: pb.VerifyResponse = await self._stub.Verify(request, metadata=self._metadata, timeout=TIMEOUT_SECONDS)
        return answer


class _Batch(_ByStub):
    name = "batch"

    async def _ask(self, request: pb.VerifyRequest) -> pb.VerifyResponse:
        batch = pb.BatchVerifyRequest(requests=[request])
        answer = await self._stub.BatchVerify(batch, metadata=self._metadata, timeout=TIMEOUT_SECONDS)
        return _decided(answer.results)


class _Stream(_ByStub):
    name = "stream"

    async def _ask(self, request: pb.VerifyRequest) -> pb.VerifyResponse:
        async def batches() -> AsyncIterator[pb.VerifyStreamRequest]:
            yield pb.VerifyStreamRequest(batch_id=1, requests=[request])

        async for answer in self._stub.VerifyStream(batches(), metadata=self._metadata, timeout=TIMEOUT_SECONDS):
            if answer.results:
                return _decided(answer.results)
        raise Undecided("UNKNOWN")


class _Edge:
    """As Envoy asks."""

    name = "edge"

    def __init__(self, channel: grpc.aio.Channel, address: str, *, profile: str, metadata: Sequence[tuple[str, str]]):
        self._check: Any = external_auth_pb2_grpc.AuthorizationStub(channel).Check
        self._profile = profile
        self._metadata = metadata
        self.address = address

    async def allows(self, api_key: str) -> bool:
        request = external_auth_pb2.CheckRequest()
        request.attributes.context_extensions["profile"] = self._profile
        http = request.attributes.request.http
        http.method, http.path, http.host = "GET", "/", "canary"
        http.headers["authorization"] = f"Bearer {api_key}"
        try:
            answer = await self._check(request, metadata=self._metadata, timeout=TIMEOUT_SECONDS)
        except AioRpcError as error:
            raise Undecided(error.code().name) from error
        return bool(answer.status.code == grpc.StatusCode.OK.value[0])


def _decided(results: Sequence[pb.VerifyResult]) -> pb.VerifyResponse:
    (result,) = results
    if result.WhichOneof("result") == "error":
        raise Undecided(next(each.name for each in grpc.StatusCode if each.value[0] == result.error.code))
    return result.response


@contextlib.asynccontextmanager
async def ways_to(
    addresses: Sequence[str],
    edge_addresses: Sequence[str],
    *,
    token: str,
    credentials: grpc.ChannelCredentials | None,
    profile: str,
) -> AsyncIterator[tuple[list[AsyncClient], list[Way]]]:
    """A client of each server, and every way through all of them, until the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        clients, ways = list[AsyncClient](), list[Way]()
        for address in addresses:
            client, caching = [
                await stack.enter_async_context(
                    AsyncClient(address, token=token, credentials=credentials, near_cache=near_cache)
                )
                for near_cache in (False, True)
            ]
            clients.append(client)
            ways += [_Unary(client, address), _Batch(client, address), _Stream(client, address)]
            ways.append(_NearCache(caching, address))
        for address in edge_addresses:
            channel = await stack.enter_async_context(_channel(address, credentials))
            ways.append(_Edge(channel, address, profile=profile, metadata=clients[0].metadata))
        yield clients, ways


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address)
    return grpc.aio.secure_channel(address, credentials)
