"""Limits as people write and read them: ``5/minute``, ``burst=20/10s``, ``100000 tokens/calendar-month``."""

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import typer

from tollkeeper import CalendarWindow, Limit, LimitKind, micro_units

GRAMMAR = """\b
Limits are written [NAME=]AMOUNT[ UNIT]/WINDOW:
  --rate 5/minute                  in any 60 seconds
  --rate burst=20/10s              with a name of your own
  --rate "100000 tokens/hour"      of another unit than requests
  --quota 50000/30d                never one too many, every 30 days
  --quota 50000/calendar-month     the same, from the first of each month, UTC
  --spend 5.00/calendar-day@Europe/Berlin
                                   money, in your currency
WINDOW is [N] second, minute, hour, day or week, or s, min, h, d, w. Quotas and
money may say calendar-day, calendar-week or calendar-month, with @TIME_ZONE.
"""

_LIMIT = re.compile(
    r"(?:(?P<name>[^=/\s]+)=)?"
    r"(?P<amount>\d[\d_]*(?:\.\d+)?)(?: +(?P<unit>[a-z][a-z0-9_.-]*))?"
    r"/(?P<window>\S+)",
    re.ASCII,
)
_LENGTH = re.compile(r"(?P<count>\d*)(?P<word>[a-z]+?)", re.ASCII)
_UNITS = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}
_SHORT = {"s": "second", "sec": "second", "min": "minute", "h": "hour", "d": "day", "w": "week"}
_CALENDAR = {f"calendar-{window.name.lower()}": window for window in CalendarWindow}
_DEFAULT_UNITS = {LimitKind.RATE: "requests", LimitKind.QUOTA: "requests", LimitKind.SPEND: "spend"}


def limit_parser(kind: LimitKind) -> Callable[[str], Limit]:
    """Reads limits of one kind; what it cannot read is bad usage."""

    def parse(text: str) -> Limit:
        return parse_limit(text, kind)

    return parse


def parse_limit(text: str, kind: LimitKind) -> Limit:
    """The limit that ``text`` describes. Raises typer.BadParameter."""
    found = _LIMIT.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not [NAME=]AMOUNT[ UNIT]/WINDOW, as 5/minute")
    window_text, _, time_zone = found["window"].partition("@")
    window = _CALENDAR.get(window_text) or parse_duration(window_text)
    if kind is LimitKind.RATE and isinstance(window, CalendarWindow):
        raise typer.BadParameter("a rate slides; a calendar window is for --quota and --spend")
    if time_zone and not isinstance(window, CalendarWindow):
        raise typer.BadParameter(f"{text!r}: a time zone belongs to a calendar window")
    unit = found["unit"] or _DEFAULT_UNITS[kind]
    return Limit(
        name=found["name"] or _name(kind, unit, window),
        kind=kind,
        unit=unit,
        amount=_amount(found["amount"], kind),
        window=window,
        time_zone=time_zone or "UTC",
    )


def parse_duration(text: str) -> timedelta:
    """A length of time, as ``90s``, ``12h``, ``30d`` or ``week``. Raises typer.BadParameter."""
    found = _LENGTH.fullmatch(text)
    word = found["word"] if found else ""
    word = _SHORT.get(word, word.removesuffix("s"))
    if found is None or word not in _UNITS:
        raise typer.BadParameter(f"{text!r} is not a length of time, as 10s, minute or 30d")
    try:
        return int(found["count"] or "1") * _UNITS[word]
    except (OverflowError, ValueError):
        raise typer.BadParameter(f"{text!r} is too long") from None


def describe(limit: Limit) -> str:
    """A limit in words: ``5 requests per minute``."""
    words = f"{quantity(limit.amount, limit.kind)} {limit.unit} per {describe_window(limit.window)}"
    if isinstance(limit.window, CalendarWindow) and limit.time_zone != "UTC":
        words += f" ({limit.time_zone})"
    return words + (", shadow" if limit.shadow else "")


def describe_window(window: timedelta | CalendarWindow) -> str:
    """A window in words: ``minute``, ``10 seconds``, ``calendar month``."""
    if isinstance(window, CalendarWindow):
        return f"calendar {window.lower()}"
    for word, unit in reversed(_UNITS.items()):
        count, rest = divmod(window, unit)
        if count and not rest:
            return word if count == 1 else f"{count} {word}s"
    return f"{window.total_seconds():g} seconds"


def quantity(amount: int, kind: LimitKind) -> str:
    """An amount for people: money in whole currency, everything else as it is."""
    if kind is not LimitKind.SPEND:
        return str(amount)
    money = Decimal(amount).scaleb(-6).normalize()
    return f"{money:.2f}" if money == money.quantize(Decimal("0.01")) else f"{money:f}"


def _name(kind: LimitKind, unit: str, window: timedelta | CalendarWindow) -> str:
    words = [] if unit == _DEFAULT_UNITS[kind] else [unit]
    if kind is not LimitKind.RATE:
        words.append(kind.lower())
    return "-".join([*words, "per", *describe_window(window).split()])


def _amount(text: str, kind: LimitKind) -> int:
    try:
        return micro_units(text) if kind is LimitKind.SPEND else int(text)
    except ValueError:
        fault = "has more than 6 decimal places" if kind is LimitKind.SPEND else "is not a whole number"
        raise typer.BadParameter(f"{text!r} {fault}") from None
