"""Callers that never pause, so that a call that fails while servers come and go is seen."""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress

from tollkeeper import AsyncClient, TollkeeperError

CALLERS = 8
BETWEEN = 50
"""Calls that are answered between two events."""


def free_ports(count: int) -> list[int]:
    """Ports below those of outgoing connections: none of these takes one while its server is down."""
    with ExitStack() as stack:
        free: list[int] = []
        for port in random.sample(range(20_000, 32_000), 1_000):
            with suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                free.append(port)
            if len(free) == count:
                return free
    raise AssertionError("no port is free")


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (what is awaited happens in other processes)
            await asyncio.sleep(0.01)


class Outcomes(Counter[str]):
    """How many calls came out how: ``ok``, or the error."""

    async def more(self, count: int = BETWEEN) -> None:
        """Wait until so many more have been answered."""
        enough = self["ok"] + count
        await eventually(lambda: self["ok"] >= enough)


@asynccontextmanager
async def load(client: AsyncClient, *, api_key: str, key_id: str) -> AsyncIterator[Outcomes]:
    """Callers that verify, read and create all the time; what became of it is counted."""
    outcomes = Outcomes()
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
