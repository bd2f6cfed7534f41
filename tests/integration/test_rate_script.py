"""The script in Redis against the same rules in Python, on a clock that the test turns."""

import os
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

import pytest
import redis.asyncio

from tollkeeper_server.core import rate_window
from tollkeeper_server.core.rate_window import LEAD_MAX_US, RateDemand, RateOutcome, SlidingLog
from tollkeeper_server.quota.charge_script import SCRIPT
from tollkeeper_server.quota.charge_store import ChargeStore
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, RateScope
from tollkeeper_server.storage.redis import Redis, Script

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
WINDOWS = {"minute": MINUTE, "hour": HOUR, "hour.2": HOUR, "day": DAY}
CLOCK = "clock"
BATCHES = int(os.environ.get("TOLLKEEPER_TEST_BATCHES", "150"))
"""How many batches of charges to play with each seed; 1,400 make 10^5 charges altogether."""


class TurnedClock:
    """A store whose script asks this clock for the time, and the rules in Python on the same clock."""

    def __init__(self, connection: Redis, client: redis.asyncio.Redis, text: str = SCRIPT.text) -> None:
        assert text.count("redis.call('TIME')") == 1
        script = Script(text.replace("redis.call('TIME')", f"{{0, redis.call('GET', '{CLOCK}')}}"))
        self.client = client
        self.now_us = time.time_ns() // 1000
        self._store = ChargeStore(connection, script=script)
        self._logs: defaultdict[tuple[str, str], SlidingLog] = defaultdict(SlidingLog)

    async def charge(self, charges: Sequence[Charge]) -> list[RateOutcome]:
        """What the script says."""
        await self.client.set(CLOCK, self.now_us)
        answers = await self._store.charge(charges, timeout_seconds=10)
        outcomes = [answer.rates for answer in answers if isinstance(answer, ChargeAnswer)]
        assert len(outcomes) == len(charges)
        return outcomes

    def expected(self, charges: Sequence[Charge]) -> list[RateOutcome]:
        """What the rules say."""
        return [self._expected(charge) for charge in charges]

    def _expected(self, charge: Charge) -> RateOutcome:
        logs = [self._logs[scope.name, limit] for scope in charge.scopes for limit in scope.limits]
        demands = [demand for scope in charge.scopes for demand in scope.demands]
        return rate_window.charge(
            logs,
            demands,
            now_us=self.now_us,
            consume=charge.consume,
            times_max=charge.times_max,
            lead_us=charge.lead_us,
        )


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Redis]:
    connection = await Redis.connect(redis_url)
    yield connection
    await connection.close()


def scope(name: str, **units: int) -> RateScope:
    """A scope whose limits have an amount of 10."""
    demands = (RateDemand(10, WINDOWS[limit], asked, False) for limit, asked in units.items())
    return RateScope(name, tuple(units), tuple(demands))


