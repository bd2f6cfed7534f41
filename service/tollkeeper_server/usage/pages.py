"""Page tokens of findings: where the next page starts, bound to the filters it was made for."""

import hashlib
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import orjson

from tollkeeper_server.core.errors import InvalidArgument, Violation
from tollkeeper_server.usage.queries import Finding, ListFindings

_LAYOUT = struct.Struct(">B8sqq")
_VERSION = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)
_MINUTES_MAX = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MINUTE


def page_token(query: ListFindings, *, tenant_id: str, last: Finding) -> str:
    """The token of the page that comes after ``last``."""
    minutes = (last.first_at - _EPOCH) // _MINUTE
    token = _LAYOUT.pack(_VERSION, _filters(query, tenant_id), minutes, last.finding_id)
    return urlsafe_b64encode(token).rstrip(b"=").decode()


def last_place(query: ListFindings, *, tenant_id: str) -> tuple[datetime, int] | None:
    """Time and finding_id that ``query`` continues after; None if it starts at the newest.

    Raises InvalidArgument if its page token is none of ours, or was made for other filters.
    """
    if not query.page_token:
        return None
    try:
        token = urlsafe_b64decode(query.page_token + "=" * (-len(query.page_token) % 4))
        version, filters, minutes, finding_id = _LAYOUT.unpack(token)
    except (ValueError, struct.error):
        version, filters, minutes, finding_id = 0, b"", 0, 0
    if (version, filters) != (_VERSION, _filters(query, tenant_id)) or not 0 <= minutes <= _MINUTES_MAX:
        raise InvalidArgument([Violation("page_token", "must be the next_page_token of a page with the same filters")])
    return _EPOCH + minutes * _MINUTE, finding_id


def _filters(query: ListFindings, tenant_id: str) -> bytes:
    filters = orjson.dumps([tenant_id, query.key_id, query.owner_id, query.start_time, query.end_time])
    return hashlib.sha256(filters).digest()[:8]
