"""The same charges made in groups and made one by one, on a clock that the test turns: both must come out alike."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import redis.asyncio

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.core.rate_window import RateDemand
from tollkeeper_server.core.windows import Window
from tollkeeper_server.quota.charge_script import SCRIPT
from tollkeeper_server.quota.charge_store import ChargeStore
from tollkeeper_server.quota.charges import Charge, ChargeAnswer, Grant, PoolDemand, RateScope, Verdict, alike
from tollkeeper_server.storage.redis import Redis, Script, ScriptLost
from tollkeeper_server.usage.hashes import Counted

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
WINDOWS = {"minute": MINUTE, "hour": HOUR}
CLOCK = "clock"
STEPS = (0, 0, 0, 1, MINUTE // 20 - 1, MINUTE // 20, MINUTE // 3, MINUTE, HOUR // 3)
HUGE = 10**15

Answer = ChargeAnswer | Unavailable
Told = Sequence[Sequence[Sequence[Answer]]]
"""Of each flush and each group in it what every charge was told."""
Dump = dict[bytes, bytes | dict[bytes, bytes]]


class Flush(NamedTuple):
    """What happens at one moment: the store may be lost, charges are made, pools are refilled, all is asked again."""

    now_us: int
    loses: bool
    refills: tuple[tuple[PoolDemand, int], ...]
    charges: tuple[Charge, ...]


def script(text: str = SCRIPT.text) -> Script:
    """The script, on the clock that the test turns."""
    assert text.count("redis.call('TIME')") == 1
    return Script(text.replace("redis.call('TIME')", f"{{0, redis.call('GET', '{CLOCK}')}}"))


def flushes(choice: random.Random) -> tuple[Flush, ...]:
    """Charges to few limits with little room, many of them the same but for their records, and some of these twice."""
    now_us = time.time_ns() // 1000 + DAY  # the store lets go what has ended by its real clock
    kinds = [_kind(choice, home, now_us) for home in "ab" for _ in range(choice.randrange(1, 4))]
    times = accumulate((choice.choice(STEPS) for _ in range(choice.randrange(1, 6))), initial=now_us)
    return tuple(_flush(choice, kinds, at_us) for at_us in times)


def _kind(choice: random.Random, home: str, now_us: int) -> Charge:
    limits = choice.sample(sorted(WINDOWS), choice.randrange(3))
    names = choice.sample(("quota", "spend"), choice.randrange(0 if limits else 1, 3))
    scope = RateScope(f"tk:{{{home}}}:rate", tuple(limits), tuple(_demand(choice, limit) for limit in limits))
    kept = choice.random() < 0.1
    return Charge(
        (scope,) if limits else (),
        consume=kept or choice.random() < 0.9,
        pools=tuple(_pool(choice, home, name, now_us) for name in names),
        times_max=10 if kept else 1,
        lead_us=MINUTE // 60 if kept else 0,
        counted=Counted(home, f"key_{home}", 0, (("ALLOWED", 1), ("requests", choice.choice((1, 3, HUGE))))),
    )


def _demand(choice: random.Random, limit: str) -> RateDemand:
    amount, units = choice.choice((0, 1, 5, 20, HUGE)), choice.choice((0, 1, 1, 1, 2, 3, HUGE))
    return RateDemand(amount, WINDOWS[limit], units, shadow=choice.random() < 0.2)


def _pool(choice: random.Random, home: str, name: str, now_us: int) -> PoolDemand:
    amount, units = choice.choice((0, 3, 10, 20, HUGE)), choice.choice((0, 1, 1, 2, 3))
    window = Window(now_us - DAY, now_us + choice.choice((MINUTE, DAY, DAY)))
    return PoolDemand(f"tk:{{{home}}}:pool:{name}", name, amount, units, choice.random() < 0.2, window)


def _flush(choice: random.Random, kinds: Sequence[Charge], now_us: int) -> Flush:
    few = choice.sample(kinds, min(len(kinds), choice.randrange(1, 4)))
    charges = [choice.choice(few) for _ in range(choice.randrange(1, 16))]
    refilled = [pool for kind in kinds for pool in kind.pools if choice.random() < 0.7]
    return Flush(
        now_us,
        choice.random() < 0.05,
        tuple((pool, choice.choice((0, 1, 2, 5, 11))) for pool in refilled),
        tuple(_once(choice, charge) if choice.random() < 0.5 else charge for charge in charges),
    )


def _once(choice: random.Random, charge: Charge) -> Charge:
    """With a record, of few, so that some are asked for again, in the same flush or later."""
    assert charge.counted is not None
    return charge._replace(record=f"tk:{{{charge.counted.home}}}:once:{choice.randrange(12)}")


class Store:
    """Makes charges in groups, or one by one in the order of the groups."""

    def __init__(self, connection: Redis, client: redis.asyncio.Redis, text: str = SCRIPT.text) -> None:
        self._client = client
        self._store = ChargeStore(connection, script=script(text))
        self._debited: Counter[str] = Counter()
        self._revision = 0

    async def play(self, flushes: Sequence[Flush], *, together: bool) -> tuple[Told, Dump]:
        """What was told, twice for each flush; and what the store holds in the end."""
        epochs, told = 0, []
        self._revision = 0
        await self._begin(epochs)
        for flush in flushes:
            if flush.loses:
                await self._client.script_flush()
            await self._client.set(CLOCK, flush.now_us)
            told.append(await self._made(flush.charges, together=together))
            if flush.loses:
                epochs += 1
                await self._begin(epochs)
            await self._client.set(CLOCK, flush.now_us)
            await self._refill(flush, generation=epochs)
            told.append(await self._made(flush.charges, together=together))
        return told, await self._dump()

    async def _begin(self, epochs: int) -> None:
        await self._client.flushall()
        self._debited.clear()
        await self._store.begin(f"e{epochs}", seal="s")
        self._store.enter(f"e{epochs}", seal="s")

    async def _refill(self, flush: Flush, *, generation: int) -> None:
        for pool, units in flush.refills:
            self._debited[pool.name] += units
            self._revision += 1
            ends_us, debited = pool.window.ends_us, self._debited[pool.name]
            grant = Grant(pool.name, generation, True, units, debited, self._revision, ends_us, flush.now_us)
            await self._store.grant([grant], timeout_seconds=10)

    async def _made(self, charges: Sequence[Charge], *, together: bool) -> list[list[Answer]]:
        answers: dict[int, Answer] = {}
        if together:
            for positions, answer in await self._store.charge_together(charges, timeout_seconds=10):
                answers.update(dict.fromkeys(positions, answer))
        for position in () if together else chain(*alike(charges)):
            (answers[position],) = await self._store.charge([charges[position]], timeout_seconds=10)
        return [[answers[position] for position in group] for group in alike(charges)]

    async def _dump(self) -> Dump:
        """Of records only that they are there: they tell where limits stood after the charge, and not all did alike."""
        found: Dump = {}
        names: list[Any] = await self._client.keys()
        for name in names:
            if b":once:" in name:
                found[name] = (await self._get(name))[-1:]
            elif b":usage:" in name:
                found[name] = await self._client.hgetall(name)  # type: ignore[assignment]
            elif name.endswith(b":rate"):
                found[name] = dict(_logs(await self._get(name)))
            else:
                found[name] = await self._get(name)
        return found

    async def _get(self, name: bytes) -> bytes:
        value: Any = await self._client.get(name)
        assert isinstance(value, bytes)
        return value


def _logs(value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each log by its name: in which order they are kept means nothing."""
    while value:
        ends = 1 + value[0]
        older = ends + 40
        size = older + 2 + int.from_bytes(value[older : older + 2], "little")
        yield value[1:ends], value[ends:size]
        value = value[size:]


