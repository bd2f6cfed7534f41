"""VerifyStream: batch after batch of verifications over one call.

    request ─ may the caller still call? ─ is the batch one? ─ what memory knows: a response
                                                             ╰ what takes a store: a task, and responses

Whatever ends the reading, what was read and admitted before is answered first; only then does the stream end: with OK
if the client is done, the server is about to go or the stream is old, else with the status of what was wrong. A batch
that was not answered by then was not begun, and may be sent on another stream.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing

from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.validate_verification import VERIFY_STREAM
from tollkeeper_server.api.wire import delimited, tag
from tollkeeper_server.core.errors import TollkeeperError

STREAM_SECONDS = 60.0
"""Age at which a stream ends, give or take a tenth, so that its client also finds servers that are new."""
UNDER_WAY_MAX = 1000
"""A stream with so many verifications unanswered is not read on. One batch more may be on top of them."""

Results = dict[int, bytes]
"""VerifyResults, encoded, by position in their batch."""
LateResults = AsyncGenerator[Results, None]
_RESULT = tag(pb.VerifyStreamResponse, "results")

Decide = Callable[[Sequence[pb.VerifyRequest]], tuple[Results, LateResults | None]]


class VerificationStream:
    """One stream. ``decide`` gives the results of a batch that are known at once, and those that come later."""

    def __init__(self, requests: AsyncIterator[pb.VerifyStreamRequest], call: Call, *, decide: Decide) -> None:
        self._requests = requests
        self._call = call
        self._decide = decide
        self._finished: asyncio.Queue[tuple[bytes, int] | None] = asyncio.Queue()
        """Responses, encoded, each with how many results are in it."""
        self._under_way = 0
        self._has_room = asyncio.Event()

    async def responses(self) -> AsyncGenerator[bytes, None]:
        """The answers, encoded, as they are ready; the reader of this is the one who writes them out.

        Raises InvalidArgument for a batch without verifications or with too many, and as ``Call.readmit`` once the
        caller may not call any more.
        """
        serving = asyncio.create_task(self._serve(), name="verify_stream")
        try:
            while (finished := await self._finished.get()) is not None:
                response, results = finished
                yield response
                self._under_way -= results
                self._has_room.set()
            await serving
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def _serve(self) -> None:
        """Read until there is a reason to end, then wait for the batches under way."""
        fault: TollkeeperError | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    await self._read_while_open(tasks)
                except TollkeeperError as error:
                    fault = error
        finally:
            self._finished.put_nowait(None)
        if fault is not None:
            raise fault

    async def _read_while_open(self, tasks: asyncio.TaskGroup) -> None:
        """Read until the client is done, the server is about to go, or the stream is old."""
        opened = asyncio.timeout(STREAM_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311 (no secret)
        leaving = tasks.create_task(self._close_at_drain(opened))
        try:
            async with opened:
                await self._read(tasks)
        except TimeoutError:
            if not opened.expired():
                raise
        finally:
            leaving.cancel()

    async def _read(self, tasks: asyncio.TaskGroup) -> None:
        async for batch in self._requests:
            await self._call.readmit()
            VERIFY_STREAM.check(batch)
            self._under_way += len(batch.requests)
            known, late = self._decide(batch.requests)
            self._answer(batch, known)
            if late is not None:
                tasks.create_task(self._answer_late(batch, late))
            while self._under_way >= UNDER_WAY_MAX:
                self._has_room.clear()
                await self._has_room.wait()

    def _answer(self, batch: pb.VerifyStreamRequest, results: Results) -> None:
        if not results:
            return
        positions = results if len(results) < len(batch.requests) else ()
        response = pb.VerifyStreamResponse(batch_id=batch.batch_id, positions=positions).SerializeToString()
        response += b"".join([delimited(_RESULT, result) for result in results.values()])
        self._finished.put_nowait((response, len(results)))

    async def _answer_late(self, batch: pb.VerifyStreamRequest, late: LateResults) -> None:
        async with aclosing(late):
            async for results in late:
                self._answer(batch, results)

    async def _close_at_drain(self, opened: asyncio.Timeout) -> None:
        await self._call.draining.wait()
        opened.reschedule(asyncio.get_running_loop().time())
