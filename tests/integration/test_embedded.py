"""Private stores: they keep their data, disturb nobody, and are never in the way of the next start."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis.asyncio

from tollkeeper_server.embedded import embedded_stores
from tollkeeper_server.settings import StoreUrls
from tollkeeper_server.startup import StartupError


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tollkeeper-tests-") as directory:
        yield Path(directory)


@pytest.fixture
def bystander() -> Iterator[psutil.Popen]:
    process = psutil.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


async def remember(urls: StoreUrls) -> None:
    connection = await asyncpg.connect(urls.postgres)
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    await connection.close()
    async with redis.asyncio.from_url(urls.redis) as client:
        await client.set("kept", 1)


async def remembered(urls: StoreUrls) -> bool:
    connection = await asyncpg.connect(urls.postgres)
    try:
        in_postgres = await connection.fetchval("SELECT to_regclass('kept') IS NOT NULL")
    finally:
        await connection.close()
    async with redis.asyncio.from_url(urls.redis) as client:
        return in_postgres and await client.get("kept") == b"1"


async def test_data_is_found_again_and_nothing_is_left_running(data_dir: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    async with embedded_stores(data_dir, durable=False) as urls:
        runtime = (data_dir / "run").readlink()
        await remember(urls)
        started = set(psutil.Process().children(recursive=True)) - before
        assert {"postgres", "valkey-server"} <= {process.name() for process in started}
        assert not [each for process in started for each in process.net_connections("inet")]
    assert not [process for process in started if process.is_running()]
    assert not runtime.exists()
    async with embedded_stores(data_dir, durable=False) as urls:
        assert await remembered(urls)


async def test_stores_that_a_killed_server_left_behind_are_ended_first(data_dir: Path) -> None:
    left_behind = (
        "import asyncio, pathlib, sys\n"
        "from tollkeeper_server.embedded import embedded_stores\n"
        "async def run():\n"
        "    async with embedded_stores(pathlib.Path(sys.argv[1]), durable=False) as urls:\n"
        "        print(urls.postgres, urls.redis, flush=True)\n"
        "        await asyncio.to_thread(sys.stdin.read)\n"
        "asyncio.run(run())\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", left_behind, str(data_dir)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    postgres, redis_url = (await process.stdout.readline()).decode().split()
    orphans = psutil.Process(process.pid).children()
    await remember(StoreUrls(postgres=postgres, redis=redis_url))
    async with embedded_stores(data_dir, durable=False) as urls:
        assert not [orphan for orphan in orphans if orphan.status() != psutil.STATUS_ZOMBIE]
        assert await remembered(urls)
    await process.communicate(b"")


async def test_a_process_that_got_the_number_of_an_old_store_is_left_alone(
    data_dir: Path, bystander: psutil.Popen
) -> None:
    async with embedded_stores(data_dir, durable=False) as urls:
        await remember(urls)
        postmaster = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    (data_dir / "postgres" / "postmaster.pid").write_text("\n".join([str(bystander.pid), *postmaster[1:]]))
    (data_dir / "valkey.pid").write_text(f"{bystander.pid}\n")
    async with embedded_stores(data_dir, durable=False) as urls:
        assert await remembered(urls)
    assert bystander.is_running()


async def test_a_long_path_of_the_data_directory_is_no_obstacle(data_dir: Path) -> None:
    deep = data_dir / ("long-" * 20) / ("longer-" * 20)
    deep.mkdir(parents=True)
    async with embedded_stores(deep, durable=False) as urls:
        await remember(urls)


async def test_an_interrupted_first_start_is_no_obstacle(data_dir: Path) -> None:
    (data_dir / "postgres.new").mkdir()
    (data_dir / "postgres.new" / "PG_VERSION").write_text("18\n")
    async with embedded_stores(data_dir, durable=False) as urls:
        await remember(urls)


async def test_a_store_that_cannot_start_says_why_and_takes_the_other_down(data_dir: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    (data_dir / "valkey" / "appendonlydir").mkdir(parents=True)
    (data_dir / "valkey" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(StartupError, match=r"Valkey ended while starting; .*valkey\.log ends: .*manifest"):
        async with embedded_stores(data_dir, durable=False):
            pass
    assert set(psutil.Process().children(recursive=True)) == before
