"""Servers in processes of their own, as far as charging goes."""

import asyncio
import contextlib
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from tests.integration.quota_support import RECENTLY

START_SECONDS = 60
CASE_SECONDS = 100
NOTICED_WITHIN = 5


class Worker:
    """One process; see charging_worker.py."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, postgres_url: str, redis_url: str, tally: Path, fault: str) -> "Worker":
        """Start one, and wait until it serves."""
        command = ("-m", "tests.faults.charging_worker", postgres_url, redis_url, str(tally), fault)
        worker = cls(await asyncio.create_subprocess_exec(sys.executable, *command, stdin=PIPE, stdout=PIPE))
        await worker._line("ready", START_SECONDS)
        return worker

    async def charge(
        self, key_id: str, *, amount: int, charges: int, callers: int, first: int | None = None, keep: int = 0
    ) -> bool:
        """Have ``charges`` made, and wait until they are; False if the worker was killed before."""
        assert self._process.stdin is not None
        asked = {"key_id": key_id, "amount": amount, "created_at": RECENTLY.isoformat()}
        asked |= {"charges": charges, "callers": callers, "first": first, "keep": keep}
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            return await self._line("done", CASE_SECONDS)
        return False

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    async def stop(self) -> None:
        """End it as it would end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(START_SECONDS):
            await self._process.wait()

    async def _line(self, expected: str, seconds: float) -> bool:
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            while line := await self._process.stdout.readline():
                if line.decode().strip() == expected:
                    return True
        return False


class Fleet:
    """Workers on the same stores, and what they have allowed together."""

    def __init__(self, postgres_url: str, redis_url: str, *, directory: Path, fault: str) -> None:
        self._places = postgres_url, redis_url
        self._tally = directory / "allowed"
        self._fault = fault
        self.workers: list[Worker] = []

    async def start(self, count: int) -> None:
        """Add workers."""
        self.workers += await asyncio.gather(
            *(Worker.start(*self._places, self._tally, self._fault) for _ in range(count))
        )

    async def replace(self, index: int) -> None:
        """Kill a worker, and start another in its place."""
        killed = self.workers[index]
        spare = await Worker.start(*self._places, self._tally, self._fault)
        killed.kill()
        self.workers[index] = spare

    def allowed(self) -> int:
        """How many charges were allowed so far."""
        return self._tally.stat().st_size if self._tally.exists() else 0

    async def charge(
        self, key_id: str, *, amount: int, charges: int, callers: int = 8, workers: int = 3, keep: int = 0
    ) -> int:
        """Have ``charges`` made by some of the workers at once; gives how many were allowed."""
        before = self.allowed()
        share = -(-charges // workers)
        await asyncio.gather(
            *(
                worker.charge(key_id, amount=amount, charges=share, callers=callers, keep=keep)
                for worker in self.workers[:workers]
            )
        )
        return self.allowed() - before


@contextlib.asynccontextmanager
async def fleet(
    postgres_url: str, redis_url: str, *, directory: Path, workers: int = 3, fault: str = ""
) -> AsyncIterator[Fleet]:
    """Run workers until the block ends."""
    running = Fleet(postgres_url, redis_url, directory=directory, fault=fault)
    await running.start(workers)
    try:
        yield running
    finally:
        await asyncio.gather(*(worker.stop() for worker in running.workers))


async def is_noticed(
    play: Callable[[str, Path], Awaitable[bool]], postgres_urls: Callable[[], Awaitable[str]], directory: Path
) -> bool:
    """Whether ``play`` finds a planted fault, on a database and in a directory of its own, in one of a few tries.

    A loss may come at a moment at which nothing depends on what is planted.
    """
    for number in range(NOTICED_WITHIN):
        place = directory / str(number)
        place.mkdir()
        if await play(await postgres_urls(), place):
            return True
    return False


async def until(condition: Callable[[], bool], meaning: str, *, seconds: float = 60) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(meaning)
        await asyncio.sleep(0.005)
