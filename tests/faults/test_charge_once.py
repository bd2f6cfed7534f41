"""A charge that has a request id is made once, however often it is asked for, and whichever server dies meanwhile.

Prints its figures, and runs again with the records dropped, which it must notice. TOLLKEEPER_TEST_CHARGES tells how
many distinct charges to make.
"""

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from tests.faults.charging_worker import units_of
from tests.faults.fleet import Fleet, fleet, until
from tests.integration.quota_support import AMPLE, charge, key, quota, server

pytestmark = pytest.mark.timeout(3_000)

CHARGES = int(os.environ.get("TOLLKEEPER_TEST_CHARGES", "3000"))
CHUNK = 250
KILLS = 20


async def ask_all(servers: Fleet, index: int, charges: int) -> None:
    """Ask for every charge, chunk by chunk; a chunk whose server was killed is asked for again."""
    for first in range(0, charges, CHUNK):
        is_done = False
        while not is_done:
            worker, count = servers.workers[index], min(CHUNK, charges - first)
            is_done = await worker.charge("key_1", amount=AMPLE, charges=count, callers=8, first=first)


def have_moved_on(servers: Fleet, due: int, asking: list[asyncio.Task[None]]) -> bool:
    return servers.allowed() >= due or all(task.done() for task in asking)


async def play(servers: Fleet, *, charges: int, kills: int) -> None:
    """Have every server asked for every charge, and kill one again and again."""
    asking = [asyncio.create_task(ask_all(servers, index, charges)) for index in range(3)]
    for kill in range(kills):
        due = servers.allowed() + charges * 3 // (kills + 1)
        await until(partial(have_moved_on, servers, due, asking), "charges go on")
        await servers.replace(kill % 3)
    await asyncio.gather(*asking)


async def spent(postgres_url: str, redis_url: str) -> int:
    """What the ledger says once nothing is on its way any more."""
    await asyncio.sleep(2.5)  # the ledger takes a block for lost after 2 s
    async with server(postgres_url, redis_url) as charger:
        await charge(charger, key(quota(AMPLE)), AMPLE)  # does not fit, which makes the ledger look
        (state,) = (await charger.charge(key(quota(AMPLE)), charges={}, consume=False)).limits
        return state.used


async def test_every_charge_is_made_once(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    async with fleet(postgres_url, redis_url, directory=tmp_path) as servers:
        await play(servers, charges=CHARGES, kills=KILLS)
        asked = servers.allowed()
    distinct = sum(map(units_of, range(CHARGES)))
    used = await spent(postgres_url, redis_url)
    print(
        f"\n{CHARGES} charges, allowed {asked} times, {KILLS} kills: ledger minus distinct charges = {used - distinct}"
    )
    assert asked >= 3 * CHARGES
    assert used == distinct


async def test_dropped_records_are_noticed(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    async with fleet(postgres_url, redis_url, directory=tmp_path, fault="records are dropped") as servers:
        await play(servers, charges=300, kills=0)
    difference = await spent(postgres_url, redis_url) - sum(map(units_of, range(300)))
    print(f"\nrecords are dropped: ledger minus distinct charges = {difference}")
    assert difference > 0
