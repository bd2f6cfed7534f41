"""Limits: bounds on how much of a unit may be used over a window of time."""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from typing import Self

MICRO_UNITS = 1_000_000
"""SPEND counts in millionths of a currency unit."""


class LimitKind(enum.StrEnum):
    """How a limit counts, and how hard it holds."""

    UNSPECIFIED = "UNSPECIFIED"
    """Not known to this version of the client."""
    RATE = "RATE"
    """At most ``amount`` in any stretch of time as long as the window."""
    QUOTA = "QUOTA"
    """A hard count over a fixed or calendar window: never one unit too many."""
    SPEND = "SPEND"
    """As QUOTA, for money in micro-units of a currency."""


class CalendarWindow(enum.StrEnum):
    """A window that follows the calendar of a time zone."""

    DAY = "DAY"
    WEEK = "WEEK"
    """From Monday's midnight to the next Monday's."""
    MONTH = "MONTH"


class LimitScope(enum.StrEnum):
    """What a limit's counter belongs to."""

    UNSPECIFIED = "UNSPECIFIED"
    """Not known to this version of the client."""
    KEY = "KEY"
    OWNER = "OWNER"
    """Shared by all keys of an owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most ``amount`` of ``unit`` in each window. Make one with :meth:`rate`, :meth:`quota` or :meth:`spend`.

    ``name`` is 1 to 64 of a-z, 0-9, ``_``, ``-`` and ``.``, unique within its key or owner.
    """

    name: str
    kind: LimitKind
    unit: str
    """What is counted: 1 to 32 of a-z, 0-9, ``_``, ``-`` and ``.``."""
    amount: int
    """Units that one window allows, 0 to 10^15. For SPEND micro-units: 5000000 is 5.00."""
    window: timedelta | CalendarWindow
    """A fixed length from 1 second to 366 days in whole seconds, or a part of the calendar."""
    time_zone: str = "UTC"
    """IANA name of the calendar window's time zone, as ``Europe/Berlin``."""
    anchor: datetime | None = None
    """Where windows of fixed length start counting; None means the creation of the key or owner."""
    shadow: bool = False
    """Counts and reports, and never denies."""

    @classmethod
    def rate(cls, name: str, amount: int, window: timedelta, *, unit: str = "requests", shadow: bool = False) -> Self:
        """At most ``amount`` in any stretch of time as long as ``window``; exceeding it is RATE_LIMITED."""
        return cls(name=name, kind=LimitKind.RATE, unit=unit, amount=amount, window=window, shadow=shadow)

    @classmethod
    def quota(
        cls,
        name: str,
        amount: int,
        window: timedelta | CalendarWindow,
        *,
        unit: str = "requests",
        time_zone: str = "UTC",
        anchor: datetime | None = None,
        shadow: bool = False,
    ) -> Self:
        """A hard ``amount`` in each ``window``; exceeding it is QUOTA_EXCEEDED."""
        return cls(
            name=name,
            kind=LimitKind.QUOTA,
            unit=unit,
            amount=amount,
            window=window,
            time_zone=time_zone,
            anchor=anchor,
            shadow=shadow,
        )

    @classmethod
    def spend(
        cls,
        name: str,
        amount: Decimal | str | int,
        window: timedelta | CalendarWindow,
        *,
        unit: str = "spend",
        time_zone: str = "UTC",
        anchor: datetime | None = None,
        shadow: bool = False,
    ) -> Self:
        """A hard sum of money in each ``window``, in whole currency: ``"5.00"``, not micro-units.

        Exceeding it is SPEND_LIMIT_EXCEEDED. Charge it with ``charges={"spend": micro_units("0.0125")}``.
        """
        return cls(
            name=name,
            kind=LimitKind.SPEND,
            unit=unit,
            amount=micro_units(amount),
            window=window,
            time_zone=time_zone,
            anchor=anchor,
            shadow=shadow,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """Where a limit stands after the charge or, in a denial and in a quota check, without it."""

    name: str
    kind: LimitKind
    unit: str
    limit: int
    """Units that one window allows."""
    used: int
    """Units counted in the current window; may pass ``limit`` where it is shadow or was lowered."""
    remaining: int
    """Units still allowed in the current window."""
    reset_at: datetime | None
    """When ``used`` falls back to 0 if nothing more is charged; None if nothing is counted."""
    exceeded: bool
    """The charge asked for does not fit."""
    shadow: bool
    scope: LimitScope


def micro_units(amount: Decimal | str | int) -> int:
    """Money in micro-units, as SPEND limits count it: ``micro_units("0.0125")`` is 12500. Exact.

    Raises TypeError for a float, and ValueError for what is not a number or is finer than a micro-unit.
    """
    if isinstance(amount, bool | float):
        raise TypeError("money is a Decimal, a string or an int: a float is not exact")
    with localcontext(prec=60):
        try:
            exact = Decimal(amount) * MICRO_UNITS
            micros = int(exact)
        except (ArithmeticError, ValueError):
            raise ValueError(f"{amount!r} is not an amount of money") from None
        if exact != micros:
            raise ValueError(f"{amount!r} has more than 6 decimal places")
        return micros
