"""What may happen to servers, clients, the ways between them, and Postgres; drawn by a seed."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tests.faults.history.links import Link
from tests.faults.history.record import now
from tests.faults.history.rig import Rig
from tests.integration.postgres_process import PostgresProcess

One = TypeVar("One")

HANG_SECONDS = (0.3, 3.0)
QUIET_SECONDS = (0.2, 1.0)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that happened."""

    kind: str
    which: int
    began: int
    ended: int


class Chaos:
    """One trouble after the other, each kind as often as every other."""

    def __init__(self, rig: Rig, postgres: PostgresProcess, chance: random.Random) -> None:
        self._rig = rig
        self._postgres = postgres
        self._chance = chance
        self.troubles: list[Trouble] = []

    async def play(self, *, rounds: int) -> None:
        """So many rounds of every kind, in any order."""
        kinds = [
            self._pause_client,
            self._pause_server,
            self._cut_client_off,
            self._swallow_what_client_says,
            self._kill_server,
            self._kill_postgres,
        ]
        for _ in range(rounds):
            self._chance.shuffle(kinds)
            for kind in kinds:
                await asyncio.sleep(self._chance.uniform(*QUIET_SECONDS))
                began = now()
                which = await kind()
                self.troubles.append(Trouble(kind.__name__.strip("_"), which, began, now()))

    async def _pause_client(self) -> int:
        return await self._for_a_while(self._rig.verifying, lambda it: it.pause(), lambda it: it.resume())

    async def _pause_server(self) -> int:
        return await self._for_a_while(self._rig.servers, lambda it: it.pause(), lambda it: it.resume())

    async def _cut_client_off(self) -> int:
        return await self._for_a_while(self._rig.links, partial(_each, Link.cut), partial(_each, Link.heal))

    async def _swallow_what_client_says(self) -> int:
        return await self._for_a_while(self._rig.links, partial(_each, Link.swallow), partial(_each, Link.heal))

    async def _for_a_while(
        self, them: Sequence[One], begin: Callable[[One], object], end: Callable[[One], object]
    ) -> int:
        which = self._chance.randrange(len(them))
        begin(them[which])
        await asyncio.sleep(self._chance.uniform(*HANG_SECONDS))
        end(them[which])
        return which

    async def _kill_server(self) -> int:
        which = self._chance.randrange(len(self._rig.servers))
        await self._rig.replace(which)
        return which

    async def _kill_postgres(self) -> int:
        await self._postgres.kill()
        await asyncio.sleep(self._chance.uniform(0, 1))
        await self._postgres.start()
        return 0


def _each(change: Callable[[Link], None], links: Sequence[Link]) -> None:
    for link in links:
        change(link)
