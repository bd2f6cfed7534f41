"""The access log loses no line: one for each call, in order, soon, and all of them before the server is gone."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Self

import pytest

from tollkeeper_server.api.access_log import FLUSH_SECONDS, PENDING_MAX, AccessLog
from tollkeeper_server.api.call import Call


class Log:
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.told = asyncio.Event()

    def bind(self) -> Self:
        return self

    def is_enabled_for(self, _level: int) -> bool:
        return True

    def info(self, event: str, *, each: Sequence[dict[str, Any]]) -> None:
        self.lines += [{"event": event, **fields} for fields in each]
        self.told.set()

    @property
    def request_ids(self) -> list[str]:
        return [line["request_id"] for line in self.lines]


def access_log(log: Log) -> AccessLog:
    return AccessLog(log)  # type: ignore[arg-type]  # has what is used of a logger


def call(request_id: str) -> Call:
    ended = Call("Verify", "192.0.2.1")
    ended.request_id = request_id
    return ended


async def test_lines_are_written_soon_and_together_and_in_order() -> None:
    log = Log()
    access = access_log(log)
    for request_id in ("1", "2", "3"):
        access.tell(call(request_id))
    assert log.lines == []
    await asyncio.wait_for(log.told.wait(), FLUSH_SECONDS + 5)
    assert log.request_ids == ["1", "2", "3"]


async def test_a_line_tells_when_its_call_ended_not_when_it_was_written() -> None:
    log = Log()
    access = access_log(log)
    before = datetime.now(UTC)
    access.tell(call("1"))
    after = datetime.now(UTC)
    await asyncio.wait_for(log.told.wait(), FLUSH_SECONDS + 5)
    assert before <= log.lines[0]["timestamp"] <= after


async def test_no_more_lines_wait_than_are_allowed_to() -> None:
    log = Log()
    access = access_log(log)
    for number in range(PENDING_MAX + 1):
        access.tell(call(str(number)))
    assert len(log.lines) == PENDING_MAX
    await asyncio.sleep(2 * FLUSH_SECONDS)
    assert log.request_ids == [str(number) for number in range(PENDING_MAX + 1)]


async def test_what_waits_is_written_once_when_the_server_stops() -> None:
    log = Log()
    access = access_log(log)
    access.tell(call("1"))
    access.flush()
    await asyncio.sleep(2 * FLUSH_SECONDS)
    assert log.request_ids == ["1"]


async def test_nothing_waits_where_lines_of_that_level_are_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Log, "is_enabled_for", lambda _, level: level > logging.INFO)
    access = access_log(Log())
    access.tell(call("1"))
    assert access._pending == []
