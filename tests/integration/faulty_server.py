"""A small server of the contract's types that can be told to stop, to hang and to fail at exactly the wrong moment."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from tollkeeper.v1 import key_pb2, key_service_pb2_grpc, verification_service_pb2_grpc
from tollkeeper.v1 import key_service_pb2 as keys_pb2
from tollkeeper.v1 import verification_service_pb2 as verification_pb2
from tollkeeper_server.api.health import HealthServicer

DRAIN_SECONDS = 0.3

Context = grpc.aio.ServicerContext[Any, Any]
Answer = Callable[[Any, Context], Awaitable[Any]]


class FaultyServer(verification_service_pb2_grpc.VerificationServiceServicer, key_service_pb2_grpc.KeyServiceServicer):
    """A server that can be told to stop, to hang and to fail; it remembers what it was asked."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.before: Answer | None = None
        """Runs before each answer, and may spoil it."""
        self.code: int = verification_pb2.DECISION_CODE_ALLOWED
        self.batches: list[int] = []
        """How many verifications each batch had that came over a stream."""
        self.streams = 0
        """How many were opened."""
        self.refusal: grpc.StatusCode | None = None
        """What a stream is refused with."""
        self._streams: set[asyncio.Timeout] = set()
        self._writing = asyncio.Lock()

    async def start(self) -> None:
        self._health = HealthServicer([])
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        verification_service_pb2_grpc.add_VerificationServiceServicer_to_server(self, self._server)
        key_service_pb2_grpc.add_KeyServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def drain(self) -> None:
        """Say NOT_SERVING and give those who watch the time to leave."""
        self._health.drain()
        self.end_streams()
        await asyncio.sleep(DRAIN_SECONDS)

    def end_streams(self) -> None:
        """End every stream as a server does that is about to go, or finds them old."""
        for stream in self._streams:
            stream.reschedule(asyncio.get_running_loop().time())

    async def stop(self) -> None:
        """Go down, cancelling what runs."""
        self._health.close()
        await self._server.stop(grace=None)

    async def restart(self) -> None:
        """Go down as a server should, and come back."""
        await self.drain()
        self._health.close()
        await self._server.stop(grace=2)
        await self.start()

    async def Verify(self, request: Any, context: Context) -> Any:
        await self._note(request, context)
        return verification_pb2.VerifyResponse(code=self.code, request_id=request.request_id)  # type: ignore[arg-type]

    async def VerifyStream(self, requests: AsyncIterator[Any], context: Context) -> None:  # type: ignore[override]
        self.streams += 1
        if self.refusal is not None:
            await context.abort(self.refusal, "no stream")
        await context.send_initial_metadata(())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as stream:
                self._streams.add(stream)
                try:
                    async with asyncio.TaskGroup() as answering:
                        async for batch in requests:
                            self.batches.append(len(batch.requests))
                            answering.create_task(self._answer(batch, context))
                except* grpc.aio.AbortError as aborted:
                    raise aborted.exceptions[0] from None
                finally:
                    self._streams.discard(stream)

    async def _answer(self, batch: Any, context: Context) -> None:
        results = [await self._result(request, context) for request in batch.requests]
        async with self._writing:
            await context.write(verification_pb2.VerifyStreamResponse(batch_id=batch.batch_id, results=results))

    async def _result(self, request: Any, context: Context) -> Any:
        return verification_pb2.VerifyResult(response=await self.Verify(request, context))

    async def BatchVerify(self, request: Any, context: Context) -> Any:
        await self._note(request, context)
        return verification_pb2.BatchVerifyResponse()

    async def GetKey(self, request: Any, context: Context) -> Any:
        await self._note(request, context)
        return keys_pb2.GetKeyResponse(key=key_pb2.Key(key_id=request.key_id))

    async def CreateKey(self, request: Any, context: Context) -> Any:
        await self._note(request, context)
        return keys_pb2.CreateKeyResponse(key=key_pb2.Key(name=request.name), api_key="tk_new")

    async def ImportKeys(self, request: Any, context: Context) -> Any:
        await self._note(request, context)
        return keys_pb2.ImportKeysResponse(results=[keys_pb2.ImportKeyResult(key=key_pb2.Key()) for _ in request.keys])

    async def _note(self, request: Any, context: Context) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        if self.before is not None:
            await self.before(request, context)


def new_server() -> FaultyServer:
    return FaultyServer()  # type: ignore[abstract]  # by its types alone; calls that it lacks are UNIMPLEMENTED


@asynccontextmanager
async def running(count: int) -> AsyncIterator[list[FaultyServer]]:
    async with AsyncExitStack() as stack:
        servers = [new_server() for _ in range(count)]
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        yield servers


def address(*servers: FaultyServer) -> str:
    return "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


def failing(times: int, code: grpc.StatusCode) -> Answer:
    """Spoils the first ``times`` answers."""
    left = times

    async def fail(request: Any, context: Context) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            await context.abort(code, "not now")

    return fail


async def hang(request: Any, context: Context) -> None:
    await asyncio.Event().wait()


async def eventually(condition: Callable[[], bool], *, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (the state is that of both ends of a connection)
            await asyncio.sleep(0.01)
