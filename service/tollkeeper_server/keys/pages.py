"""Page tokens: where the next page starts, bound to the filters it was made for."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import orjson

from tollkeeper_server.core.errors import InvalidArgument, Violation
from tollkeeper_server.core.key import Key
from tollkeeper_server.keys.commands import ListKeys
from tollkeeper_server.keys.ids import KEY_ID_PATTERN

_VERSION = b"\x02"
_FILTERS_BYTES = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last key of a page, as far as the order of pages looks at it."""

    key_id: str
    expires_at: datetime | None = None
    """Set where keys come in the order in which they expire."""


def page_token(query: ListKeys, *, tenant_id: str, last: Key) -> str:
    """The token of the page that comes after the key ``last``."""
    expires = ""
    if query.expires_before is not None:
        assert last.expires_at is not None, "a key that expires before a moment expires"
        expires = str((last.expires_at - _EPOCH) // _MICROSECOND)
    token = _VERSION + _filters(query, tenant_id) + f"{last.key_id}{expires}".encode()
    return urlsafe_b64encode(token).rstrip(b"=").decode()


def cursor(query: ListKeys, *, tenant_id: str) -> Cursor | None:
    """Where ``query`` continues; None if it starts at the first page.

    Raises InvalidArgument if its page token is none of ours, or was made for other filters.
    """
    if not query.page_token:
        return None
    head = _VERSION + _filters(query, tenant_id)
    try:
        token = urlsafe_b64decode(query.page_token + "=" * (-len(query.page_token) % 4))
        if not token.startswith(head):
            raise _not_ours()
        return _cursor(token[len(head) :].decode("ascii"), by_expiry=query.expires_before is not None)
    except (ValueError, OverflowError):  # not base64, no text in it, or no moment
        raise _not_ours() from None


def _cursor(text: str, *, by_expiry: bool) -> Cursor:
    found = KEY_ID_PATTERN.match(text)
    if found is None or bool(text[found.end() :]) != by_expiry:
        raise ValueError("no cursor")
    expires_at = _EPOCH + int(text[found.end() :]) * _MICROSECOND if by_expiry else None
    return Cursor(found.group(), expires_at)


def _not_ours() -> InvalidArgument:
    return InvalidArgument([Violation("page_token", "must be the next_page_token of a page with the same filters")])


def _filters(query: ListKeys, tenant_id: str) -> bytes:
    filters = replace(query, tenant_id=tenant_id, page_size=0, page_token="")
    return hashlib.sha256(orjson.dumps(filters)).digest()[:_FILTERS_BYTES]
