"""Many callers' verifications over one stream, in batches that form by themselves.

A verification that finds nothing under way is sent at once. While a batch is under way, others gather, and go together
once it is answered, or after a millisecond. A stream that ends is opened anew, on a server that is healthy, and what
it did not answer is asked again: each verification has a request id, and is charged once.
"""

import asyncio
import contextlib
import random
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from tollkeeper._backlog import BATCH_MAX, Asked, Backlog
from tollkeeper._error_details import call_error
from tollkeeper._errors import DeadlineExceeded, Internal, Unavailable
from tollkeeper._results.verification import response_of
from tollkeeper.v1 import verification_service_pb2 as pb

if TYPE_CHECKING:
    from tollkeeper.v1.verification_service_pb2_grpc import VerificationServiceAsyncStub

    _Call = grpc.aio.StreamStreamCall[pb.VerifyStreamRequest, pb.VerifyStreamResponse]

BATCHES_MAX = 8
"""Most batches under way. What comes beyond them waits with its callers, each within its own timeout."""
GATHER_SECONDS = 0.001
REQUEST_BYTES_MAX = 16 * 1024
"""A larger request breaks the contract's bounds, and goes alone, so that its refusal is no one else's."""
FAILURES_MAX = 4
"""So many streams may fail under a verification, as a call of its own is repeated by the channel."""
BACKOFF_SECONDS = (0.05, 0.5)
"""Shortest and longest pause after a stream that answered nothing."""
SILENCE_SECONDS = 0.5
"""A stream that is silent for so long when a caller's time runs out is given up: its server may hang."""
UNARY_SECONDS = 60.0
"""A server without VerifyStream is not asked for one again for so long."""

_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # What grpc.aio says of a stream that ended while something was written to it, whatever it ended with.
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
"""How a stream ends that another one may replace."""

_ENDS = (grpc.RpcError, asyncio.InvalidStateError)
"""What a stream raises that has ended."""


