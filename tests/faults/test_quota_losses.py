"""Hard limits admit no unit too many whatever is lost: what Redis held, Redis itself, or a server.

Each test prints its figures, and runs again with a protection switched off, which it must notice.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from tests.faults.fleet import Fleet, fleet, is_noticed, until
from tests.integration.valkey_process import ReplicatedValkey, ValkeyProcess, replicated_valkey, valkey_process

pytestmark = pytest.mark.timeout(400)

AMOUNT = 20_000
"""So much that it is not used up while a server is replaced: losses must strike while there is something to lose."""
GIVEN_BACK_SECONDS = 20
"""In that time the reconciler has given back what was lost, on a busy machine, too."""
TOO_MANY_SECONDS = 2
"""In that time whatever can be admitted beyond the limit is."""
DURABLE = ("--appendonly", "yes")

Store = ValkeyProcess | ReplicatedValkey
Loss = Callable[[Any, Fleet, Path], Awaitable[None]]


async def flush(valkey: Store, _servers: Fleet, _directory: Path) -> None:
    """FLUSHALL: pools are gone, Redis lives on."""
    async with redis.asyncio.from_url(valkey.url) as client:
        await client.flushall()


async def kill_redis(valkey: ValkeyProcess, _servers: Fleet, _directory: Path) -> None:
    """kill -9 and a new start on its append-only file."""
    valkey.kill()
    await valkey.start()


async def cut_power(valkey: ValkeyProcess, _servers: Fleet, directory: Path) -> None:
    """kill -9, and with it the end of the append-only file, which the disk had not got yet."""
    valkey.kill()
    (written,) = (directory / "appendonlydir").glob("*.incr.aof")
    with written.open("r+b") as file:
        file.truncate(written.stat().st_size // 2)
    await valkey.start()


async def kill_server_and_redis(valkey: ValkeyProcess, servers: Fleet, directory: Path) -> None:
    """kill -9 of a server, which tells nobody any more what it has spent, and a moment later of Redis."""
    await kill_server(valkey, servers, directory)
    await flush(valkey, servers, directory)


async def fail_over(valkey: ReplicatedValkey, servers: Fleet, _directory: Path) -> None:
    """kill -9 of the primary; the replica that takes its place has not heard of the last charges."""
    await valkey.cut_off()
    await until(partial(has_allowed, servers, min(AMOUNT, servers.allowed() + 50)), "charges go on")
    await valkey.fail_over()


async def kill_server(_valkey: Store, servers: Fleet, _directory: Path) -> None:
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


async def work(servers: Fleet, index: int, *, keep: int) -> None:
    """Charge on and on, by whichever server has this place."""
    while True:
        await servers.workers[index].charge("key_1", amount=AMOUNT, charges=50, callers=8, keep=keep)


def has_allowed(servers: Fleet, due: int) -> bool:
    return servers.allowed() >= due


async def play(loss: Loss, postgres_url: str, directory: Path, *, fault: str = "", times: int, keep: int = 0) -> int:
    """Charge while ``loss`` strikes again and again, and then until nothing more is admitted; gives what was."""
    options = DURABLE if loss in (kill_redis, cut_power) else ()
    async with (
        replicated_valkey(directory) if loss is fail_over else valkey_process(directory, options) as valkey,
        fleet(postgres_url, valkey.url, directory=directory, fault=fault) as servers,
    ):
        charging = [asyncio.create_task(work(servers, index, keep=keep)) for index in range(3)]
        for strike in range(times):
            await until(partial(has_allowed, servers, AMOUNT * (strike + 1) // (times + 2)), "charges go on")
            await loss(valkey, servers, directory)
        seen = -1
        while seen < servers.allowed() < AMOUNT:
            seen = servers.allowed()
            with contextlib.suppress(TimeoutError):
                await until(partial(has_allowed, servers, AMOUNT), "all is admitted", seconds=GIVEN_BACK_SECONDS)
        await asyncio.sleep(TOO_MANY_SECONDS)
        for task in charging:
            task.cancel()
        await asyncio.wait(charging)
        return servers.allowed()


@pytest.mark.parametrize(
    ("loss", "times"), [(flush, 20), (kill_redis, 10), (cut_power, 10), (restore_snapshot, 10), (fail_over, 6)]
)
async def test_losing_redis_admits_no_unit_too_many_and_loses_none(
    postgres_url: str, tmp_path: Path, loss: Loss, times: int
) -> None:
    admitted = await play(loss, postgres_url, tmp_path, times=times)
    print(f"\n{loss.__name__}, {times} times: {admitted} of {AMOUNT} admitted")
    assert admitted == AMOUNT


async def test_losing_servers_admits_no_unit_too_many_and_loses_none(postgres_url: str, tmp_path: Path) -> None:
    admitted = await play(kill_server, postgres_url, tmp_path, times=6)
    print(f"\nkill_server, 6 times: {admitted} of {AMOUNT} admitted")
    # A killed server may have spent units and told nobody.
    assert AMOUNT - 6 * 8 <= admitted <= AMOUNT


async def test_losing_servers_and_redis_together_admits_no_unit_too_many(postgres_url: str, tmp_path: Path) -> None:
    admitted = await play(kill_server_and_redis, postgres_url, tmp_path, times=6)
    print(f"\nkill_server_and_redis, 6 times: {admitted} of {AMOUNT} admitted")
    # What the pools held that the dead may have spent from stays charged: at most a block each.
    assert AMOUNT - 6 * (AMOUNT // 100 + 3 * 8) <= admitted <= AMOUNT


@pytest.mark.parametrize(
    ("loss", "times", "fault"),
    [
        (flush, 10, "blocks are not debited"),
        (kill_redis, 10, "spends are forgotten"),
        (cut_power, 10, "any store is trusted"),
        (restore_snapshot, 10, "any store is trusted"),
        (fail_over, 4, "any store is trusted"),
        (kill_server, 10, "blocks are not debited"),
        (kill_server_and_redis, 10, "the dead have spent nothing"),
    ],
)
async def test_the_losses_notice_a_planted_fault(
    postgres_urls: Callable[[], Awaitable[str]], tmp_path: Path, loss: Loss, times: int, fault: str
) -> None:
    async def admits_too_many(postgres_url: str, directory: Path) -> bool:
        admitted = await play(loss, postgres_url, directory, fault=fault, times=times)
        print(f"\n{loss.__name__}, {times} times, {fault}: {admitted - AMOUNT} over")
        return admitted > AMOUNT

    assert await is_noticed(admits_too_many, postgres_urls, tmp_path)
