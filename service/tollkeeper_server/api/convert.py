"""Conversions that several messages share: times, metadata, enums. All pure."""

import enum
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXACT_INTEGER_MAX = 2**53

DomainT = TypeVar("DomainT", bound=enum.StrEnum)
NumberT = TypeVar("NumberT", bound=int)
NumberT_co = TypeVar("NumberT_co", bound=int, covariant=True)


class ProtoEnum(Protocol[NumberT_co]):
    """What generated code offers for each enum."""

    def Value(self, name: str) -> NumberT_co: ...


def enum_map(domain: type[DomainT], proto: ProtoEnum[NumberT], *, prefix: str) -> dict[DomainT, NumberT]:
    """Number on the wire by domain value: the contract's names are the domain's behind ``prefix``."""
    return {value: proto.Value(prefix + value.name) for value in domain}


def inverse(numbers: Mapping[DomainT, NumberT]) -> dict[NumberT, DomainT]:
    """Domain value by number on the wire."""
    return {number: value for value, number in numbers.items()}


def datetime_from(timestamp: Timestamp) -> datetime:
    """The moment in UTC; what is finer than a microsecond is cut off."""
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def optional_datetime(message: Message, field: str) -> datetime | None:
    """The moment in a field of ``message``; None if it is not set."""
    return datetime_from(getattr(message, field)) if message.HasField(field) else None


def timestamp_from(moment: datetime) -> Timestamp:
    """The moment, exact to the microsecond."""
    timestamp = Timestamp()
    set_timestamp(timestamp, moment)
    return timestamp


def set_timestamp(timestamp: Timestamp, moment: datetime) -> None:
    """Make ``timestamp`` that moment, exact to the microsecond."""
    since = moment - _EPOCH
    timestamp.seconds = since.days * 86_400 + since.seconds
    timestamp.nanos = since.microseconds * 1000


def optional_timestamp(moment: datetime | None) -> Timestamp | None:
    """As ``timestamp_from``; None stays None, which leaves a field unset."""
    return None if moment is None else timestamp_from(moment)


def timedelta_from(duration: Duration) -> timedelta:
    """The span of time; what is finer than a microsecond is cut off towards zero."""
    return timedelta(seconds=duration.seconds, microseconds=int(duration.nanos / 1000))


def duration_from(span: timedelta) -> Duration:
    """The span of time, exact to the microsecond."""
    microseconds = span // timedelta(microseconds=1)
    sign = -1 if microseconds < 0 else 1
    seconds, rest = divmod(abs(microseconds), 1_000_000)
    return Duration(seconds=sign * seconds, nanos=sign * rest * 1000)


def json_from(struct: Struct) -> dict[str, Any]:
    """The metadata as plain JSON values; whole numbers become integers as long as a double holds them exactly."""
    return {name: _json_value(value) for name, value in struct.fields.items()}


def struct_from(metadata: Mapping[str, Any]) -> Struct | None:
    """The plain JSON values as metadata; None if there are none, which leaves a field unset."""
    if not metadata:
        return None
    struct = Struct()
    struct.update(metadata)
    return struct


def _json_value(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return json_from(value.struct_value)
    if kind == "list_value":
        return _json_list(value.list_value)
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= _EXACT_INTEGER_MAX else number
    if kind == "string_value":
        return value.string_value
    return value.bool_value if kind == "bool_value" else None


def _json_list(values: ListValue) -> list[Any]:
    return [_json_value(value) for value in values.values]
