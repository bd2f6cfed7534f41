"""Calls that come close upon one another wait for one another, and are handled and answered together.

From one call to the next gRPC runs through megabytes of code, and it wakes a thread for each answer. For many calls in
a row all that is cheaper, the more so the more they are. So under load a call waits for others to come; where load is
too low for that to pay, none waits.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

WAIT_SECONDS = 0.002
"""No call waits for longer."""
BUNCH_MIN = 8
"""Fewer calls than this, in WAIT_SECONDS, were not worth to be waited for."""
TRIED_FROM = 4
"""So many calls in one turn of the event loop are a sign that there may be enough of them."""
CREDIT_MAX = 8
"""So many bunches in a row that are too small, at most, until calls are waited for no more."""
REST_CALLS = 64
"""So many calls, at least, are then handled at once."""

T = TypeVar("T")


class Bunches:
    """Makes bunches of calls. Callers come back: a bunch leaves once as many have come as were in the one before."""

    def __init__(self) -> None:
        self._bunch: list[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self._expected: int | None = None
        """How many calls complete the bunch; None for all that come in time."""
        self._leaves: asyncio.Handle | None = None
        """What lets the bunch go."""
        self._credit = 0
        """Of bunches that may be too small before calls are waited for no more. None are while it is 0."""
        self._rest = 0
        self._in_turn = 0

    def join(self, handle: Callable[..., T], *arguments: Any) -> asyncio.Future[T] | None:
        """What will come of ``handle(*arguments)`` once the bunch leaves; None if the call need not wait for others.

        A call that is cancelled before leaves without harm to the rest, and so does one that fails.
        """
        if self._credit:
            return self._join(handle, arguments)
        if self._rest:
            self._rest -= 1
            return None
        self._in_turn += 1
        if self._in_turn == 1:
            asyncio.get_running_loop().call_soon(self._end_turn)
        return None

    def _join(self, handle: Callable[..., T], arguments: tuple[Any, ...]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        place: asyncio.Future[T] = loop.create_future()
        self._bunch.append((place, handle, arguments))
        if self._leaves is None:
            self._leaves = loop.call_later(WAIT_SECONDS, self._leave)
        elif len(self._bunch) == self._expected:
            self._leaves.cancel()
            self._leaves = loop.call_soon(self._leave)  # what comes in the same turn of the loop goes along
        return place

    def _end_turn(self) -> None:
        if self._in_turn >= TRIED_FROM:
            self._credit, self._expected = 1, None
        self._in_turn = 0

    def _leave(self) -> None:
        bunch, self._bunch, self._leaves = self._bunch, [], None
        if len(bunch) >= BUNCH_MIN:
            self._credit, self._expected = min(self._credit + 1, CREDIT_MAX), len(bunch)
        else:
            self._credit, self._rest = self._credit - 1, REST_CALLS
        for place, handle, arguments in bunch:
            if place.done():  # cancelled
                continue
            try:
                place.set_result(handle(*arguments))
            except Exception as fault:
                place.set_exception(fault)
