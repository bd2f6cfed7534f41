"""Verifications that were begun: those that memory could answer have their outcome, the others cost a task each."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any

from tollkeeper_server.core.decision import Decision
from tollkeeper_server.core.errors import TollkeeperError

Outcome = Decision | TollkeeperError
Told = bytes | Outcome
"""An outcome, or what is to be told of one, as it will be sent."""
Begun = Told | Coroutine[Any, Any, Outcome]
"""An outcome, or the work that is left until there is one."""

_TOLD = (bytes, Decision, TollkeeperError)


async def together(begun: Sequence[Begun]) -> list[Told]:
    """All outcomes, in order, once the last one is there."""
    late = iter(await asyncio.gather(*(each for each in begun if not isinstance(each, _TOLD))))
    return [each if isinstance(each, _TOLD) else next(late) for each in begun]


def at_once(begun: Sequence[Begun]) -> dict[int, Told]:
    """The outcomes that are there already, by position."""
    return {position: each for position, each in enumerate(begun) if isinstance(each, _TOLD)}


async def as_they_come(begun: Sequence[Begun]) -> AsyncGenerator[dict[int, Outcome], None]:
    """The other outcomes by position, and in its order; those of the same moment together. Close it to end the work."""
    ended: list[int] = []
    changed = asyncio.Event()

    def note(position: int) -> None:
        ended.append(position)
        changed.set()

    late = {}
    for position, each in enumerate(begun):
        if not isinstance(each, _TOLD):
            late[position] = task = asyncio.create_task(each)
            task.add_done_callback(lambda _, position=position: note(position))  # type: ignore[misc]
    try:
        while late:
            await changed.wait()
            changed.clear()
            part = {position: late.pop(position).result() for position in sorted(ended)}
            ended.clear()
            yield part
    finally:
        for task in late.values():
            task.cancel()
        await asyncio.gather(*late.values(), return_exceptions=True)
