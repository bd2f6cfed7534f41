"""What a process under test writes down: one fixed-size record for each verification, in a file of its own.

Times are nanoseconds of CLOCK_BOOTTIME, which all processes of a machine share.
"""

import enum
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_RECORD = struct.Struct("<IBBxxqq")
_RECORDS_BUFFERED = 2_000


class Way(enum.IntEnum):
    """How a verification was asked for."""

    CLIENT = 0
    """As users of the client ask: from its near-cache, if it has one."""
    UNARY = 1
    BATCH = 2
    STREAM = 3


class Outcome(enum.IntEnum):
    """What came of a verification."""

    DENIED = 0
    ALLOWED = 1
    FAILED = 2
    """No decision was made."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One verification."""

    secret: int
    """Number of the API key that was verified."""
    way: Way
    outcome: Outcome
    started: int
    ended: int


def now() -> int:
    """The time, as it is recorded."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Recorder:
    """Appends records to ``path``, many at a time."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._buffer = bytearray(_RECORD.size * _RECORDS_BUFFERED)
        self._used = 0

    def add(self, secret: int, way: Way, outcome: Outcome, started: int, ended: int) -> None:
        """Record one verification."""
        _RECORD.pack_into(self._buffer, self._used, secret, way, outcome, started, ended)
        self._used += _RECORD.size
        if self._used == len(self._buffer):
            self.flush()

    def flush(self) -> None:
        """Write what is recorded so far."""
        self._file.write(memoryview(self._buffer)[: self._used])
        self._used = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.flush()
        self._file.close()


class Records:
    """Reads what a recorder has written, on from where it was read before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> Iterator[tuple[int, int, int, int, int]]:
        """The records since the last time: secret, way, outcome, started, ended."""
        if not self._path.exists():
            return iter(())
        with self._path.open("rb") as file:
            file.seek(self._offset)
            written = file.read()
        whole = len(written) - len(written) % _RECORD.size
        self._offset += whole
        return _RECORD.iter_unpack(written[:whole])
