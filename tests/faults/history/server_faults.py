"""Faults to plant in a server: what each protection of R0 is for, switched off.

A handicap breaks no rule. It only makes wider the moment in which a fault shows, so that no luck is needed to see it;
with the handicap alone nothing may be stale.
"""

import asyncio
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tollkeeper_server import app
from tollkeeper_server.core.cache import Absence, RecordCache
from tollkeeper_server.core.decision import Kept
from tollkeeper_server.core.sessions import Session, Sessions
from tollkeeper_server.keys.commands import Propagation
from tollkeeper_server.keys.propagation import Confirmations
from tollkeeper_server.quota import charger
from tollkeeper_server.verify.directory import KeyDirectory
from tollkeeper_server.verify.replica import Replica

SLOW_FILL_SECONDS = 0.05
SLOW_CHANGE_SECONDS = 0.5
SHORT_AGE_SECONDS = 2.0
QUESTIONS_A_CLOCK = 20_000


def plant(names: str) -> None:
    """Break this process in every way named, separated by commas; no name leaves it as it is."""
    for name in filter(None, names.split(",")):
        _FAULTS[name]()


def _mutations_do_not_wait() -> None:
    """Mutations return when they are committed, whatever the caches say."""

    async def wait(self: Confirmations, revision: int) -> tuple[Propagation, datetime]:
        return Propagation.EVERYWHERE, datetime.now(UTC)

    Confirmations.wait = wait  # type: ignore[method-assign]


def _clients_are_not_waited_for() -> None:
    """A server acknowledges what it has applied itself, whatever its clients say."""

    def frontier(self: Sessions, now: float) -> int:
        return self.revision

    Sessions.frontier = frontier  # type: ignore[method-assign]


def _lost_clients_are_forgotten() -> None:
    """Who watches no more is not waited for, though its lease may hold."""
    close = Sessions.close

    def forget(self: Sessions, session: Session, *, now: float) -> None:
        session.give_up()
        close(self, session, now=now)

    Sessions.close = forget  # type: ignore[method-assign]


def _changes_delete() -> None:
    """A change removes what is stored, and leaves no tombstone against what is just being read."""
    change = RecordCache.change

    def delete(self: RecordCache[Any], subject: Hashable, *, revision: int) -> None:
        change(self, subject, revision=revision)
        self._tombstones.clear()

    RecordCache.change = delete  # type: ignore[method-assign]


def _reads_extend_age() -> None:
    """An entry that is used stays."""
    get = RecordCache.get

    def touch(self: RecordCache[Any], digest: bytes, *, now: float) -> Any:
        value = get(self, digest, now=now)
        if not isinstance(value, Absence):
            self._entries[digest] = replace(self._entries[digest], stored_at=now)
        return value

    RecordCache.get = touch  # type: ignore[method-assign]


def _clock_is_read_before() -> None:
    """Whether the lease holds is asked of a clock that is read for the first of many questions."""
    shown, questions = 0.0, itertools.count()

    def ask(self: Replica) -> bool:
        nonlocal shown
        if next(questions) % QUESTIONS_A_CLOCK == 0:
            shown = self._clock()
        return self._lease.holds(shown)

    Replica.may_answer = ask  # type: ignore[method-assign]


def _precedents_are_believed() -> None:
    """What was allowed before is allowed again, whatever has become of the record behind it."""

    def holds(self: KeyDirectory, *_: Any) -> bool:
        return True

    KeyDirectory.holds = holds  # type: ignore[method-assign]


def _fills_are_slow() -> None:
    """A handicap: what was read from Postgres comes late."""
    read = KeyDirectory._read

    async def slowly(self: KeyDirectory, digests: Sequence[bytes]) -> Any:
        found = await read(self, digests)
        await asyncio.sleep(SLOW_FILL_SECONDS)
        return found

    KeyDirectory._read = slowly  # type: ignore[method-assign]


def _changes_are_slow() -> None:
    """A handicap: a server hears of changes late."""
    catch_up = Replica._catch_up

    async def slowly(self: Replica, connection: Any) -> None:
        await asyncio.sleep(SLOW_CHANGE_SECONDS)
        await catch_up(self, connection)

    Replica._catch_up = slowly  # type: ignore[method-assign]


def _age_is_short() -> None:
    """A handicap: entries live for two seconds, here and in clients."""
    app.CACHE_BOUNDS["age_max_seconds"] = SHORT_AGE_SECONDS  # type: ignore[assignment]
    usable_for = timedelta(seconds=SHORT_AGE_SECONDS)
    charger._KEPT_UNLIMITED = replace(charger._KEPT_UNLIMITED, kept=Kept(verifications=0, usable_for=usable_for))


_FAULTS: Mapping[str, Callable[[], None]] = {
    "mutations do not wait": _mutations_do_not_wait,
    "clients are not waited for": _clients_are_not_waited_for,
    "lost clients are forgotten": _lost_clients_are_forgotten,
    "changes delete": _changes_delete,
    "reads extend age": _reads_extend_age,
    "clock is read before": _clock_is_read_before,
    "precedents are believed": _precedents_are_believed,
    "fills are slow": _fills_are_slow,
    "changes are slow": _changes_are_slow,
    "age is short": _age_is_short,
}
