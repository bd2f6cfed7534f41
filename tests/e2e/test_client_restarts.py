"""Two real servers on the same stores, restarted one after the other under load: no call fails."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from tests.e2e.server_process import ServerProcess, run
from tollkeeper import AsyncClient, TollkeeperError

CALLERS = 8
BETWEEN = 50
"""Calls that are answered between two restarts."""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (what is awaited happens in other processes)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def load(client: AsyncClient, *, api_key: str, key_id: str) -> AsyncIterator[Counter[str]]:
    """Callers that verify, read and create all the time; what became of it is counted."""
    outcomes: Counter[str] = Counter()
    done = asyncio.Event()

    async def call(number: int) -> None:
        while not done.is_set():
            try:
                if number == 0:
                    await client.create_key(name="under load")
                elif number % 2:
                    (await client.verify(api_key)).raise_if_denied()
                else:
                    await client.get_key(key_id)
            except TollkeeperError as error:
                outcomes[str(error)] += 1
            else:
                outcomes["ok"] += 1
            await asyncio.sleep(0.005)  # leave the servers that start some of the processor

    async with asyncio.TaskGroup() as callers:
        for number in range(CALLERS):
            callers.create_task(call(number))
        try:
            yield outcomes
        finally:
            done.set()


async def test_rolling_restarts_of_real_servers_fail_no_call(own_stores: dict[str, str], tmp_path: Path) -> None:
    token = run("tollkeeper-server", "create-root-key", cwd=None, **own_stores).stdout.strip()
    settings = own_stores | {"DRAIN_SECONDS": "0.5"}
    listens = [f"127.0.0.1:{port}" for port in free_ports(2)]
    with ExitStack() as stack:
        servers = {listen: start(stack, tmp_path, listen, settings) for listen in listens}
        async with AsyncClient("ipv4:" + ",".join(listens), token=token) as client:
            created = await client.create_key(name="used")
            async with load(client, api_key=created.api_key, key_id=created.key.key_id) as outcomes:
                for listen in listens:
                    enough = outcomes["ok"] + BETWEEN
                    await eventually(lambda enough=enough: outcomes["ok"] >= enough)  # type: ignore[misc]
                    assert await asyncio.to_thread(servers[listen].stop) == 0
                    servers[listen] = await asyncio.to_thread(start, stack, tmp_path, listen, settings)
    assert outcomes.keys() == {"ok"}, outcomes


def start(stack: ExitStack, data_dir: Path, listen: str, settings: dict[str, str]) -> ServerProcess:
    return stack.enter_context(ServerProcess(data_dir, LISTEN=listen, **settings))
