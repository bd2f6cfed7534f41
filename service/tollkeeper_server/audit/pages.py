"""Page tokens of the audit log: where the next page starts, bound to the filters it was made for."""

import hashlib
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode

import orjson

from tollkeeper_server.audit.events import ListAuditEvents
from tollkeeper_server.core.errors import InvalidArgument, Violation

_LAYOUT = struct.Struct(">B8sq")
_VERSION = 1


def page_token(query: ListAuditEvents, *, tenant_id: str, last_sequence: int) -> str:
    """The token of the page that comes after the event ``last_sequence``."""
    token = _LAYOUT.pack(_VERSION, _filters(query, tenant_id), last_sequence)
    return urlsafe_b64encode(token).rstrip(b"=").decode()


def last_sequence(query: ListAuditEvents, *, tenant_id: str) -> int | None:
    """The event that ``query`` continues after; None if it starts at the newest.

    Raises InvalidArgument if its page token is none of ours, or was made for other filters.
    """
    if not query.page_token:
        return None
    try:
        token = urlsafe_b64decode(query.page_token + "=" * (-len(query.page_token) % 4))
        version, filters, sequence = _LAYOUT.unpack(token)
    except (ValueError, struct.error):
        version, filters, sequence = 0, b"", 0
    if (version, filters) != (_VERSION, _filters(query, tenant_id)) or sequence < 1:
        raise InvalidArgument([Violation("page_token", "must be the next_page_token of a page with the same filters")])
    return int(sequence)


def _filters(query: ListAuditEvents, tenant_id: str) -> bytes:
    filters = [tenant_id, query.key_id, query.owner_id, query.actor, query.action, query.start_time, query.end_time]
    return hashlib.sha256(orjson.dumps(filters)).digest()[:8]
