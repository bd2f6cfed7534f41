"""Logging: one line per event, JSON or pretty, to one stream; libraries included, secrets not.

Events are constant snake_case names, what varies are fields. Nothing logs a request. Every line passes ``redaction``
twice: its values while they have names, and the finished text. Tracebacks come without local variables, where API keys
live.

Lines below WARNING are written together, once the event loop has nothing else to do that came before them. An event
with ``each``, a list of mappings, stands for as many lines.
"""

import asyncio
import atexit
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal, TextIO

import orjson
import structlog
from structlog.typing import Processor

from tollkeeper_server.api.redaction import mask, redact

LogFormat = Literal["auto", "json", "pretty"]
HELD_MAX = 1_000
"""So many lines are not held back."""

Line = Callable[[str, MutableMapping[str, Any]], bytes]
"""What a line looks like, by its level and what it tells."""
_ORJSON = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z

LogLevel = Literal["debug", "info", "warning", "error"]


def configure_logging(
    *,
    log_format: LogFormat,
    level: LogLevel,
    stream: TextIO | None = None,
    fields: Mapping[str, str | int] | None = None,
) -> None:
    """Send what this process logs to ``stream`` (standard error unless given), from ``level`` on.

    ``auto`` is pretty on a terminal and JSON elsewhere. Libraries are heard from WARNING on. ``fields`` are in every
    line.
    """
    stream = stream or sys.stderr
    pretty = log_format == "pretty" or (log_format == "auto" and stream.isatty())
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[*_with(fields or {}), _each(_pretty(colors=stream.isatty()) if pretty else _json)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Lines(stream.buffer),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=max(number, logging.WARNING), force=True)
    logging.captureWarnings(True)


def _with(fields: Mapping[str, str | int]) -> Iterator[Processor]:
    if fields:
        yield lambda _, __, event: {**event, **fields}


class _Lines:
    """Where lines go. A server that cannot log goes on serving."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._held: list[bytes] = []
        atexit.register(self._write)

    def hold(self, line: bytes) -> None:
        """Write the line together with those that come in the same turn of the event loop."""
        self._held.append(line)
        if len(self._held) >= HELD_MAX:
            self._write()
        if len(self._held) != 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self._write)
        except RuntimeError:  # none is running
            self._write()

    def write(self, line: bytes) -> None:
        """Write the line at once, after those that are held."""
        self._held.append(line)
        self._write()

    def _write(self) -> None:
        lines, self._held = self._held, []
        try:
            self._stream.write(b"\n".join([*lines, b""]))  # one system call, even where nothing buffers
            self._stream.flush()
        except (OSError, ValueError):  # the reader is gone, the disk is full, the stream is closed
            pass

    debug = info = hold
    warning = error = critical = write


class _FromLibraries(logging.Handler):
    """Hands on what libraries log with the standard library's means."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        try:
            message = record.getMessage()
        except Exception:
            message = "a log record with arguments that do not fit its text"
        structlog.get_logger().log(level, message, logger=record.name, exc_info=record.exc_info)


def _each(line: Line) -> Processor:
    """Masked lines: one for each of the mappings under ``each``, with what is common to all; one if there is none."""

    def lines(_: Any, level: str, event: MutableMapping[str, Any]) -> bytes:
        each = event.pop("each", None)
        if each is None:
            return mask(line(level, event))
        return mask(b"\n".join([line(level, {**event, **fields}) for fields in each]))

    return lines


def _json(level: str, event: MutableMapping[str, Any]) -> bytes:
    """Everything in one step, since there is a line for every call."""
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(None, level, event)
    moment = event.pop("timestamp", None)
    redact(None, level, event)
    event["level"] = level
    event["timestamp"] = moment or datetime.now(UTC)
    try:
        return orjson.dumps(event, default=_opaque, option=_ORJSON)
    except TypeError:  # integers beyond 64 bits, text that is not Unicode
        return json.dumps(event, default=_opaque, skipkeys=True).encode()


def _opaque(value: object) -> str:
    """Stands for what JSON does not know: its ``repr`` might tell a secret."""
    if isinstance(value, datetime):
        return value.isoformat()
    return f"<{type(value).__name__}>"


def _pretty(*, colors: bool) -> Line:
    render = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )

    def line(level: str, event: MutableMapping[str, Any]) -> bytes:
        event["level"] = level
        moment = event.pop("timestamp", None) or datetime.now(UTC)
        event["timestamp"] = moment.isoformat().replace("+00:00", "Z")
        return render(None, level, redact(None, level, event)).encode(errors="backslashreplace")

    return line
