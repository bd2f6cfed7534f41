"""Log lines: whole, readable by machines, free of secrets, and never the reason why a call fails."""

import asyncio
import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from tollkeeper.v1 import verification_service_pb2
from tollkeeper_server.api.logs import LogFormat, LogLevel, configure_logging

API_KEY = "tk_" + "Ab1" * 14


class Stream(io.TextIOWrapper):
    """A stream like standard error, on a terminal or not."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def text(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def configured(log_format: LogFormat = "json", level: LogLevel = "info", *, terminal: bool = False) -> Stream:
    stream = Stream(terminal=terminal)
    configure_logging(log_format=log_format, level=level, stream=stream)
    return stream


def test_a_line_is_json_with_event_level_and_a_moment_in_utc() -> None:
    stream = configured()
    structlog.get_logger().info("server_started", address="127.0.0.1:50051")
    (event,) = stream.events
    moment = datetime.fromisoformat(event.pop("timestamp"))
    assert moment.tzinfo == UTC
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert event == {"event": "server_started", "level": "info", "address": "127.0.0.1:50051"}


@pytest.mark.parametrize(
    ("log_format", "terminal", "is_json"),
    [("auto", True, False), ("auto", False, True), ("pretty", False, False), ("json", True, True)],
)
def test_lines_are_pretty_on_a_terminal_or_where_asked_for(
    log_format: LogFormat, terminal: bool, is_json: bool
) -> None:
    stream = configured(log_format, terminal=terminal)
    structlog.get_logger().info("server_started")
    assert stream.text.startswith("{") == is_json
    assert ("\x1b[" in stream.text) == (terminal and not is_json)


def test_what_is_less_severe_than_the_level_is_not_logged() -> None:
    stream = configured(level="warning")
    structlog.get_logger().info("unseen")
    structlog.get_logger().warning("seen")
    assert [event["event"] for event in stream.events] == ["seen"]


def test_libraries_are_heard_from_warning_on_and_on_the_same_stream() -> None:
    stream = configured(level="debug")
    logging.getLogger("asyncpg").info("unseen")
    logging.getLogger("redis").warning("connection %s lost", 7)
    (lost,) = stream.events
    assert (lost["event"], lost["logger"], lost["level"]) == ("connection 7 lost", "redis", "warning")


@pytest.mark.filterwarnings("default")
def test_warnings_of_python_are_log_lines_too() -> None:
    stream = configured()
    warnings.warn("old habit", UserWarning, stacklevel=1)
    (warned,) = stream.events
    assert "old habit" in warned["event"]
    assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")


def test_a_broken_record_of_a_library_does_not_show_its_arguments() -> None:
    stream = configured()
    logging.getLogger("redis").error("two %s %s", "secret")
    (event,) = stream.events
    assert "secret" not in str(event)


@pytest.mark.parametrize("log_format", ["json", "pretty"])
def test_a_traceback_tells_where_but_neither_variables_nor_api_keys(log_format: LogFormat) -> None:
    stream = configured(log_format)
    in_a_variable = "variable".upper()
    try:
        raise ValueError(f"{API_KEY} is odd")
    except ValueError as error:
        structlog.get_logger().error("call_failed", exc_info=error)
        logging.getLogger("grpc").exception("library")
    assert in_a_variable not in stream.text
    assert API_KEY not in stream.text
    assert stream.text.count("ValueError: tk_[redacted] is odd") == 2
    assert stream.text.count("Traceback") == 2


@pytest.mark.parametrize("log_format", ["json", "pretty"])
def test_no_line_carries_an_api_key(log_format: LogFormat) -> None:
    stream = configured(log_format)
    log = structlog.get_logger()
    log.info("by_shape", key_id=API_KEY)
    log.info("by_name", api_key="imported", metadata=(("authorization", "Bearer imported"),))
    log.info("by_contract", request=verification_service_pb2.VerifyRequest(api_key="imported", resource="api"))
    logging.getLogger("grpc").error("call of %s", API_KEY)
    assert API_KEY not in stream.text
    assert "imported" not in stream.text
    assert len(stream.text.splitlines()) == 4


async def test_lines_of_one_turn_of_the_loop_are_written_together_and_none_passes_another() -> None:
    stream = configured()
    log = structlog.get_logger()
    log.info("first")
    log.info("second")
    assert stream.events == []
    await asyncio.sleep(0)
    assert [event["event"] for event in stream.events] == ["first", "second"]
    log.info("third")
    log.warning("fourth")  # is written at once
    assert [event["event"] for event in stream.events] == ["first", "second", "third", "fourth"]
    await asyncio.sleep(0)
    assert len(stream.events) == 4


def test_what_a_process_logged_last_is_written_before_it_ends() -> None:
    program = """
import asyncio, structlog
from tollkeeper_server.api.logs import configure_logging

async def main():
    structlog.get_logger().info("last")
    raise SystemExit(3)

configure_logging(log_format="json", level="info")
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 3
    assert json.loads(ended.stderr)["event"] == "last"


@pytest.mark.parametrize("log_format", ["json", "pretty"])
def test_a_line_tells_the_moment_that_it_is_given(log_format: LogFormat) -> None:
    stream = configured(log_format)
    structlog.get_logger().info("call", timestamp=datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC))
    assert "2026-01-02T03:04:05.678900Z" in stream.text


def test_values_that_json_does_not_know_are_named_by_their_type_alone() -> None:
    stream = configured()

    class Holder:
        def __repr__(self) -> str:
            return "secret"

    structlog.get_logger().info("odd", holder=Holder(), data=b"secret", huge=2**70, lone="\ud800")
    (event,) = stream.events
    assert (event["holder"], event["data"], event["huge"]) == ("<Holder>", "<bytes>", 2**70)


@pytest.mark.parametrize("log_format", ["json", "pretty"])
def test_a_stream_that_takes_no_more_lines_breaks_nothing(log_format: LogFormat) -> None:
    stream = configured(log_format)
    stream.buffer.close()
    structlog.get_logger().info("unseen", lone="\ud800")
    logging.getLogger("redis").warning("unseen")
