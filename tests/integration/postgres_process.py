"""A Postgres of one test's own, to be killed and started again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import psutil

from tollkeeper_server import embedded
from tollkeeper_server.storage.migrate import migrate


class PostgresProcess:
    """A migrated Postgres in ``directory``, on a Unix socket there, that does not wait for the disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running = contextlib.AsyncExitStack()
        self.url = ""

    async def start(self) -> None:
        """Start it on the data that it has, and wait until it answers."""
        postgres = embedded._postgres(self._directory, self._directory, durable=False)
        self.url = await self._running.enter_async_context(postgres)

    async def stop(self) -> None:
        """Stop it."""
        await self._running.aclose()

    async def kill(self) -> None:
        """kill -9 of Postgres and of every process that it has started."""
        pid = int((self._directory / "postgres" / "postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        children = postmaster.children(recursive=True)
        for process in (postmaster, *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await asyncio.to_thread(psutil.wait_procs, children, timeout=10)
        await self._running.aclose()


@contextlib.asynccontextmanager
async def postgres_process(directory: Path) -> AsyncIterator[PostgresProcess]:
    """Run one until the block ends. The path of the directory has to be short enough for a socket."""
    process = PostgresProcess(directory)
    await process.start()
    try:
        await migrate(process.url)
        yield process
    finally:
        await process.stop()
