"""Logging: one line per event, JSON or pretty, to one stream; libraries included, secrets not.

Events are constant snake_case names, what varies are fields. Nothing logs a request. Every line passes ``redaction``
twice: its values while they have names, and the finished text.
"""

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, BinaryIO, Literal, TextIO

import orjson
import structlog
from structlog.typing import Processor

from tollkeeper_server.api.redaction import mask, mask_bytes, redact

LogFormat = Literal["auto", "json", "pretty"]
LogLevel = Literal["debug", "info", "warning", "error"]


def configure_logging(*, log_format: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Send what this process logs to ``stream`` (standard error unless given), from ``level`` on.

    ``auto`` is pretty on a terminal and JSON elsewhere. Libraries are heard from WARNING on.
    """
    stream = stream or sys.stderr
    pretty = log_format == "pretty" or (log_format == "auto" and stream.isatty())
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            *(_pretty(colors=stream.isatty()) if pretty else _JSON),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Lines(stream.buffer),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=max(number, logging.WARNING), force=True)
    logging.captureWarnings(True)


class _Lines:
    """Where lines go. A server that cannot log goes on serving."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, line: bytes) -> None:
        try:
            self._stream.write(line + b"\n")
            self._stream.flush()
        except (OSError, ValueError):  # the reader is gone, the disk is full, the stream is closed
            pass

    debug = info = warning = error = critical = write


class _FromLibraries(logging.Handler):
    """Hands on what libraries log with the standard library's means."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        try:
            message = record.getMessage()
        except Exception:
            message = "a log record with arguments that do not fit its text"
        structlog.get_logger().log(level, message, logger=record.name, exc_info=record.exc_info)


def _json(_: Any, __: str, event: MutableMapping[str, Any]) -> bytes:
    try:
        line = orjson.dumps(event, default=_opaque, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # integers beyond 64 bits, text that is not Unicode
        line = json.dumps(event, default=_opaque, skipkeys=True).encode()
    return mask_bytes(line)


def _opaque(value: object) -> str:
    """Stands for what JSON does not know: its ``repr`` might tell a secret."""
    return f"<{type(value).__name__}>"


# Neither way of rendering a traceback shows local variables: API keys live there.
_JSON: tuple[Processor, ...] = (structlog.processors.format_exc_info, _json)


def _pretty(*, colors: bool) -> tuple[Processor, ...]:
    render = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )
    return (render, lambda _, __, line: mask(str(line)).encode(errors="backslashreplace"))
