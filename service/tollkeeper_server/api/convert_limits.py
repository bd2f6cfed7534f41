"""Limits and their states between the contract and the domain. All pure."""

from datetime import timedelta
from functools import lru_cache

from tollkeeper.v1 import limit_pb2
from tollkeeper_server.api.convert import (
    datetime_from,
    duration_from,
    enum_map,
    inverse,
    optional_timestamp,
    set_timestamp,
)
from tollkeeper_server.core.limits import CalendarWindow, Limit, LimitKind, LimitScope, LimitState

LIMIT_KINDS = enum_map(LimitKind, limit_pb2.LimitKind, prefix="LIMIT_KIND_")
CALENDAR_WINDOWS = enum_map(CalendarWindow, limit_pb2.CalendarWindow, prefix="CALENDAR_WINDOW_")
LIMIT_SCOPES = enum_map(LimitScope, limit_pb2.LimitScope, prefix="LIMIT_SCOPE_")

_NO_CALENDAR = limit_pb2.CALENDAR_WINDOW_UNSPECIFIED
_KINDS_BY_NUMBER = inverse(LIMIT_KINDS)
_CALENDARS_BY_NUMBER = inverse(CALENDAR_WINDOWS)
_UNITS_BY_KIND = {LimitKind.RATE: "requests", LimitKind.QUOTA: "requests", LimitKind.SPEND: "spend"}


def limit_from(limit: limit_pb2.Limit) -> Limit:
    """The limit as asked for, its defaults filled in."""
    kind = _KINDS_BY_NUMBER[limit.kind]
    return Limit(
        name=limit.name,
        kind=kind,
        unit=limit.unit or _UNITS_BY_KIND[kind],
        amount=limit.amount,
        window_seconds=limit.window.seconds if limit.HasField("window") else None,
        calendar=_CALENDARS_BY_NUMBER.get(limit.calendar),
        time_zone=limit.time_zone or "UTC",
        anchor=datetime_from(limit.anchor) if limit.HasField("anchor") else None,
        shadow=limit.shadow,
    )


def limit_message(limit: Limit) -> limit_pb2.Limit:
    """The limit such that it may be sent back: a time zone only where there is a calendar."""
    seconds = limit.window_seconds
    return limit_pb2.Limit(
        name=limit.name,
        kind=LIMIT_KINDS[limit.kind],
        unit=limit.unit,
        amount=limit.amount,
        window=None if seconds is None else duration_from(timedelta(seconds=seconds)),
        calendar=_NO_CALENDAR if limit.calendar is None else CALENDAR_WINDOWS[limit.calendar],
        time_zone="" if limit.calendar is None else limit.time_zone,
        anchor=optional_timestamp(limit.anchor),
        shadow=limit.shadow,
    )


def limit_state_message(state: LimitState) -> limit_pb2.LimitState:
    """Where a limit stands."""
    message = limit_pb2.LimitState.FromString(
        _constant_part(state.name, state.kind, state.unit, state.limit, state.shadow, state.scope)
    )
    message.used = state.used
    message.remaining = state.remaining
    if state.exceeded:
        message.exceeded = True
    if state.reset_at is not None:
        set_timestamp(message.reset_at, state.reset_at)
    return message


@lru_cache(maxsize=4096)
def _constant_part(name: str, kind: LimitKind, unit: str, limit: int, shadow: bool, scope: LimitScope) -> bytes:
    """What is told of a limit with every charge: to read it back is quicker than to put it together."""
    return limit_pb2.LimitState(
        name=name, kind=LIMIT_KINDS[kind], unit=unit, limit=limit, shadow=shadow, scope=LIMIT_SCOPES[scope]
    ).SerializeToString()