def random_charge(choice: random.Random) -> Charge:
    def random_scope(name: str) -> RateScope:
        limits = choice.sample(sorted(WINDOWS), choice.randrange(1, 4))
        return RateScope(name, tuple(limits), tuple(random_demand(limit) for limit in limits))

    def random_demand(limit: str) -> RateDemand:
        units = choice.choice((0, 1, 1, 1, 2, 7, 10**15))
        amount = choice.choice((0, 3, 20, 40, 200, 2000, 10**15))
        return RateDemand(amount, WINDOWS[limit], units, shadow=choice.random() < 0.1)

    owner = choice.choice("abc")
    names = [f"tk:{{{owner}}}:rate", f"tk:{{{owner}}}:rate:{choice.choice('xy')}"]
    chosen = names if choice.random() < 0.5 else [choice.choice(names)]
    charge = Charge(tuple(map(random_scope, chosen)), consume=choice.random() < 0.8)
    if not charge.consume or choice.random() < 0.5:
        return charge
    return charge._replace(times_max=choice.choice((2, 10, 10_000)), lead_us=choice.choice((MINUTE // 60, 50_000)))


async def play(clock: TurnedClock, *, seed: int, batches: int) -> int:
    """Many charges; gives how many there were."""
    choice, events = random.Random(seed), 0
    steps = (0, 1, MINUTE // 60, MINUTE // 20 - 1, MINUTE // 20, MINUTE // 3, MINUTE - 1, MINUTE, HOUR // 7, DAY // 5)
    for batch in range(batches):
        clock.now_us += choice.choice(steps)
        charges = [random_charge(choice) for _ in range(choice.randrange(1, 25))]
        events += len(charges)
        assert await clock.charge(charges) == clock.expected(charges), f"seed {seed}, batch {batch}"
    return events


@pytest.mark.parametrize("seed", range(6))
async def test_the_script_says_what_the_rules_say(connection: Redis, client: redis.asyncio.Redis, seed: int) -> None:
    events = await play(TurnedClock(connection, client), seed=seed, batches=BATCHES)
    print(f"\nseed {seed}: {events} charges, 0 differences")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("if outcome == ADMITTED and item.consume then", "if item.consume then"),  # counts what is denied
        ("if outcome == ADMITTED and item.consume then", "if outcome == ADMITTED then"),  # a dry run charges
        ("log.first, log.count = at, units", "log.first, log.count = log.first, units"),
        ("asked.units * item.times, now, item.lead", "asked.units, now, item.lead"),  # a block is charged once
        ("asked.units * item.times, now, item.lead", "asked.units * item.times, now, 0"),  # without its lead
        ("max(now + lead, log.last) or", "now + lead or"),  # the last charge of an entry moves back
        ("(PART * asked.units)))\n    end", "asked.units))\n    end"),  # all that is left, not a hundredth
        ("if asked.units > 0 and not asked.shadow then", "if asked.units > 0 then"),  # a shadow limit bounds
        ("last + log.window > now", "last + log.window - 1 > now"),  # gives back a microsecond early
        ("    advance(log, now)\n", "    advance(log, now)\n    log.last = now\n"),  # a read extends the window
        ("if exceeded and shadow == 0", "if exceeded"),  # a shadow limit denies
        ("scopes[key] = scope", "scopes[key] = nil"),  # the last item on a key overwrites those before
        ("item.retry = max(item.retry, retry)", "item.retry = retry"),  # the last limit alone decides
    ],
)
async def test_the_comparison_sees_planted_faults(
    connection: Redis, client: redis.asyncio.Redis, right: str, wrong: str
) -> None:
    assert right in SCRIPT.text
    clock = TurnedClock(connection, client, SCRIPT.text.replace(right, wrong))
    with pytest.raises(AssertionError):
        await play(clock, seed=1, batches=1000)


async def most_used_in_a_window(clock: TurnedClock, *, seed: int, charges: int) -> int:
    """Many clients use up what they are charged, at the last moment or the first; gives the most used in a minute."""
    choice = random.Random(seed)
    uses: list[tuple[int, int]] = []
    demand = RateDemand(2000, MINUTE, 1, False)
    for _ in range(charges):
        clock.now_us += choice.choice((0, 0, 1, LEAD_MAX_US // 20, LEAD_MAX_US // 3, LEAD_MAX_US))
        asked = demand._replace(units=choice.choice((1, 3, 40, 2000)))
        block = Charge((RateScope("tk:{k}:rate", ("rate",), (asked,)),), True, times_max=50, lead_us=LEAD_MAX_US)
        (outcome,) = await clock.charge([block])
        if outcome.admitted:
            used_at = clock.now_us + (choice.choice((0, LEAD_MAX_US, LEAD_MAX_US)) if outcome.times > 1 else 0)
            uses.append((used_at, asked.units * outcome.times))
        elif outcome.retry_after_us is not None and choice.random() < 0.1:
            clock.now_us += outcome.retry_after_us
    starts = sorted(at for at, _ in uses)
    return max(sum(units for at, units in uses if start <= at < start + MINUTE) for start in starts)


@pytest.mark.parametrize("seed", range(3))
async def test_kept_answers_never_use_more_than_the_limit_in_any_window(
    connection: Redis, client: redis.asyncio.Redis, seed: int
) -> None:
    most = await most_used_in_a_window(TurnedClock(connection, client), seed=seed, charges=2000)
    print(f"\nseed {seed}: at most {most} of 2000 used in any minute")
    assert 1000 < most <= 2000


async def test_kept_answers_that_are_counted_from_their_charge_on_are_noticed(
    connection: Redis, client: redis.asyncio.Redis
) -> None:
    right = "asked.units * item.times, now, item.lead"
    assert right in SCRIPT.text
    clock = TurnedClock(connection, client, SCRIPT.text.replace(right, "asked.units * item.times, now, 0"))
    most = [await most_used_in_a_window(clock, seed=seed, charges=2000) for seed in range(3)]
    print(f"\nwithout lead: up to {max(most)} of 2000 used in a minute")
    assert max(most) > 2000


async def test_the_owner_and_the_key_are_charged_all_or_nothing(connection: Redis, client: redis.asyncio.Redis) -> None:
    clock = TurnedClock(connection, client)
    asked = Charge((scope("tk:{o}:rate", day=4), scope("tk:{o}:rate:k", minute=1)), consume=True)
    outcomes = await clock.charge([asked] * 3)
    assert [outcome.admitted for outcome in outcomes] == [True, True, False]
    assert [standing.used for standing in outcomes[-1].standings] == [8, 2]


async def play_on_a_clock_that_steps_back(clock: TurnedClock, *, seed: int, batches: int) -> None:
    """Charges that always count, so that nothing is given back by a look that leaves no trace."""
    choice = random.Random(seed)
    steps = (0, 1, -1, -MINUTE // 120, -MINUTE // 60, -MINUTE // 3, -HOUR, LEAD_MAX_US, MINUTE // 20, MINUTE, HOUR)
    for batch in range(batches):
        clock.now_us += choice.choice(steps)
        demands = [RateDemand(1, WINDOWS[limit], choice.randrange(1, 4), True) for limit in ("minute", "day")]
        charge = Charge((RateScope("tk:{k}:rate", ("minute", "day"), tuple(demands)),), consume=True)
        charges = [charge._replace(times_max=choice.choice((1, 1, 9)), lead_us=LEAD_MAX_US) for _ in range(3)]
        assert await clock.charge(charges) == clock.expected(charges), f"seed {seed}, batch {batch}"


@pytest.mark.parametrize("seed", range(3))
async def test_the_script_says_what_the_rules_say_on_a_clock_that_steps_back(
    connection: Redis, client: redis.asyncio.Redis, seed: int
) -> None:
    await play_on_a_clock_that_steps_back(TurnedClock(connection, client), seed=seed, batches=BATCHES)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("step_back(log, now + LEAD_MAX)", "step_back(log, now)"),  # what may still be used is forgotten
        ("if log.last > now + LEAD_MAX then", "if log.last > now then"),  # a lead is taken for a step back
        ("if last <= latest then", "if true then"),  # only the newest entry is moved
    ],
)
async def test_the_comparison_sees_faults_of_steps_back(
    connection: Redis, client: redis.asyncio.Redis, right: str, wrong: str
) -> None:
    assert right in SCRIPT.text
    clock = TurnedClock(connection, client, SCRIPT.text.replace(right, wrong))
    with pytest.raises(AssertionError):
        await play_on_a_clock_that_steps_back(clock, seed=1, batches=1000)


async def test_a_clock_that_steps_back_keeps_what_was_counted_for_one_window_and_a_lead(
    connection: Redis, client: redis.asyncio.Redis
) -> None:
    clock = TurnedClock(connection, client)
    asked = Charge((scope("tk:{k}:rate", minute=2),), consume=True)
    for _ in range(5):
        await clock.charge([asked])
        clock.expected([asked])
        clock.now_us += MINUTE // 20
    clock.now_us -= HOUR
    (denied,) = await clock.charge([asked])
    assert [denied] == clock.expected([asked])
    assert denied.retry_after_us == MINUTE + LEAD_MAX_US
    clock.now_us += MINUTE + LEAD_MAX_US
    (admitted,) = await clock.charge([asked])
    assert admitted.standings[0].used == 2


async def test_a_limit_that_another_server_does_not_know_yet_is_not_forgotten(
    connection: Redis, client: redis.asyncio.Redis
) -> None:
    clock = TurnedClock(connection, client)
    await clock.charge([Charge((scope("tk:{k}:rate", hour=3, day=3),), consume=True)])
    await clock.charge([Charge((scope("tk:{k}:rate", minute=1),), consume=True)])
    (outcome,) = await clock.charge([Charge((scope("tk:{k}:rate", hour=1, minute=1),), consume=True)])
    assert [standing.used for standing in outcome.standings] == [4, 2]


async def test_what_no_longer_counts_is_removed(connection: Redis, client: redis.asyncio.Redis) -> None:
    clock = TurnedClock(connection, client)
    await clock.charge([Charge((scope("tk:{k}:rate", minute=1, hour=1),), consume=True)])
    both = await client.strlen("tk:{k}:rate")
    clock.now_us += HOUR
    await clock.charge([Charge((scope("tk:{k}:rate", minute=1),), consume=True)])
    assert await client.strlen("tk:{k}:rate") < both
    assert MINUTE // 1000 - 1000 < await client.pttl("tk:{k}:rate") <= MINUTE // 1000


async def test_a_log_stays_small_whatever_it_counts(connection: Redis, client: redis.asyncio.Redis) -> None:
    clock = TurnedClock(connection, client)
    for _ in range(200):
        clock.now_us += DAY // 100
        await clock.charge([Charge((scope("tk:{k}:rate", day=0, hour=0),), consume=True)])
        await clock.charge([Charge((RateScope("tk:{k}:rate", ("day",), (RateDemand(99, DAY, 1, True),)),), True)])
    assert await client.strlen("tk:{k}:rate") < 400


async def test_reading_writes_nothing(connection: Redis, client: redis.asyncio.Redis) -> None:
    clock = TurnedClock(connection, client)
    await clock.charge([Charge((scope("tk:{k}:rate", minute=1),), consume=False)])
    await clock.charge([Charge((scope("tk:{k}:rate", minute=11),), consume=True)])
    await clock.charge([Charge((scope("tk:{k}:rate", minute=0),), consume=True)])
    assert await client.keys() == [CLOCK.encode()]


@pytest.mark.parametrize("foreign", [b"\x07nonsense", "list"])
async def test_a_foreign_value_under_a_key_fails_nobody_and_is_replaced(
    connection: Redis, client: redis.asyncio.Redis, foreign: bytes | str
) -> None:
    clock = TurnedClock(connection, client)
    if foreign == "list":
        await client.rpush("tk:{k}:rate", "value")
    else:
        await client.set("tk:{k}:rate", foreign)
    asked = [Charge((scope(f"tk:{{{key}}}:rate", minute=6),), consume=True) for key in "jkk"]
    assert [outcome.admitted for outcome in await clock.charge(asked)] == [True, True, False]