def grouped(charges: Sequence[Charge]) -> list[list[Charge]]:
    """Charges that are made together."""
    return [[charges[position] for position in group] for group in alike(charges)]


def assert_alike(together: Told, single: Told) -> None:
    """Every charge came out alike; who was admitted is told what the last one is that was admitted beside it."""
    for flush, flush_by_one in zip(together, single, strict=True):
        for group, by_one in zip(flush, flush_by_one, strict=True):
            assert [_verdict(answer) for answer in group] == [_verdict(answer) for answer in by_one]
            admitted = [answer for answer in by_one if _verdict(answer) is Verdict.ADMITTED]
            for answer, alone in zip(group, by_one, strict=True):
                if _verdict(answer) is Verdict.ADMITTED:
                    assert answer == admitted[-1]
                elif isinstance(answer, ChargeAnswer) and answer.verdict is not Verdict.REPLAYED:
                    assert answer == alone


def _verdict(answer: Answer) -> Verdict | type[Unavailable]:
    return answer.verdict if isinstance(answer, ChargeAnswer) else type(answer)


def assert_replayed(flushes: Sequence[Flush], together: Told) -> None:
    """Who asks again under a record is told what was told first, unless other limits are asked for by now."""
    first: dict[str, tuple[Charge, ChargeAnswer]] = {}
    for flush, asked in zip((flush for flush in flushes for _ in range(2)), together, strict=True):
        for charges, answers in zip(grouped(flush.charges), asked, strict=True):
            for charge, answer in zip(charges, answers, strict=True):
                if isinstance(answer, ScriptLost):
                    first.clear()
                elif isinstance(answer, ChargeAnswer) and charge.record and answer.verdict is Verdict.ADMITTED:
                    first[charge.record] = charge, answer
                elif isinstance(answer, ChargeAnswer) and answer.verdict is Verdict.REPLAYED:
                    before, told = first[charge.record]
                    if before == charge:
                        assert answer[2:] == told[2:]
