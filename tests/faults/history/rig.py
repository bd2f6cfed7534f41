"""Everything that a history needs: servers, verifying processes, and a controller between them."""

import asyncio
import contextlib
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.e2e.server_process import ServerProcess
from tests.faults.history.checker import Checker, Verdict
from tests.faults.history.controller import Controller
from tests.faults.history.record import Records
from tests.integration.keys_support import ROOT, keys_on
from tollkeeper import AsyncClient

SECRETS = {"PEPPERS": f"1:{b64encode(b'p' * 32).decode()}", "TAG_KEYS": f"1:{b64encode(b't' * 32).decode()}"}
"""Those of ``keys_support.KEYRING``."""
STOP_SECONDS = 30
READ_SECONDS = 0.5


class Verifying:
    """A verifying process; see verifier.py."""

    def __init__(self, process: Process, file: Path) -> None:
        self._process = process
        self.file = file

    @classmethod
    async def start(cls, servers: str, token: str, file: Path, *, fault: str) -> "Verifying":
        """Start one."""
        command = ("-X", "faulthandler", "-m", "tests.faults.history.verifier", servers, str(file), fault)
        environment = {**os.environ, "TOLLKEEPER_TOKEN": token}
        return cls(await asyncio.create_subprocess_exec(sys.executable, *command, stdin=PIPE, env=environment), file)

    def tell(self, line: str) -> None:
        """Give it a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def pause(self) -> None:
        """Let it hang."""
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
        assert code == 0, f"a verifying process failed ({code}); see its traceback"


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

    def __init__(
        self, *, servers: list[Server], verifying: list[Verifying], controller: Controller, service_token: str
    ) -> None:
        self.servers = servers
        self.verifying = verifying
        self.controller = controller
        self.service_token = service_token

    async def play(self, *, probes: int, seconds: float) -> Verdict:
        """Go on until so many verifications were made and a third of them checked, or one was stale, or time is up."""
        checker = self.controller.checker
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not checker.verdict.stale and min(checker.verdict.probes, 3 * checker.verdict.checked) < probes:
                    await asyncio.sleep(READ_SECONDS)
                    checker.read()
        return checker.verdict


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
) -> AsyncIterator[Rig]:
    """Run so many servers and verifying processes, and change keys of so many owners, until the block ends."""
    root, service = await _callers(postgres_url)
    async with contextlib.AsyncExitStack() as stack:
        running = [
            Server(directory, postgres_url, redis_url, listen="127.0.0.1:0", fault=server_fault) for _ in range(servers)
        ]
        for server in running:
            stack.push_async_callback(asyncio.to_thread, server.close)
            server.start()
        await asyncio.gather(*(asyncio.to_thread(server.wait_until_serving) for server in running))
        addresses = [server.address for server in running]
        files = [directory / f"history-{number}" for number in range(verifying)]
        everywhere = f"ipv4:{','.join(addresses)}"
        processes = [await Verifying.start(everywhere, service, file, fault=client_fault) for file in files]
        stack.push_async_callback(_stop_all, processes)

        def tell(line: str) -> None:
            for process in processes:
                process.tell(line)

        controller = Controller(
            servers=[await stack.enter_async_context(AsyncClient(each, token=root)) for each in addresses],
            checker=Checker(map(Records, files)),
            tell=tell,
            log=directory / "mutations.jsonl",
            chance=random.Random(seed),
            pause_seconds=pause_seconds,
        )
        controlling = asyncio.create_task(controller.run(owners=owners))
        try:
            yield Rig(servers=running, verifying=processes, controller=controller, service_token=service)
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


async def _stop_all(processes: Sequence[Verifying]) -> None:
    await asyncio.gather(*(process.stop() for process in processes))
