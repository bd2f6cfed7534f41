"""Charges that are the same are made together, and come out as if they were made one by one."""

import os
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.together_support import Store, assert_alike, assert_replayed, flushes, lost
from tollkeeper_server.quota.charge_script import SCRIPT
from tollkeeper_server.quota.charges import ChargeAnswer, Verdict
from tollkeeper_server.storage.redis import Redis

EXAMPLES = int(os.environ.get("TOLLKEEPER_TEST_EXAMPLES", "150"))


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Redis]:
    connection = await Redis.connect(redis_url)
    yield connection
    await connection.close()


async def compare(store: Store, choice: random.Random) -> Counter[str]:
    """Play both ways; gives how many charges had which verdict, were lost, and were told with others."""
    played = flushes(choice)
    single, expected = await store.play(played, together=False)
    told, found = await store.play(played, together=True)
    assert_alike(told, single)
    assert_replayed(played, told)
    assert found == expected
    groups = [group for flush in told for group in flush]
    answers = [answer for group in groups for answer in group if isinstance(answer, ChargeAnswer)]
    seen = Counter(answer.verdict.name for answer in answers)
    seen["mixed"] = sum(len({id(answer) for answer in group}) > 1 for group in groups)
    seen["lost"] = lost(told)
    return seen


async def compare_many(store: Store, plays: int) -> Counter[str]:
    seen = Counter[str]()
    for seed in range(plays):
        seen += await compare(store, random.Random(seed))
    return seen


@given(choice=st.randoms(use_true_random=False))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
async def test_groups_of_charges_come_out_as_if_made_one_by_one(
    connection: Redis, client: redis.asyncio.Redis, choice: random.Random
) -> None:
    await compare(Store(connection, client), choice)


async def test_the_comparison_meets_every_verdict(connection: Redis, client: redis.asyncio.Redis) -> None:
    seen = await compare_many(Store(connection, client), EXAMPLES)
    print(f"\n{EXAMPLES} plays: {dict(seen)}, 0 differences")
    assert all(seen[name] > 10 for name in (*Verdict.__members__, "mixed", "lost"))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("made = room(item, number)", "made = number"),  # all are admitted if the first is
        ("made = room(item, number)", "made = 1"),  # only one is made, and all are told so
        ("item.times = made", "item.times = 1"),  # all are told so, and one is charged
        ("for _ = 1, times do", "for _ = 1, 1 do"),  # usage is counted once
        ("return made, answer(item, outcome), answer(others,", "return made, answer(item, outcome), answer(item,"),
        ("answer(others, verdict(others))", "answer(others, DENIED)"),  # nothing is refilled for those left out
        ("number = min(number, floor(asked.pool.left / asked.units))", ""),  # a pool gives more than it has
        ("if asked.units > 0 and not asked.shadow then\n      number", "if asked.units > 0 then\n      number"),
        ("if number > 1 then\n      tell_the_last(item)", "if false then"),  # shadow limits tell of the first
        ("if told[record] == nil then", "if not told[record] then"),  # a record counts as often as it is there
        ("local again = packed and replayed(figures)", "local again = figures"),  # and all are told that they made it
        ("new = told[record] and new or new + 1", "new = new + 1"),  # what is told again is charged again
        ("      if packed then", "      if packed and made == 0 then"),  # only the last is remembered
        ("tell(1, told[record])", "tell(1, figures or told[record])"),  # one is told what another is
    ],
)
async def test_the_comparison_sees_planted_faults(
    connection: Redis, client: redis.asyncio.Redis, right: str, wrong: str
) -> None:
    assert SCRIPT.text.count(right) == 1
    store = Store(connection, client, SCRIPT.text.replace(right, wrong))
    with pytest.raises((AssertionError, RuntimeError, KeyError)):
        await compare_many(store, 1000)
