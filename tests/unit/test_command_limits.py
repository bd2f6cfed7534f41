"""Limits on the command line: what people write is what the key gets, exactly, or refused."""

import shlex
from datetime import timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper import CalendarWindow, Limit, LimitKind
from tollkeeper.command.limits import GRAMMAR, describe, limit_parser, parse_duration, parse_limit, quantity

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("kind", "text", "limit"),
    [
        (LimitKind.RATE, "5/minute", Limit.rate("per-minute", 5, MINUTE)),
        (LimitKind.RATE, "burst=20/10s", Limit.rate("burst", 20, timedelta(seconds=10))),
        (LimitKind.RATE, "20/10s", Limit.rate("per-10-seconds", 20, timedelta(seconds=10))),
        (LimitKind.RATE, "100_000 tokens/h", Limit.rate("tokens-per-hour", 100_000, HOUR, unit="tokens")),
        (LimitKind.RATE, "100 tokens/2hours", Limit.rate("tokens-per-2-hours", 100, 2 * HOUR, unit="tokens")),
        (LimitKind.QUOTA, "50000/30d", Limit.quota("quota-per-30-days", 50_000, 30 * DAY)),
        (LimitKind.QUOTA, "7/calendar-week", Limit.quota("quota-per-calendar-week", 7, CalendarWindow.WEEK)),
        (
            LimitKind.SPEND,
            "5.00/calendar-day@Europe/Berlin",
            Limit.spend("spend-per-calendar-day", "5.00", CalendarWindow.DAY, time_zone="Europe/Berlin"),
        ),
        (LimitKind.SPEND, "eur=0.000001 eur/w", Limit.spend("eur", "0.000001", 7 * DAY, unit="eur")),
    ],
)
def test_a_limit_is_read_as_written(kind: LimitKind, text: str, limit: Limit) -> None:
    assert parse_limit(text, kind) == limit
    assert limit_parser(kind)(text) == limit


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (LimitKind.RATE, ""),
        (LimitKind.RATE, "5"),
        (LimitKind.RATE, "5/"),
        (LimitKind.RATE, "/minute"),
        (LimitKind.RATE, "-5/minute"),
        (LimitKind.RATE, "5k/minute"),
        (LimitKind.RATE, "5/month"),
        (LimitKind.RATE, "5/1.5h"),
        (LimitKind.RATE, "5/99999999999999w"),
        (LimitKind.RATE, "1.5/minute"),
        (LimitKind.RATE, "5/calendar-day"),
        (LimitKind.RATE, "5/minute@Europe/Berlin"),
        (LimitKind.QUOTA, "0.5/day"),
        (LimitKind.SPEND, "0.0000001/day"),
        (LimitKind.SPEND, "1e3/day"),
    ],
)
def test_a_limit_that_is_not_clear_is_refused(kind: LimitKind, text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_limit(text, kind)


def test_every_example_of_the_help_is_read() -> None:
    examples = [shlex.split(line) for line in GRAMMAR.splitlines() if line.strip().startswith("--")]
    assert len(examples) >= 5
    for option, text, *_ in examples:
        parse_limit(text, LimitKind[option.removeprefix("--").upper()])


@given(st.integers(1, 10**6), st.sampled_from(["second", "minute", "hour", "day", "week"]))
def test_a_length_of_time_can_be_written_in_several_ways(count: int, word: str) -> None:
    length = parse_duration(f"{count}{word}")
    assert length == parse_duration(f"{count}{word}s") == count * parse_duration(word)


@given(st.integers(0, 10**15))
def test_money_is_shown_exactly(micros: int) -> None:
    shown = quantity(micros, LimitKind.SPEND)
    assert parse_limit(f"{shown}/day", LimitKind.SPEND).amount == micros


def test_a_limit_is_described_as_people_say_it() -> None:
    assert describe(Limit.rate("a", 5, MINUTE)) == "5 requests per minute"
    assert describe(Limit.rate("a", 5, timedelta(seconds=90), shadow=True)) == "5 requests per 90 seconds, shadow"
    assert (
        describe(Limit.spend("a", "12.5", CalendarWindow.MONTH, time_zone="Europe/Berlin"))
        == "12.50 spend per calendar month (Europe/Berlin)"
    )
    assert quantity(5_000_000, LimitKind.SPEND) == "5.00"
    assert quantity(12_500, LimitKind.SPEND) == "0.0125"
    assert quantity(0, LimitKind.SPEND) == "0.00"
