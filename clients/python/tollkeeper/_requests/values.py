"""Values that requests are made of."""

import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2

from tollkeeper._keys import RevokeReason
from tollkeeper._limits import CalendarWindow, Limit
from tollkeeper.v1 import key_pb2, limit_pb2

REQUESTS_UNIT = "requests"


def request_id(given: str | None) -> str:
    """The one that was given, or a new one: every request can be repeated."""
    return given or secrets.token_hex(16)


def charges(amounts: Mapping[str, int] | None) -> Mapping[str, int] | None:
    """What to charge; None charges one request, an empty mapping nothing."""
    # The contract cannot tell an empty map from an absent one, which charges one request.
    return {REQUESTS_UNIT: 0} if amounts is not None and not amounts else amounts


def words(given: Iterable[str], name: str) -> list[str]:
    """A list of words. Raises TypeError for one string, which is a sequence of letters to Python."""
    if isinstance(given, str):
        raise TypeError(f"{name} is a sequence of strings, not one string")
    return list(given)


def exactly_one(**subjects: str | None) -> dict[str, str]:
    """The only one of the subjects that is not None, by its name. Raises TypeError for none or several."""
    given = {name: subject for name, subject in subjects.items() if subject is not None}
    if len(given) != 1:
        raise TypeError(f"give exactly one of {', '.join(subjects)}")
    return given


def at_most_one(**subjects: str | None) -> dict[str, str]:
    """As ``exactly_one``, or none."""
    given = {name: subject for name, subject in subjects.items() if subject is not None}
    return exactly_one(**subjects) if given else given


def limits(given: Iterable[Limit]) -> list[limit_pb2.Limit]:
    """Limits of a key or an owner."""
    return [_limit(limit) for limit in given]


def revoke_reason(reason: RevokeReason) -> "key_pb2.RevokeReason.ValueType":
    """Why a key is revoked."""
    return key_pb2.RevokeReason.Value(f"REVOKE_REASON_{reason.name}")


def timestamp(moment: datetime | None, name: str) -> timestamp_pb2.Timestamp | None:
    """A moment; None for none. Raises ValueError if it has no time zone."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError(f"{name} needs a time zone")
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message


def duration(delta: timedelta | None) -> duration_pb2.Duration | None:
    """A length of time; None for none."""
    if delta is None:
        return None
    message = duration_pb2.Duration()
    message.FromTimedelta(delta)
    return message


def struct(metadata: Mapping[str, Any] | None) -> struct_pb2.Struct | None:
    """Metadata; None for none."""
    if metadata is None:
        return None
    message = struct_pb2.Struct()
    message.update(dict(metadata))
    return message


def _limit(limit: Limit) -> limit_pb2.Limit:
    message = limit_pb2.Limit(
        name=limit.name,
        kind=limit_pb2.LimitKind.Value(f"LIMIT_KIND_{limit.kind.name}"),
        unit=limit.unit,
        amount=limit.amount,
        anchor=timestamp(limit.anchor, "anchor"),
        shadow=limit.shadow,
    )
    if isinstance(limit.window, CalendarWindow):
        message.calendar = limit_pb2.CalendarWindow.Value(f"CALENDAR_WINDOW_{limit.window.name}")
        message.time_zone = limit.time_zone
    else:
        message.window.FromTimedelta(limit.window)
    return message
