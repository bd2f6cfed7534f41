"""Page tokens: where the next page starts, bound to the filters it was made for."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode

import orjson

from tollkeeper_server.core.errors import InvalidArgument, Violation
from tollkeeper_server.keys.commands import ListKeys
from tollkeeper_server.keys.ids import KEY_ID_PATTERN

_VERSION = b"\x01"
_FILTERS_BYTES = 8


def page_token(query: ListKeys, *, tenant_id: str, last_key_id: str) -> str:
    """The token of the page that comes after ``last_key_id``."""
    token = _VERSION + _filters(query, tenant_id) + last_key_id.encode()
    return urlsafe_b64encode(token).rstrip(b"=").decode()


def last_key_id(query: ListKeys, *, tenant_id: str) -> str | None:
    """The key that ``query`` continues after; None if it starts at the newest.

    Raises InvalidArgument if its page token is none of ours, or was made for other filters.
    """
    if not query.page_token:
        return None
    head = _VERSION + _filters(query, tenant_id)
    try:
        token = urlsafe_b64decode(query.page_token + "=" * (-len(query.page_token) % 4))
        found, key_id = token[: len(head)], token[len(head) :].decode("ascii")
    except ValueError:  # not base64, or no text in it
        found, key_id = b"", ""
    if found != head or not KEY_ID_PATTERN.fullmatch(key_id):
        raise InvalidArgument([Violation("page_token", "must be the next_page_token of a page with the same filters")])
    return key_id


def _filters(query: ListKeys, tenant_id: str) -> bytes:
    filters = orjson.dumps([tenant_id, query.owner_id, query.environment, query.state, query.prefix])
    return hashlib.sha256(filters).digest()[:_FILTERS_BYTES]
