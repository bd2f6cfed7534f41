"""Windows of QUOTA and SPEND limits: every moment lies in exactly one."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.core.limits import CalendarWindow, Limit, LimitKind
from tollkeeper_server.core.windows import Window, microseconds, moment, window_at

ZONES = ("Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Africa/Cairo", "Pacific/Apia", "UTC")
HOUR = timedelta(hours=1)


def limit(
    seconds: int | None = None, calendar: CalendarWindow | None = None, zone: str = "UTC", **fields: datetime
) -> Limit:
    return Limit(
        name="l",
        kind=LimitKind.QUOTA,
        unit="requests",
        amount=1,
        window_seconds=seconds,
        calendar=calendar,
        time_zone=zone,
        **fields,  # type: ignore[arg-type]
    )


def window(
    of: Limit, at: datetime, *, created_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
) -> tuple[datetime, datetime]:
    found = window_at(of, created_at=created_at, instant_us=microseconds(at))
    assert found.contains(microseconds(at))
    return moment(found.starts_us), moment(found.ends_us)


@pytest.mark.parametrize("days", [1, 7, 30])
def test_windows_of_fixed_length_repeat_from_the_anchor_before_and_after_it(days: int) -> None:
    anchor, length = datetime(2026, 3, 5, 17, 30, 15, 250_000, tzinfo=UTC), timedelta(days=days)
    its = limit(days * 86_400, anchor=anchor)
    for number in (-3, 0, 1, 100):
        start = anchor + number * length
        tick = timedelta(microseconds=1)
        assert window(its, start) == window(its, start + length - tick) == (start, start + length)
        assert window(its, start - tick) == (start - length, start)


def test_without_an_anchor_windows_start_when_the_key_was_created() -> None:
    created = datetime(2026, 2, 28, 23, 59, tzinfo=UTC)
    assert window(limit(86_400), created + 25 * HOUR, created_at=created)[0] == created + 24 * HOUR


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("America/New_York", date(2026, 3, 8), 23),
        ("America/New_York", date(2026, 11, 1), 25),
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
        ("Africa/Cairo", date(2026, 4, 24), 23),  # begins at 1 o'clock
        ("Asia/Tokyo", date(2026, 3, 29), 24),
        ("America/St_Johns", date(2006, 10, 28), 24),  # clocks went back to it a minute after it had ended
        ("UTC", date(2028, 2, 29), 24),
    ],
)
def test_a_calendar_day_lasts_as_long_as_its_zone_says(zone: str, day: date, hours: float) -> None:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone))
    start, end = window(limit(calendar=CalendarWindow.DAY, zone=zone), noon)
    assert start.astimezone(ZoneInfo(zone)).date() == day
    assert end - start == hours * HOUR


def test_weeks_begin_on_monday_and_months_on_the_first_also_in_leap_years() -> None:
    leap = datetime(2028, 2, 29, 12, tzinfo=UTC)
    assert window(limit(calendar=CalendarWindow.MONTH), leap) == (
        datetime(2028, 2, 1, tzinfo=UTC),
        datetime(2028, 3, 1, tzinfo=UTC),
    )
    assert window(limit(calendar=CalendarWindow.WEEK), leap) == (
        datetime(2028, 2, 28, tzinfo=UTC),
        datetime(2028, 3, 6, tzinfo=UTC),
    )
    december = window(limit(calendar=CalendarWindow.MONTH), datetime(2027, 12, 31, 23, tzinfo=UTC))
    assert december[1] == datetime(2028, 1, 1, tzinfo=UTC)


@given(
    at=st.datetimes(min_value=datetime(1985, 1, 1), max_value=datetime(2037, 1, 1), timezones=st.just(UTC)),
    zone=st.sampled_from(ZONES),
    calendar=st.sampled_from(CalendarWindow),
)
def test_calendar_windows_lie_back_to_back(at: datetime, zone: str, calendar: CalendarWindow) -> None:
    its = limit(calendar=calendar, zone=zone)
    start, end = window(its, at)
    tick = timedelta(microseconds=1)
    assert window(its, start) == window(its, end - tick) == (start, end)
    assert window(its, end)[0] == end
    assert window(its, start - tick)[1] == start


def test_a_window_contains_its_start_and_not_its_end() -> None:
    assert [Window(10, 20).contains(instant) for instant in (9, 10, 19, 20)] == [False, True, True, False]
