"""The windows of QUOTA and SPEND limits: back to back, so that every moment lies in exactly one.

Windows of fixed length start at an anchor and repeat before and after it. Calendar windows start at the first moment of
a local day, week (Monday) or month, so a day may last 23 or 25 hours. Times are integers in microseconds since 1970.
"""

from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from tollkeeper_server.core.limits import CalendarWindow, Limit

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Window(NamedTuple):
    """A stretch of time: from ``starts_us`` on, up to and without ``ends_us``."""

    starts_us: int
    ends_us: int

    def contains(self, instant_us: int) -> bool:
        """Whether the moment lies in the window."""
        return self.starts_us <= instant_us < self.ends_us


def window_at(limit: Limit, *, created_at: datetime, instant_us: int) -> Window:
    """The window of ``limit`` that contains the moment; anchored at ``created_at`` unless the limit says where.

    Raises zoneinfo.ZoneInfoNotFoundError if this machine does not know the limit's time zone.
    """
    if limit.calendar is not None:
        return _calendar_window(limit.calendar, ZoneInfo(limit.time_zone), instant_us)
    assert limit.window_seconds is not None, "a limit has a window or a calendar"
    length_us = limit.window_seconds * 1_000_000
    anchor_us = microseconds(limit.anchor or created_at)
    starts_us = instant_us - (instant_us - anchor_us) % length_us
    return Window(starts_us, starts_us + length_us)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(microseconds: int) -> datetime:
    """The inverse of ``microseconds``, in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _calendar_window(calendar: CalendarWindow, zone: ZoneInfo, instant_us: int) -> Window:
    first = _first_day(calendar, moment(instant_us).astimezone(zone).date())
    while True:
        following = _next_first_day(calendar, first)
        ends_us = _midnight_us(following, zone)
        if instant_us < ends_us:
            return Window(_midnight_us(first, zone), ends_us)
        first = following  # clocks were set back over midnight: the repeated hour belongs to the day that had begun


def _first_day(calendar: CalendarWindow, day: date) -> date:
    if calendar is CalendarWindow.WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if calendar is CalendarWindow.MONTH else day


def _next_first_day(calendar: CalendarWindow, first: date) -> date:
    if calendar is CalendarWindow.MONTH:
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=7 if calendar is CalendarWindow.WEEK else 1)


def _midnight_us(day: date, zone: ZoneInfo) -> int:
    """The first moment of ``day``; where clocks skip midnight, the moment at which they do."""
    return microseconds(datetime(day.year, day.month, day.day, tzinfo=zone))
