"""Everything that a history needs: servers, verifying processes, and a controller between them."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from tests.e2e.server_process import ServerProcess
from tests.faults.history.checker import Checker, Verdict
from tests.faults.history.controller import Controller
from tests.faults.history.links import Link, links_to
from tests.faults.history.record import Records
from tests.integration.keys_support import ROOT, keys_on
from tollkeeper import AsyncClient

SECRETS = {"PEPPERS": f"1:{b64encode(b'p' * 32).decode()}", "TAG_KEYS": f"1:{b64encode(b't' * 32).decode()}"}
"""Those of ``keys_support.KEYRING``."""
STOP_SECONDS = 30
READ_SECONDS = 0.5


class Verifying:
    """A verifying process; see verifier.py."""

    def __init__(self, servers: str, token: str, file: Path, *, fault: str) -> None:
        self._command = ("-X", "faulthandler", "-m", "tests.faults.history.verifier", servers, str(file), fault)
        self._environment = {**os.environ, "TOLLKEEPER_TOKEN": token}
        self._process: Process

    async def start(self, told: Iterable[str] = ()) -> None:
        """Start it, and give it the commands that it missed."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *self._command, stdin=PIPE, env=self._environment
        )
        for line in told:
            self.tell(line)

    @property
    def has_crashed(self) -> bool:
        """Whether gRPC's core brought it down, which is no fault in what it was told or has answered."""
        return self._process.returncode == -signal.SIGSEGV

    def tell(self, line: str) -> None:
        """Give it a command."""
        assert self._process.stdin is not None
        if self._process.returncode is None:
            self._process.stdin.write(line.encode() + b"\n")

    def pause(self) -> None:
        """Let it hang."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it was paused."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """End it as it would end by itself; a failure in it is ours."""
        assert self._process.stdin is not None
        self.resume()
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                code = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            raise
        assert code == 0 or self.has_crashed, f"a verifying process failed ({code}); see its traceback"


class Server(ServerProcess):
    """A server with faults planted."""

    def __init__(self, directory: Path, postgres_url: str, redis_url: str, *, listen: str, fault: str) -> None:
        stores = {"POSTGRES_URL": postgres_url, "REDIS_URL": redis_url}
        super().__init__(directory, **stores, **SECRETS, LISTEN=listen, DRAIN_SECONDS="0")
        if fault:
            self.command = [sys.executable, "-m", "tests.faults.history.server", fault, "serve"]

    def pause(self) -> None:
        """Let it hang."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it was paused."""
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it, also if it hangs."""
        if self.process.poll() is None:
            self.resume()
        super().close()


class Rig:
    """A history under way."""

    def __init__(self, *, start: Callable[[str], Server], service_token: str) -> None:
        self._start = start
        self.service_token = service_token
        self.servers: list[Server] = []
        self.verifying: list[Verifying] = []
        self.links: list[list[Link]] = []
        """Of each verifying process to each server, if they lead through links."""
        self.crashed = 0
        """Verifying processes that were brought down by gRPC's core, and replaced."""
        self._told: list[str] = []
        self.controller: Controller

    async def play(self, *, probes: int, seconds: float) -> Verdict:
        """Go on until so many verifications were made and a third of them checked, or one was wrong, or time is up."""
        checker = self.controller.checker
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (
                    not checker.verdict.is_wrong and min(checker.verdict.probes, 3 * checker.verdict.checked) < probes
                ):
                    await asyncio.sleep(READ_SECONDS)
                    await self._replace_crashed()
                    checker.read()
        return checker.verdict

    async def start_servers(self, count: int) -> None:
        """Start so many, and wait until they serve."""
        self.servers += [self._start("127.0.0.1:0") for _ in range(count)]
        await asyncio.gather(*(asyncio.to_thread(server.wait_until_serving) for server in self.servers))

    async def replace(self, index: int) -> None:
        """kill -9 of a server; another takes its place."""
        killed = self.servers[index]
        killed.process.kill()
        await asyncio.to_thread(killed.ended)
        killed.close()
        self.servers[index] = self._start(killed.address)
        await asyncio.to_thread(self.servers[index].wait_until_serving)

    async def _replace_crashed(self) -> None:
        for process in self.verifying:
            if process.has_crashed:
                self.crashed += 1
                await process.start(self._told)

    async def stop_servers(self) -> None:
        """Stop all of them."""
        await asyncio.gather(*(asyncio.to_thread(server.close) for server in self.servers))

    async def stop_verifying(self) -> None:
        """Stop all verifying processes, over links that are whole."""
        for link in itertools.chain(*self.links):
            link.heal()
        await asyncio.gather(*(process.stop() for process in self.verifying))

    def tell(self, line: str) -> None:
        """Give a command to every verifying process."""
        self._told.append(line)
        for process in self.verifying:
            process.tell(line)


@contextlib.asynccontextmanager
async def history(
    postgres_url: str,
    redis_url: str,
    *,
    directory: Path,
    seed: int,
    servers: int = 3,
    verifying: int = 4,
    owners: int = 5,
    pause_seconds: float = 0.8,
    server_fault: str = "",
    client_fault: str = "",
    through_links: bool = False,
) -> AsyncIterator[Rig]:
    """Run so many servers and verifying processes, and change keys of so many owners, until the block ends."""

    def start(listen: str) -> Server:
        server = Server(directory, postgres_url, redis_url, listen=listen, fault=server_fault)
        server.start()
        return server

    root, service = await _callers(postgres_url)
    rig = Rig(start=start, service_token=service)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(rig.stop_servers)
        await rig.start_servers(servers)
        addresses = [server.address for server in rig.servers]
        files = [directory / f"history-{number}" for number in range(verifying)]
        everywhere = [f"ipv4:{','.join(addresses)}"] * verifying
        if through_links:
            links = [await stack.enter_async_context(links_to(addresses)) for _ in files]
            rig.links, everywhere = [each for each, _ in links], [place for _, place in links]
        stack.push_async_callback(rig.stop_verifying)
        for file, place in zip(files, everywhere, strict=True):
            process = Verifying(place, service, file, fault=client_fault)
            await process.start()
            rig.verifying.append(process)
        rig.controller = Controller(
            servers=[await stack.enter_async_context(AsyncClient(each, token=root)) for each in addresses],
            checker=Checker(map(Records, files)),
            tell=rig.tell,
            log=directory / "mutations.jsonl",
            chance=random.Random(seed),
            pause_seconds=pause_seconds,
        )
        controlling = asyncio.create_task(rig.controller.run(owners=owners))
        try:
            yield rig
        finally:
            controlling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await controlling


async def _callers(postgres_url: str) -> tuple[str, str]:
    """API keys of an operator, who may do everything, and of a service that verifies."""
    async with keys_on(postgres_url) as keys:
        root = await keys.create(ROOT, tenant_id="", permissions=("tollkeeper:*",))
        service = await keys.create(ROOT, permissions=("tollkeeper:verify",))
    return root.api_key, service.api_key
