"""Values that results are made of."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf import struct_pb2, timestamp_pb2
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

from tollkeeper._keys import Propagation
from tollkeeper._limits import CalendarWindow, Limit, LimitKind, LimitScope, LimitState
from tollkeeper.v1 import key_service_pb2, limit_pb2

E = TypeVar("E")

_INTEGERS_EXACT_BELOW = 2**53


def members(contract: EnumDescriptor, of: Mapping[str, E]) -> dict[int, E]:
    """Contract number to enum member. Numbers of later versions are absent: look up with a default."""
    prefix = contract.values_by_number[0].name.removesuffix("UNSPECIFIED")
    names = {value.number: value.name.removeprefix(prefix) for value in contract.values}
    return {number: of[name] for number, name in names.items() if name in of}


PROPAGATIONS = members(key_service_pb2.Propagation.DESCRIPTOR, Propagation.__members__)
LIMIT_KINDS = members(limit_pb2.LimitKind.DESCRIPTOR, LimitKind.__members__)
LIMIT_SCOPES = members(limit_pb2.LimitScope.DESCRIPTOR, LimitScope.__members__)
CALENDAR_WINDOWS = members(limit_pb2.CalendarWindow.DESCRIPTOR, CalendarWindow.__members__)


def time(timestamp: timestamp_pb2.Timestamp) -> datetime:
    """A moment, in UTC."""
    return timestamp.ToDatetime(tzinfo=UTC)


def time_of(message: Message, field: str) -> datetime | None:
    """The moment in a field; None if it is absent."""
    return time(getattr(message, field)) if message.HasField(field) else None


def delta_of(message: Message, field: str) -> timedelta | None:
    """The length of time in a field; None if it is absent."""
    delta: timedelta | None = getattr(message, field).ToTimedelta() if message.HasField(field) else None
    return delta


def effect(response: Any) -> dict[str, Any]:
    """What every answer to a mutation that narrows says of it: revision, propagation, effective_at."""
    return {
        "revision": response.revision,
        "propagation": PROPAGATIONS.get(response.propagation, Propagation.UNSPECIFIED),
        "effective_at": time_of(response, "effective_at"),
    }


def limits(given: Iterable[limit_pb2.Limit]) -> tuple[Limit, ...]:
    """Limits of a key or an owner."""
    return tuple(
        Limit(
            name=limit.name,
            kind=LIMIT_KINDS.get(limit.kind, LimitKind.UNSPECIFIED),
            unit=limit.unit,
            amount=limit.amount,
            window=CALENDAR_WINDOWS.get(limit.calendar) or limit.window.ToTimedelta(),
            time_zone=limit.time_zone or "UTC",
            anchor=time_of(limit, "anchor"),
            shadow=limit.shadow,
        )
        for limit in given
    )


def limit_states(states: Iterable[limit_pb2.LimitState]) -> tuple[LimitState, ...]:
    """Where limits stand."""
    return tuple(
        LimitState(
            name=state.name,
            kind=LIMIT_KINDS.get(state.kind, LimitKind.UNSPECIFIED),
            unit=state.unit,
            limit=state.limit,
            used=state.used,
            remaining=state.remaining,
            reset_at=time_of(state, "reset_at"),
            exceeded=state.exceeded,
            shadow=state.shadow,
            scope=LIMIT_SCOPES.get(state.scope, LimitScope.UNSPECIFIED),
        )
        for state in states
    )


def plain(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A JSON object in Python's types."""
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: struct_pb2.Value) -> Any:
    """A JSON value in Python's types. JSON has one type of number; whole ones become int."""
    match value.WhichOneof("kind"):
        case "struct_value":
            return plain(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "number_value":
            number = value.number_value
            whole = number.is_integer() and abs(number) < _INTEGERS_EXACT_BELOW
            return int(number) if whole else number
        case _:
            return None
