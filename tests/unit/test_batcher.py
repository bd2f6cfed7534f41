import asyncio
from collections.abc import Sequence

import pytest

from tollkeeper_server.core.errors import ResourceExhausted, Unavailable
from tollkeeper_server.storage.batcher import Batcher


class Store:
    """Doubles what it is given, batch by batch, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()

    async def flush(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.open.wait()
        if 13 in items:
            raise Unavailable("thirteen", reason="THIRTEEN")
        return [2 * item for item in items]


@pytest.fixture
def store() -> Store:
    return Store()


async def submitted(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    for _ in range(3):  # the submission, the start of the flush, its first step
        await asyncio.sleep(0)
    return tasks


async def test_an_idle_batcher_flushes_at_once_and_a_busy_one_gathers(store: Store) -> None:
    batcher = Batcher(store.flush, batch_max=10)
    tasks = await submitted(batcher, 1)
    assert store.batches == [[1]]
    tasks += await submitted(batcher, 2, 3)
    tasks += await submitted(batcher, 4)
    assert store.batches == [[1]]
    store.open.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert store.batches == [[1], [2, 3, 4]]


async def test_no_batch_is_larger_than_allowed(store: Store) -> None:
    store.open.set()
    batcher = Batcher(store.flush, batch_max=2)
    assert await asyncio.gather(*await submitted(batcher, 1, 2, 3, 4, 5)) == [2, 4, 6, 8, 10]
    assert store.batches == [[1, 2], [3, 4], [5]]


async def test_a_failed_batch_fails_its_own_items_only(store: Store) -> None:
    store.open.set()
    batcher = Batcher(store.flush, batch_max=2)
    answers = await asyncio.gather(*await submitted(batcher, 1, 13, 3, 4), return_exceptions=True)
    assert [isinstance(answer, Unavailable) for answer in answers] == [True, True, False, False]


async def test_a_caller_that_leaves_harms_no_other_and_is_not_flushed(store: Store) -> None:
    batcher = Batcher(store.flush, batch_max=10)
    first, *rest = await submitted(batcher, 1)
    rest += await submitted(batcher, 2, 3)
    rest[0].cancel()
    first.cancel()
    await asyncio.sleep(0)
    store.open.set()
    assert await rest[1] == 6
    assert store.batches == [[1], [3]]


async def test_too_many_waiting_items_are_refused_and_those_before_are_not_lost(store: Store) -> None:
    batcher = Batcher(store.flush, batch_max=1, pending_max=2)
    tasks = await submitted(batcher, 1)
    tasks += await submitted(batcher, 2, 3)
    with pytest.raises(ResourceExhausted):
        await batcher.submit(4)
    store.open.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6]


async def test_closing_finishes_what_was_submitted_and_takes_nothing_more(store: Store) -> None:
    batcher = Batcher(store.flush, batch_max=1)
    tasks = await submitted(batcher, 1, 2)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await batcher.submit(3)
    store.open.set()
    await closing
    assert [task.result() for task in tasks] == [2, 4]


async def test_a_thousand_callers_in_waves_all_get_their_own_answer(store: Store) -> None:
    store.open.set()
    batcher = Batcher(store.flush, batch_max=7, flushes_max=2)

    async def caller(number: int) -> None:
        for item in range(number, number + 10_000, 1_000):
            assert await batcher.submit(item) == 2 * item

    await asyncio.gather(*(caller(number) for number in range(100, 200)))
