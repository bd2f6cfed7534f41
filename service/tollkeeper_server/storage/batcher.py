"""Batching: many single questions to a store, answered by few round trips."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

from tollkeeper_server.core.errors import ResourceExhausted, Unavailable

LINGER_FROM = 4
"""Fewer items than this are not worth to be waited for."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Gathers items while a flush is under way, and flushes them together as soon as it ends.

    An idle batcher flushes at once, so a lone item never waits for company. What is gathered starts its flush after it
    was submitted: an answer never comes from a read that was already under way. ``flush`` gets 1 to ``batch_max`` items
    and returns as many answers in order; if it raises, the items of that batch get the fault and no others. A caller
    that is cancelled or out of time leaves without harm to the rest.

    Under load it may pay to *linger*. Callers come back: after a flush the next one waits until as many have come as
    were in that or came during it, for at most ``linger_seconds``, if these are ``LINGER_FROM`` or more. So flushes
    grow until all callers are in one, and what follows from their answers is done for many at once as well.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        batch_max: int,
        pending_max: int = 10_000,
        flushes_max: int = 1,
        linger_seconds: float = 0.0,
    ) -> None:
        self._flush = flush
        self._batch_max = batch_max
        self._pending_max = pending_max
        self._flushes_max = flushes_max
        self._pending: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._flushes: set[asyncio.Task[int]] = set()
        self._linger_seconds = linger_seconds
        self._awaited = 0
        """How many items the next flush waits for."""
        self._lingering: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one that it is used in: to ask for it takes a system call each time."""
        self._closed = False

    async def submit(self, item: Item) -> Answer:
        """The answer to ``item``.

        Raises ResourceExhausted if ``pending_max`` items wait already, and whatever the flush raised.
        """
        return await self.put(item)

    def put(self, item: Item) -> asyncio.Future[Answer]:
        """As ``submit``, for whoever waits without a coroutine in between; cancelled, the future leaves."""
        if self._closed:
            raise Unavailable("the server is shutting down", reason="SHUTTING_DOWN")
        if len(self._pending) >= self._pending_max:
            raise ResourceExhausted(
                "too many requests wait for a store", reason="STORE_QUEUE_FULL", retry_after=timedelta(milliseconds=100)
            )
        loop = self._loop or asyncio.get_running_loop()
        self._loop = loop
        answer: asyncio.Future[Answer] = loop.create_future()
        self._pending.append((item, answer))
        if len(self._pending) in (1, self._awaited):
            loop.call_soon(self._start_flushes)  # what is submitted in the same turn of the loop comes along
        return answer

    async def close(self) -> None:
        """Take nothing more, and finish what was submitted."""
        self._closed = True
        self._end_linger()
        while self._flushes or self._pending:
            self._start_flushes()
            await asyncio.wait(self._flushes)

    def _start_flushes(self) -> None:
        if self._lingering is not None:
            if len(self._pending) < self._awaited:
                return
            self._end_linger()
        while self._pending and len(self._flushes) < self._flushes_max:
            batch = [self._pending.popleft() for _ in range(min(self._batch_max, len(self._pending)))]
            task = asyncio.create_task(self._run(batch))
            self._flushes.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[int]) -> None:
        self._flushes.discard(task)
        expected = min(task.result(), self._batch_max)
        if self._linger_seconds and expected >= LINGER_FROM and self._lingering is None and not self._closed:
            self._awaited = expected
            self._lingering = task.get_loop().call_later(self._linger_seconds, self._stop_lingering)
        self._start_flushes()

    def _stop_lingering(self) -> None:
        self._end_linger()
        self._start_flushes()

    def _end_linger(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering, self._awaited = None, 0

    async def _run(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> int:
        """Flush, and tell how many were in it or came during it."""
        waiting = [(item, answer) for item, answer in batch if not answer.done()]
        if not waiting:
            return 0
        try:
            answers = await self._flush([item for item, _ in waiting])
            for (_, answer), value in zip(waiting, answers, strict=True):
                if not answer.done():
                    answer.set_result(value)
        except Exception as fault:  # whatever it is, it is the waiters' answer
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(fault)
        return len(waiting) + len(self._pending)
