"""What a limit, and a list of them, may be."""

from collections.abc import Sequence

from tollkeeper.v1 import limit_pb2
from tollkeeper_server.api import fields
from tollkeeper_server.api.rules import Problems, Rules, anything, each, matching, moment, nested, one_of, span
from tollkeeper_server.core.limits import LIMITS_MAX, WINDOW_SECONDS_MAX


def _limit_window(limit: limit_pb2.Limit) -> Problems:
    """RATE takes a window alone, QUOTA and SPEND a window or a calendar."""
    is_rate = limit.kind == limit_pb2.LIMIT_KIND_RATE
    has_calendar = limit.calendar != limit_pb2.CALENDAR_WINDOW_UNSPECIFIED
    found: list[tuple[str, str]] = []
    if is_rate and not limit.HasField("window"):
        found.append(("window", "must be given for RATE"))
    if is_rate and has_calendar:
        found.append(("calendar", "must be unset for RATE"))
    if not is_rate and limit.HasField("window") == has_calendar:
        found.append(("window", "must be given, or calendar, and not both"))
    if limit.HasField("anchor") and (is_rate or has_calendar):
        found.append(("anchor", "must be unset but with the window of a QUOTA or SPEND limit"))
    if limit.time_zone and not has_calendar:
        found.append(("time_zone", "must be empty without calendar"))
    return found


LIMIT = Rules(
    limit_pb2.Limit,
    {
        "name": matching(
            r"[a-z0-9][a-z0-9_.-]{0,63}",
            'must be 1 to 64 of a-z, 0-9, "_", "-" and ".", starting with a letter or digit',
        ),
        "kind": one_of((1, 2, 3), "RATE, QUOTA or SPEND"),
        "unit": matching(fields.UNIT_PATTERN, fields.UNIT_ALLOWED, or_empty=True),
        "amount": fields.amount,
        "window": span(
            shortest_seconds=1,
            longest_seconds=WINDOW_SECONDS_MAX,
            whole_seconds=True,
            allowed="must be 1 second to 366 days, a whole number of seconds",
        ),
        "calendar": one_of(limit_pb2.CalendarWindow.values(), "DAY, WEEK or MONTH, or unset"),
        "time_zone": fields.time_zone,
        "anchor": moment,
        "shadow": anything,
    },
    across=[_limit_window],
)

_each_limit = each(nested(LIMIT), at_most=LIMITS_MAX)


def limits(given: Sequence[limit_pb2.Limit]) -> Problems:
    """Each is a limit, and no two of them have the same name."""
    found = list(_each_limit(given))
    first: dict[str, int] = {}
    for index, limit in enumerate(given[:LIMITS_MAX]):
        if limit.name and first.setdefault(limit.name, index) != index:
            found.append((f"[{index}].name", f"must be unique, and is that of limits[{first[limit.name]}]"))
    return found
