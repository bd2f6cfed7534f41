"""Hard limits admit no unit too many whatever is lost: what Redis held, Redis itself, or a server.

Each test prints its figures, and runs again with a protection switched off, which it must notice.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis.asyncio

from tests.faults.fleet import Fleet, fleet
from tests.integration.valkey_process import ValkeyProcess, valkey_process

pytestmark = pytest.mark.timeout(400)

AMOUNT = 3_000
DURABLE = ("--appendonly", "yes")

Loss = Callable[[ValkeyProcess, Fleet, Path], Awaitable[None]]


async def flush(valkey: ValkeyProcess, _servers: Fleet, _directory: Path) -> None:
    """FLUSHALL: pools are gone, Redis lives on."""
    async with redis.asyncio.from_url(valkey.url) as client:
        await client.flushall()


async def kill_redis(valkey: ValkeyProcess, _servers: Fleet, _directory: Path) -> None:
    """kill -9 and a new start on its append-only file."""
    valkey.kill()
    await valkey.start()


async def kill_server(_valkey: ValkeyProcess, servers: Fleet, _directory: Path) -> None:
    """kill -9 of one server; another takes its place, and the work is taken up again."""
    await servers.replace(0)


async def restore_snapshot(valkey: ValkeyProcess, _servers: Fleet, directory: Path) -> None:
    """Redis comes back as it was some time ago."""
    snapshot = directory / "old.rdb"
    async with redis.asyncio.from_url(valkey.url) as client:
        if not snapshot.exists():
            await client.save()
            shutil.copy(directory / "dump.rdb", snapshot)
            return
    valkey.kill()
    shutil.copy(snapshot, directory / "dump.rdb")
    await valkey.start()


async def play(loss: Loss, postgres_url: str, directory: Path, *, fault: str = "", times: int) -> tuple[int, int]:
    """Charge three times the limit while ``loss`` strikes again and again; gives what was admitted, and how often."""
    options = DURABLE if loss is kill_redis else ()
    strikes = 0
    async with valkey_process(directory, options) as valkey:
        async with fleet(postgres_url, valkey.url, directory=directory, fault=fault) as servers:
            work = asyncio.create_task(servers.charge("key_1", amount=AMOUNT, charges=3 * AMOUNT))
            while strikes < times and servers.allowed() < AMOUNT and not work.done():
                seen = servers.allowed()
                async with asyncio.timeout(60):
                    while servers.allowed() < min(seen + AMOUNT // (2 * times), AMOUNT) and not work.done():
                        await asyncio.sleep(0.005)
                await loss(valkey, servers, directory)
                strikes += 1
            await work
            # Whatever is left now, and given back in time, may be admitted too.
            await servers.charge("key_1", amount=AMOUNT, charges=AMOUNT // 2)
            return servers.allowed(), strikes


@pytest.mark.parametrize(("loss", "times"), [(flush, 20), (kill_redis, 10), (kill_server, 6), (restore_snapshot, 10)])
async def test_no_loss_admits_a_unit_too_many(postgres_url: str, tmp_path: Path, loss: Loss, times: int) -> None:
    admitted, strikes = await play(loss, postgres_url, tmp_path, times=times)
    print(f"\n{loss.__name__}, {strikes} times: {admitted} of {AMOUNT} admitted, {max(0, admitted - AMOUNT)} over")
    assert strikes == times
    assert admitted <= AMOUNT


@pytest.mark.parametrize(
    ("loss", "fault"), [(flush, "blocks are not debited"), (restore_snapshot, "any store is trusted")]
)
async def test_the_losses_notice_a_planted_fault(postgres_url: str, tmp_path: Path, loss: Loss, fault: str) -> None:
    admitted, strikes = await play(loss, postgres_url, tmp_path, fault=fault, times=20)
    print(f"\n{loss.__name__}, {strikes} times, {fault}: {admitted - AMOUNT} over")
    assert admitted > AMOUNT
