"""Faults to plant in a client with a near-cache, and handicaps; see server_faults.py."""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tollkeeper import Decision
from tollkeeper._async.verification import AsyncVerificationCalls
from tollkeeper._near_cache import Change, NearCache, Question
from tollkeeper._watching import _Stream
from tollkeeper.v1 import verification_service_pb2 as pb

SLOW_FILL_SECONDS = 0.05
SLOW_CHANGE_SECONDS = 0.3
QUESTIONS_A_CLOCK = 2_000


def plant(names: str) -> None:
    """Break this process in every way named, separated by commas; no name leaves it as it is."""
    for name in filter(None, names.split(",")):
        _FAULTS[name]()


def _changes_delete() -> None:
    """A change removes what is kept, and leaves no tombstone against an answer that is on its way."""
    change = NearCache.change

    def delete(self: NearCache, changes: Iterable[Change], *, revision: int) -> None:
        change(self, changes, revision=revision)
        self._tombstones.clear()

    NearCache.change = delete  # type: ignore[method-assign]


def _reads_extend_age() -> None:
    """A decision that is given stays."""
    recall = NearCache.recall

    def touch(self: NearCache, question: Question, min_revision: int = 0) -> Decision | None:
        decision = recall(self, question, min_revision)
        if decision is not None:
            entry = self._entries[question]
            age = entry.ends_at - entry.sent_at
            entry.sent_at, entry.ends_at = self._clock(), self._clock() + age
        return decision

    NearCache.recall = touch  # type: ignore[method-assign]


def _clock_is_read_before() -> None:
    """Whether the lease holds is asked of a clock that is read for the first of many questions."""
    recall, questions, shown = NearCache.recall, itertools.count(), 0.0

    def ask(self: NearCache, question: Question, min_revision: int = 0) -> Decision | None:
        nonlocal shown
        clock = self._clock
        if next(questions) % QUESTIONS_A_CLOCK == 0:
            shown = clock()
        self._clock = lambda: shown
        try:
            return recall(self, question, min_revision)
        finally:
            self._clock = clock

    NearCache.recall = ask  # type: ignore[method-assign]


def _fills_are_slow() -> None:
    """A handicap: answers that could be kept come late."""
    verify = AsyncVerificationCalls._verify

    async def slowly(self: AsyncVerificationCalls, request: Any, timeout: float | None) -> Any:
        answer = await verify(self, request, timeout)
        if request.keep:
            await asyncio.sleep(SLOW_FILL_SECONDS)
        return answer

    AsyncVerificationCalls._verify = slowly  # type: ignore[method-assign]


def _changes_are_slow() -> None:
    """A handicap: this client hears of changes late."""
    read = _Stream._read

    async def slowly(self: _Stream) -> pb.WatchInvalidationsResponse | None:
        message = await read(self)
        if message is not None and message.invalidations:
            await asyncio.sleep(SLOW_CHANGE_SECONDS)
        return message

    _Stream._read = slowly  # type: ignore[method-assign]


_FAULTS: Mapping[str, Callable[[], None]] = {
    "changes delete": _changes_delete,
    "reads extend age": _reads_extend_age,
    "clock is read before": _clock_is_read_before,
    "fills are slow": _fills_are_slow,
    "changes are slow": _changes_are_slow,
}