class VerifyStream:
    """Is called as the stub's Verify is, with a ``timeout``, and raises a CallError."""

    def __init__(
        self, stub: "VerificationServiceAsyncStub", metadata: tuple[tuple[str, str], ...], *, wait_for_ready: bool
    ) -> None:
        self._stub = stub
        self._metadata = metadata
        self._wait_for_ready = wait_for_ready
        self._backlog = Backlog()
        self._changed = asyncio.Event()
        """Verifications came, or answers."""
        self._is_let_in = asyncio.Event()
        """The server has taken the stream."""
        self._loop = asyncio.get_running_loop()
        self._running: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._silent_since: float | None = None
        """When the stream was last heard of, if it owes an answer."""
        self._has_spoken = False
        """Whether the stream has answered anything."""
        self._unary_until = 0.0
        self._closed = False

    async def __call__(self, request: pb.VerifyRequest, *, timeout: float, **how: Any) -> pb.VerifyResponse:
        """The answer to ``request``, within ``timeout`` seconds."""
        if self._closed:
            raise _closed()
        deadline = self._loop.time() + timeout
        if self._loop.time() < self._unary_until or request.ByteSize() > REQUEST_BYTES_MAX:
            return await self._stub.Verify(request, timeout=timeout, **how)
        answer = await self._ask(Asked(request), deadline)
        if answer is None:
            return await self._stub.Verify(request, timeout=deadline - self._loop.time(), **how)
        if isinstance(answer, pb.VerifyResult):
            return response_of(answer, request_id=request.request_id)
        raise answer

    async def close(self) -> None:
        """End the stream, and every verification that still waits."""
        self._closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait((self._running,))
        self._backlog.take_back()
        self._backlog.end_all(_closed)

    async def _ask(self, asked: Asked, deadline: float) -> Any:
        self._backlog.add(asked)
        if self._backlog.waiting in (1, BATCH_MAX):
            self._changed.set()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="tollkeeper_verify_stream")
            self._running.add_done_callback(self._stopped)
        timer = self._loop.call_at(deadline, self._expire, asked)
        try:
            return await asked.answer
        finally:
            timer.cancel()
            self._backlog.discard(asked)

    def _expire(self, asked: Asked) -> None:
        """The time of one caller is over; the others go on, on another stream if this one seems dead."""
        asked.end(DeadlineExceeded("Verify", "DEADLINE_EXCEEDED", "no answer within the timeout"))
        is_silent = self._silent_since is not None and self._loop.time() - self._silent_since >= SILENCE_SECONDS
        if is_silent and self._reading is not None:
            self._reading.cancel()

    async def _run(self) -> None:
        """Keep a stream while verifications come. Those that answer nothing follow each other at a growing distance."""
        distance = 0.0
        while True:
            while not self._backlog.waiting:
                await self._until_changed()
            opened_at = self._loop.time()
            fault = await self._use(
                self._stub.VerifyStream(metadata=self._metadata, wait_for_ready=self._wait_for_ready)
            )
            self._backlog.take_back()
            if fault is not None:
                self._tell(fault)
            shortest, longest = BACKOFF_SECONDS
            distance = 0.0 if self._has_spoken else min(max(distance * 2, shortest), longest)
            if self._backlog.waiting:
                next_at = opened_at + distance * random.uniform(0.5, 1)  # noqa: S311 (no secret)
                await asyncio.sleep(next_at - self._loop.time())

    async def _use(self, call: "_Call") -> grpc.aio.AioRpcError | None:
        """Send and read until the stream ends, or is given up; what it failed with, if it did."""
        self._silent_since, self._has_spoken = self._loop.time(), False
        self._is_let_in.clear()
        self._reading = asyncio.create_task(self._read(call))
        tasks = (self._reading, asyncio.create_task(self._send(call)))
        try:
            await asyncio.wait((self._reading,))
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            self._silent_since = None
            call.cancel()
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, _ENDS):
                raise outcome
        return outcomes[0] if isinstance(outcomes[0], grpc.aio.AioRpcError) else None

    async def _read(self, call: "_Call") -> None:
        await call.initial_metadata()
        if not call.done():
            self._silent_since = None
            self._is_let_in.set()
        async for response in call:
            self._backlog.answer(response)
            self._has_spoken = True
            self._silent_since = self._loop.time() if self._backlog.batches else None
            self._changed.set()

    async def _send(self, call: "_Call") -> None:
        try:
            await self._is_let_in.wait()  # a write that a refusal overtakes would hide it
            while True:
                await self._gather()
                if self._backlog.waiting:
                    batch = self._backlog.next_batch()
                    self._silent_since = self._silent_since or self._loop.time()
                    await call.write(batch)
        finally:
            call.cancel()  # nothing more comes over it

    async def _gather(self) -> None:
        """Wait until there is something to send, and room to send it; with something under way, a little longer."""
        while not self._backlog.waiting or self._backlog.batches >= BATCHES_MAX:
            await self._until_changed()
        if self._backlog.batches and self._backlog.waiting < BATCH_MAX:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._until_changed()

    async def _until_changed(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _tell(self, fault: grpc.aio.AioRpcError) -> None:
        """What the end of a stream means to those who wait."""
        error = partial(call_error, "Verify", fault)
        if fault.code() is grpc.StatusCode.UNIMPLEMENTED:
            self._unary_until = self._loop.time() + UNARY_SECONDS
            self._backlog.end_all(lambda: None)
        elif fault.code() not in _PASSING:
            self._backlog.end_all(error)
        else:
            may_wait = self._wait_for_ready or self._is_let_in.is_set()
            self._backlog.count_failure(error, failures_max=FAILURES_MAX if may_wait else 1)

    def _stopped(self, running: asyncio.Task[None]) -> None:
        """A mistake of ours ended the task: say so, and leave nobody waiting. The next verification starts it anew."""
        if running.cancelled() or running.exception() is None:
            return
        self._loop.call_exception_handler({"message": "VerifyStream failed", "exception": running.exception()})
        self._backlog.take_back()
        self._backlog.end_all(lambda: Internal("Verify", "INTERNAL", "the client failed; its log has it"))


def _closed() -> Unavailable:
    return Unavailable("Verify", "CANCELLED", "the client is closed")
