"""Verifications on their way: who waits to be sent, and which batch asked for whom. No I/O, no clock."""

import asyncio
from collections.abc import Callable
from itertools import count, islice

from tollkeeper._errors import CallError, Internal
from tollkeeper.v1 import verification_service_pb2 as pb

BATCH_MAX = 128
"""Most verifications in a batch. A message costs about 100 us, which so many share; and so many of the largest answers
fit into one."""


class Asked:
    """One verification, and the answer that its caller waits for."""

    __slots__ = ("answer", "failures", "request")

    def __init__(self, request: pb.VerifyRequest) -> None:
        self.request = request
        self.answer: asyncio.Future[pb.VerifyResult | CallError | None] = asyncio.get_running_loop().create_future()
        """None means that it has to be asked by a call of its own."""
        self.failures = 0
        """How many streams failed while it waited for this answer."""

    def end(self, answer: pb.VerifyResult | CallError | None) -> None:
        """Answer it, unless its caller has left."""
        if not self.answer.done():
            self.answer.set_result(answer)


class Backlog:
    """Everything that has no answer yet, in the order in which it was asked."""

    def __init__(self) -> None:
        self._waiting: dict[Asked, None] = {}
        self._batches: dict[int, dict[int, Asked]] = {}
        self._numbers = count(1)

    @property
    def waiting(self) -> int:
        """How many verifications wait to be sent."""
        return len(self._waiting)

    @property
    def batches(self) -> int:
        """How many batches are sent and not answered."""
        return len(self._batches)

    def add(self, asked: Asked) -> None:
        """Have it wait."""
        self._waiting[asked] = None

    def discard(self, asked: Asked) -> None:
        """Its caller has left: do not send it, if it still waits."""
        self._waiting.pop(asked, None)

    def next_batch(self) -> pb.VerifyStreamRequest:
        """Those that have waited longest, to be sent now."""
        batch = dict(enumerate(islice(self._waiting, BATCH_MAX)))
        for asked in batch.values():
            del self._waiting[asked]
        number = next(self._numbers)
        self._batches[number] = batch
        return pb.VerifyStreamRequest(batch_id=number, requests=[asked.request for asked in batch.values()])

    def answer(self, response: pb.VerifyStreamResponse) -> None:
        """Hand each result to whom it is for. What makes no sense is an error of those whom it concerns."""
        batch = self._batches.get(response.batch_id, {})
        positions = list(response.positions) or list(batch)
        if len(positions) != len(response.results):
            fault = f"{len(response.results)} answers to {len(positions)} questions"
            for position in list(batch):
                batch.pop(position).end(Internal("Verify", "INTERNAL", fault))
        for position, result in zip(positions, response.results, strict=False):
            if position in batch:
                batch.pop(position).end(result)
        if not batch:
            self._batches.pop(response.batch_id, None)

    def take_back(self) -> None:
        """The stream is gone: all that it did not answer waits again, before what waits already."""
        lost = [asked for batch in self._batches.values() for asked in batch.values() if not asked.answer.done()]
        self._waiting = dict.fromkeys([*lost, *self._waiting])
        self._batches.clear()

    def count_failure(self, make: Callable[[], CallError], *, failures_max: int) -> None:
        """A stream failed: those that have seen so many do so end with an error."""
        for asked in list(self._waiting):
            asked.failures += 1
            if asked.failures >= failures_max:
                self.discard(asked)
                asked.end(make())

    def end_all(self, make: Callable[[], CallError | None]) -> None:
        """Give all that wait the same answer."""
        for asked in self._waiting:
            asked.end(make())
        self._waiting.clear()
