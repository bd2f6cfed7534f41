"""Usage of keys with limits is what was charged, whichever of servers and Redis are killed meanwhile.

Every charge is asked for, by its request id, until it is answered, by all servers; so what GetUsage tells must be
exactly the distinct charges. Prints its figures, and runs again with protections switched off, which it must notice.
TOLLKEEPER_TEST_KILLS tells how often to kill a server or Redis, while charges are made on and on.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.faults.charging_worker import units_of
from tests.faults.fleet import Fleet, fleet, is_noticed, until
from tests.faults.test_quota_losses import has_allowed
from tests.integration.quota_support import AMPLE, server
from tests.integration.valkey_process import ValkeyProcess, valkey_process
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.storage.redis import Redis
from tollkeeper_server.usage.drainer import UsageDrainer
from tollkeeper_server.usage.queries import Granularity
from tollkeeper_server.usage.reading import read_buckets

pytestmark = pytest.mark.timeout(3_000)

KILLS = int(os.environ.get("TOLLKEEPER_TEST_KILLS", "20"))
CHUNK = 100
DURABLE = ("--appendonly", "yes")


@dataclass
class Work:
    """Charges to be made by all servers, more and more of them until it is closed."""

    servers: Fleet
    chunks: int = 1
    is_open: bool = True

    async def ask(self, index: int) -> None:
        """Ask for every charge, by whichever server has this place; what a killed one was asked is asked again."""
        chunk = 0
        while chunk < self.chunks:
            if await self.servers.workers[index].charge(
                "key_1", amount=AMPLE, charges=CHUNK, callers=8, first=chunk * CHUNK
            ):
                chunk += 1
                if self.is_open:
                    self.chunks = max(self.chunks, chunk + 1)


async def told(postgres_url: str, redis_url: str) -> tuple[int, int]:
    """Verifications and units that GetUsage tells, once nobody charges any more and all that was left is stored."""
    async with server(postgres_url, redis_url):  # which gives back what was charged twice
        pass
    postgres, connection = await Postgres.connect(postgres_url), await Redis.connect(redis_url)
    left = UsageDrainer(connection, postgres, touched=set(), clock_us=lambda: 2**62)
    assert await left.look(not_within_seconds=0)
    now = datetime.now(UTC)
    async with postgres.connection() as reading:
        buckets = await read_buckets(
            reading, "key_1", start=now - timedelta(days=1), end=now + timedelta(days=1), granularity=Granularity.DAY
        )
    await connection.close()
    await postgres.close()
    return (
        sum(bucket.decisions.get(DecisionCode.ALLOWED, 0) for bucket in buckets),
        sum(bucket.units.get("requests", 0) for bucket in buckets),
    )


async def restart(valkey: ValkeyProcess) -> None:
    """kill -9, and a new start on its append-only file."""
    valkey.kill()
    await valkey.start()


async def play(postgres_url: str, directory: Path, *, kills: int, fault: str = "") -> tuple[int, int]:
    """How many more verifications and units are told than were charged; 0 is right."""
    chance = random.Random(kills)
    async with (
        valkey_process(directory, DURABLE) as valkey,
        fleet(postgres_url, valkey.url, directory=directory, fault=fault) as servers,
    ):
        work = Work(servers)
        asking = [asyncio.create_task(work.ask(index)) for index in range(3)]
        for kill in range(kills):
            due = servers.allowed() + chance.randrange(1, 300)
            await until(partial(has_allowed, servers, due), "charges go on")
            if kill % 2:
                await servers.replace(chance.randrange(3))
            else:
                await restart(valkey)
        work.is_open = False
        await asyncio.gather(*asking)
        for index in range(3):  # none is to store at leisure what it has counted
            await servers.replace(index)
        verifications, units = await told(postgres_url, valkey.url)
    charges, answers = work.chunks * CHUNK, servers.allowed()
    more = verifications - charges, units - sum(map(units_of, range(charges)))
    print(
        f"\n{charges} charges, answered {answers} times, {kills} kills{f', {fault}' * bool(fault)}: "
        f"told minus charged = {more[0]} verifications, {more[1]} units"
    )
    return more


async def test_usage_is_what_was_charged(postgres_url: str, tmp_path: Path) -> None:
    assert await play(postgres_url, tmp_path, kills=KILLS) == (0, 0)


@pytest.mark.parametrize(
    "fault",
    [
        "usage is added up",
        "usage is taken before it is stored",
        "repetitions are counted",
        "nothing is given back",
    ],
)
async def test_planted_faults_are_noticed(
    postgres_urls: Callable[[], Awaitable[str]], tmp_path: Path, fault: str
) -> None:
    async def is_wrong(postgres_url: str, directory: Path) -> bool:
        return await play(postgres_url, directory, kills=10, fault=fault) != (0, 0)

    assert await is_noticed(is_wrong, postgres_urls, tmp_path)
