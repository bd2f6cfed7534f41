import asyncio
from collections.abc import Sequence

import pytest

from tollkeeper_server.core.errors import ResourceExhausted, Unavailable
from tollkeeper_server.storage.batcher import LINGER_FROM, Batcher


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


async def test_after_a_large_flush_the_next_waits_until_as_many_have_come(store: Store) -> None:
    store.open.set()
    batcher = Batcher(store.flush, batch_max=100, linger_seconds=600)
    items = list(range(LINGER_FROM))
    await asyncio.gather(*await submitted(batcher, *items))
    for turn in range(2):
        tasks = await submitted(batcher, *items[:-1])
        await asyncio.sleep(0.01)
        assert store.batches == [items] * (turn + 1)  # one is still to come
        tasks += await submitted(batcher, items[-1])
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert store.batches == [items] * (turn + 2)
    await batcher.close()


async def test_who_came_during_a_flush_is_waited_for_as_well(store: Store) -> None:
    batcher = Batcher(store.flush, batch_max=100, linger_seconds=600)
    first = await submitted(batcher, 0)
    during = await submitted(batcher, *range(1, LINGER_FROM))
    store.open.set()
    await asyncio.wait_for(asyncio.gather(*first), 5)
    assert not any(task.done() for task in during)  # the first is expected back
    again = await submitted(batcher, 0)
    await asyncio.wait_for(asyncio.gather(*during, *again), 5)
    assert store.batches == [[0], [*range(1, LINGER_FROM), 0]]
    await batcher.close()


async def test_who_waits_for_company_that_does_not_come_waits_no_longer_than_allowed(store: Store) -> None:
    store.open.set()
    batcher = Batcher(store.flush, batch_max=100, linger_seconds=0.01)
    await asyncio.gather(*await submitted(batcher, *range(LINGER_FROM)))
    assert await asyncio.wait_for(batcher.submit(7), 5) == 14
    assert await asyncio.wait_for(batcher.submit(8), 5) == 16


async def test_nobody_waits_for_company_after_a_small_flush(store: Store) -> None:
    store.open.set()
    batcher = Batcher(store.flush, batch_max=100, linger_seconds=600)
    for _ in range(3):
        await asyncio.wait_for(asyncio.gather(*await submitted(batcher, *range(LINGER_FROM - 1))), 5)
    assert await asyncio.wait_for(batcher.submit(7), 5) == 14


async def test_a_caller_that_leaves_while_others_wait_for_company_harms_nobody(store: Store) -> None:
    store.open.set()
    batcher = Batcher(store.flush, batch_max=100, linger_seconds=0.01)
    await asyncio.gather(*await submitted(batcher, *range(LINGER_FROM)))
    leaves, stays = await submitted(batcher, 1, 2)
    leaves.cancel()
    assert await asyncio.wait_for(stays, 5) == 4


async def test_closing_waits_for_no_company(store: Store) -> None:
    store.open.set()
    batcher = Batcher(store.flush, batch_max=100, linger_seconds=600)
    await asyncio.gather(*await submitted(batcher, *range(LINGER_FROM)))
    (task,) = await submitted(batcher, 7)
    await asyncio.wait_for(batcher.close(), 5)
    assert task.result() == 14


@pytest.mark.parametrize("linger_seconds", [0.0, 0.001])
async def test_a_thousand_callers_in_waves_all_get_their_own_answer(store: Store, linger_seconds: float) -> None:
    store.open.set()
    batcher = Batcher(store.flush, batch_max=7, flushes_max=2, linger_seconds=linger_seconds)

    async def caller(number: int) -> None:
        for item in range(number, number + 10_000, 1_000):
            assert await batcher.submit(item) == 2 * item

    await asyncio.gather(*(caller(number) for number in range(100, 200)))
