"""Several processes that serve one port, and their parent, which serves nothing itself.

The kernel spreads connections over the workers. Each is a whole server with caches and a lease of its own; they share
the stores and nothing else. Workers are programs started anew: gRPC does not survive a fork.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import structlog

from tollkeeper_server.ports import Listening, metrics_address, shared_port
from tollkeeper_server.settings import PREFIX, Address, Settings, StoreUrls
from tollkeeper_server.startup import StartupError

LEAVE = b"leave\n"
HURRY = b"hurry\n"
"""What a parent tells its workers."""
BEAT = b"\n"
"""What a worker tells its parent, again and again."""

START_SECONDS = 60.0
STEADY_SECONDS = 10.0
"""A worker that served so long did not fail by its start."""
PAUSE_SECONDS = 0.1
PAUSE_SECONDS_MAX = 10.0
"""Before a worker that keeps failing is started again: doubled each time, up to the second."""
BEAT_SECONDS = 1.0
"""How often a worker shows that it is not stuck."""
SILENT_SECONDS = 5.0
"""A worker that shows nothing for twice as long is killed. Twice, for the parent may have been held up itself."""
STOP_SECONDS = 15.0
"""How long a worker may take to leave its stores, after all that draining may take."""

_log = structlog.get_logger()


@contextlib.asynccontextmanager
async def workers(
    settings: Settings, stores: StoreUrls, *, secrets_file: Path | None, hurry: asyncio.Event
) -> AsyncIterator[Listening]:
    """Serve in ``settings.workers`` processes during the block; at its end all drain together.

    A worker that ends before is replaced. Raises StartupError if one cannot serve to begin with.
    """
    with shared_port(settings.listen, setting="LISTEN") as address:
        posts = [
            _Post(number, secrets_file, environment, settings, hurry)
            for number, environment in enumerate(_environments(settings, stores, address))
        ]
        try:
            told = await asyncio.gather(*(post.serving for post in posts))
            yield Listening(
                grpc=address,
                metrics=tuple(Address.parse(each["metrics"]) for each in told),
                edge=tuple(Address.parse(each["edge"]) for each in told if "edge" in each),
            )
        finally:
            await asyncio.gather(*(post.close() for post in posts))


def _environments(settings: Settings, stores: StoreUrls, address: Address) -> Iterator[dict[str, str]]:
    """What each worker finds in its environment: the parent's own, and what is decided by now."""
    decided = {
        "POSTGRES_URL": stores.postgres,
        "REDIS_URL": stores.redis,
        "LISTEN": str(address),
        "REFLECTION": str(settings.serves_reflection),
        "DRAIN_SECONDS": str(settings.drains_for_seconds),
    }
    for number in range(settings.workers):
        decided["METRICS_LISTEN"] = str(metrics_address(settings, worker=number))
        if settings.edge_listen is not None:
            decided["EDGE_LISTEN"] = str(settings.edge_listen.of_worker(number))
        yield os.environ | {f"{PREFIX}{name}": value for name, value in decided.items()}


class _Post:
    """The place of one worker: whoever ends there is replaced."""

    def __init__(
        self,
        number: int,
        secrets_file: Path | None,
        environment: Mapping[str, str],
        settings: Settings,
        hurry: asyncio.Event,
    ) -> None:
        arguments = [str(number), *([str(secrets_file)] if secrets_file else [])]
        # -P: modules that lie about in the working directory are none of ours.
        self._command = [sys.executable, "-P", "-m", "tollkeeper_server.worker", *arguments]
        self._environment = environment
        self._drain_seconds = settings.drains_for_seconds + settings.grace_seconds
        self._hurry = hurry
        self._log = _log.bind(worker=number)
        self.serving: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        """Where the first worker serves; a StartupError if it does not."""
        self._keeping = asyncio.create_task(self._keep(), name=f"worker {number}")
        self._keeping.add_done_callback(self._kept)

    async def close(self) -> None:
        """Let the worker drain, and be done."""
        self._keeping.cancel()
        await asyncio.wait([self._keeping])

    def _kept(self, keeping: asyncio.Task[None]) -> None:
        """Tell of a fault of the parent itself, at once."""
        if not keeping.cancelled() and (fault := keeping.exception()) is not None:
            self._log.error("background_task_failed", task=keeping.get_name(), exc_info=fault)
            if not self.serving.done():
                self.serving.set_exception(fault)

    async def _keep(self) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            try:
                code = await self._one()
            except StartupError as error:
                if not self.serving.done():
                    self.serving.set_exception(error)
                    return
                code = 1
                self._log.error("worker_not_started", reason=str(error))
            if code == 0 or time.monotonic() - started > STEADY_SECONDS:
                failures = 0
            else:
                await asyncio.sleep(min(PAUSE_SECONDS * 2**failures, PAUSE_SECONDS_MAX))
                failures += 1

    async def _one(self) -> int:
        """Run one worker from its start to its end, and give its exit code. Raises StartupError."""
        # A session of its own, so that Ctrl-C in a terminal reaches the parent alone.
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, env=self._environment, start_new_session=True
        )
        told: dict[str, str] = {}
        try:
            told = await _told(process)
            self._log.info("worker_serving", pid=process.pid, **told)
            if not self.serving.done():
                self.serving.set_result(told)
            if await _falls_silent(process):
                self._log.error("worker_stuck", pid=process.pid)
                process.kill()
            code = await process.wait()
            self._log.warning("worker_ended", pid=process.pid, ended_by=_ending(code))
            return code
        finally:
            if process.returncode is None:
                await self._stop(process, serves=bool(told))

    async def _stop(self, process: Process, *, serves: bool) -> None:
        _say(process, LEAVE)
        if not serves:
            process.terminate()  # it may not listen yet
        ended, hurried = asyncio.create_task(process.wait()), asyncio.create_task(self._hurry.wait())
        seconds = self._drain_seconds + STOP_SECONDS
        await asyncio.wait({ended, hurried}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if self._hurry.is_set():
            _say(process, HURRY)
            await asyncio.wait({ended}, timeout=STOP_SECONDS)
        if not ended.done():
            self._log.error("worker_killed", pid=process.pid)
            process.kill()
        await ended


async def _told(process: Process) -> dict[str, str]:
    """Where the worker serves, from itself. Raises StartupError if it does not."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            while (line := await process.stdout.readline()) == BEAT:
                pass
            code = 0 if line else await process.wait()
    except TimeoutError:
        raise StartupError(f"a worker did not serve within {START_SECONDS:.0f} s") from None
    if not line:
        raise StartupError(f"a worker ended while starting, by {_ending(code)}; its log says why")
    told: dict[str, str] = json.loads(line)
    if "error" in told:
        raise StartupError(told["error"])
    return told


async def _falls_silent(process: Process) -> bool:
    """Whether the worker gets stuck; False once it has ended."""
    assert process.stdout is not None
    misses = 0
    while misses < 2:
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                if not await process.stdout.readline():
                    return False
        except TimeoutError:
            misses += 1
        else:
            misses = 0
    return True


def _say(process: Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
