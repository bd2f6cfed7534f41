"""The access log: one line for each call, written many at a time.

To write a line takes longer than to decide a call, and least when it is done for many at once. So calls are told to the
log as they end, and their lines are written a few milliseconds later: the last of them are lost if the process is
killed. A server that is stopped writes all of them first.
"""

import asyncio
import logging
import time
from typing import Any, Protocol

from structlog.typing import FilteringBoundLogger

FLUSH_SECONDS = 0.005
PENDING_MAX = 256
"""So many lines are not kept waiting."""


class Told(Protocol):
    """A call that has ended, and what is told of it."""

    ended_at: float
    """When that was, in seconds since 1970."""

    def log_fields(self) -> dict[str, Any]: ...


class AccessLog:
    """Gathers calls, and writes their lines to ``log``, in the order in which they ended."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log.bind()  # once, not at each call
        self._is_heard = self._log.is_enabled_for(logging.INFO)
        self._pending: list[Told] = []

    def tell(self, call: Told) -> None:
        """Write a line for ``call`` soon, unless lines of that level are not logged."""
        if not self._is_heard:
            return
        call.ended_at = time.time()
        self._pending.append(call)
        pending = len(self._pending)
        if pending == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        elif pending >= PENDING_MAX:
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait."""
        pending, self._pending = self._pending, []
        if pending:
            self._log.info("call", each=[call.log_fields() for call in pending])
