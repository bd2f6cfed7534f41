"""Charges that are the same are made together, and come out as if they were made one by one."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from itertools import chain

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.quota_support import charge, key, quota, rate, server, used
from tests.integration.together_support import Store, assert_alike, assert_replayed, flushes, grouped
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.limits import Limit
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
    seen = Counter(type(answer).__name__ for answer in chain(*chain(*told)))
    for flush, asked in zip((flush for flush in played for _ in range(2)), told, strict=True):
        for charges, answers in zip(grouped(flush.charges), asked, strict=True):
            seen.update(answer.verdict.name for answer in answers if isinstance(answer, ChargeAnswer))
            if len({id(answer) for answer in answers}) > 1:
                seen["mixed with records" if charges[0].record else "mixed"] += 1
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
    assert all(seen[name] > 10 for name in (*Verdict.__members__, "mixed", "mixed with records", "ScriptLost"))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("      number = room(item, number)\n", ""),  # all are admitted if the first is
        ("item.times = number", "item.times = 1"),  # all are told so, and one is charged
        ("for _ = 1, times do", "for _ = 1, 1 do"),  # usage is counted once
        ("    item = left > 0 and look(from, to, now)\n", ""),  # who is left out is told what was before
        ("          item = look(from, to, now)\n", ""),  # so with records
        ("number = min(number, floor(asked.pool.left / asked.units))", ""),  # a pool gives more than it has
        ("not asked.shadow then\n      number = min", "true then\n      number = min"),  # a shadow limit denies
        ("or item.lead == 0 and asked.log.used > asked.amount", ""),  # a shadow limit tells of the first
        ("or item.lead == 0 and asked.pool.debited - asked.pool.left > asked.amount", ""),
        ("if told[record] == nil then", "if not told[record] then"),  # a record counts as often as it is there
        ("again[1] = REPLAYED", ""),  # all say that they made what one did
        ("new = told[record] and new or new + 1", "new = new + 1"),  # what was made before is charged again
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


@pytest.mark.parametrize("ids", [20, 12, 0], ids=["each-its-own", "some-twice", "none"])
@pytest.mark.parametrize("limits", [(rate(7),), (quota(7),), (rate(9), quota(7), quota(3, name="shadow", shadow=True))])
async def test_callers_at_once_are_charged_each_for_itself_and_once_under_a_request_id(
    postgres_url: str, redis_url: str, limits: tuple[Limit, ...], ids: int
) -> None:
    async with server(postgres_url, redis_url) as charger:
        subject = key(*limits)
        names = [f"id-{number % ids}" if ids else "" for number in range(20)]
        codes = await asyncio.gather(*(charge(charger, subject, request_id=name) for name in names))
        allowed = [name for name, code in zip(names, codes, strict=True) if code is DecisionCode.ALLOWED]
        assert len(set(allowed)) == 7 if ids else len(allowed) == 7
        again = await asyncio.gather(*(charge(charger, subject, request_id=name) for name in names if name))
        assert [name for name, code in zip(names, again, strict=False) if code is DecisionCode.ALLOWED] == [
            name for name in names if name in allowed and name
        ]
        told = await charger.charge(subject, charges={}, consume=False)
        assert {state.used for state in told.limits} == {7}
    assert await used(postgres_url) == {"ALLOWED": 7, "requests": 7}


async def test_callers_at_once_that_are_told_the_same_are_told_it_by_one_object(
    postgres_url: str, redis_url: str
) -> None:
    async with server(postgres_url, redis_url) as charger:
        subject = key(rate(7), rate(100, name="day", seconds=86_400))
        asked = (charger.charge(subject, charges={"requests": 1}, consume=True) for _ in range(20))
        outcomes = await asyncio.gather(*asked)
    allowed, denied = (
        [each for each in outcomes if each.code is code] for code in (DecisionCode.ALLOWED, DecisionCode.RATE_LIMITED)
    )
    assert (len(allowed), len(denied)) == (7, 13)
    assert len({id(outcome) for outcome in outcomes}) == 2
    assert [[state.used for state in outcome.limits] for outcome in (allowed[0], denied[0])] == [[7, 7]] * 2
    assert denied[0].retry_after is not None
