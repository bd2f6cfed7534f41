"""Limits: bounds on how much of a unit may be used over a window of time."""

import enum
from dataclasses import dataclass
from datetime import datetime

from tollkeeper_server.core.value import value

LIMITS_MAX = 16
"""Most limits on one key, and on one owner."""

AMOUNT_MAX = 10**15
"""Largest amount of a limit or a charge; exact in a double, as Lua scripts count."""

WINDOW_SECONDS_MAX = 366 * 86_400


class LimitKind(enum.StrEnum):
    """How a limit counts, and how hard it holds."""

    RATE = "RATE"
    QUOTA = "QUOTA"
    SPEND = "SPEND"


class CalendarWindow(enum.StrEnum):
    """A window that follows the calendar of a time zone."""

    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"


class LimitScope(enum.StrEnum):
    """What a limit's counter belongs to."""

    KEY = "KEY"
    OWNER = "OWNER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most ``amount`` of ``unit`` in each window.

    The window is ``window_seconds`` long, or the ``calendar`` day, week or month of ``time_zone``; exactly one of the
    two is set. RATE limits slide, so they have neither calendar nor ``anchor``.
    """

    name: str
    kind: LimitKind
    unit: str
    amount: int
    window_seconds: int | None = None
    calendar: CalendarWindow | None = None
    time_zone: str = "UTC"
    anchor: datetime | None = None
    """Where windows of fixed length start counting; None means the creation of the key or owner."""
    shadow: bool = False
    """Counts and reports, and never denies."""


@value
class LimitState:
    """Where a limit stands after a charge or, where nothing was charged, as it is."""

    name: str
    kind: LimitKind
    unit: str
    limit: int
    used: int
    reset_at: datetime | None
    """When ``used`` falls to 0 if nothing more is charged; None if nothing is counted."""
    exceeded: bool
    """The charge asked for does not fit."""
    shadow: bool
    scope: LimitScope

    @property
    def remaining(self) -> int:
        """Units still allowed in the current window."""
        return max(0, self.limit - self.used)
