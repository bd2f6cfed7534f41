"""What a call carries beside its message: who calls, from where, and under which id. All pure."""

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import unquote

from tollkeeper_server.api.fields import API_KEY_BYTES_MAX, REQUEST_ID_PATTERN
from tollkeeper_server.core.errors import Unauthenticated

Metadata = Iterable[tuple[str, str | bytes]]

AUTHORIZATION = "authorization"
REQUEST_ID = "x-request-id"

_SCHEME = "bearer "
_EXPECTED = f'metadata "{AUTHORIZATION}: Bearer <API key of the caller>"'
_ID_DIGITS = 32
_IDS_PER_DRAW = 256

is_request_id = re.compile(REQUEST_ID_PATTERN).fullmatch


def shown_credentials(metadata: Metadata) -> list[str | bytes]:
    """What the caller shows, as it came."""
    return [value for name, value in metadata if name == AUTHORIZATION]


def bearer_token(metadata: Metadata) -> str:
    """The API key that the caller shows. Raises Unauthenticated unless there is exactly one."""
    shown = shown_credentials(metadata)
    if not shown:
        raise Unauthenticated(f"the call needs {_EXPECTED}", reason="CALLER_CREDENTIALS_MISSING")
    if len(shown) > 1:
        raise Unauthenticated(
            f"the call has {AUTHORIZATION} more than once; it needs one {_EXPECTED}",
            reason="CALLER_CREDENTIALS_AMBIGUOUS",
        )
    value = str(shown[0])
    token = value[len(_SCHEME) :].strip()
    if value[: len(_SCHEME)].lower() != _SCHEME or not token or " " in token or len(token) > API_KEY_BYTES_MAX:
        raise Unauthenticated(
            f"{AUTHORIZATION} is not as expected; the call needs {_EXPECTED}",
            reason="CALLER_CREDENTIALS_MALFORMED",
        )
    return token


def call_id(metadata: Metadata, *, named: str) -> str:
    """The id of a call: as its message names it, else as its metadata does, else a new one."""
    if named and is_request_id(named):
        return named
    for name, value in metadata:
        if name == REQUEST_ID and isinstance(value, str) and is_request_id(value):
            return value
    return new_request_id()


def new_request_id() -> str:
    """An id that nobody can guess, 32 hex digits."""
    return next(_request_ids)


def _draw_request_ids() -> Iterator[str]:
    while True:  # one system call for many ids
        digits = os.urandom(_IDS_PER_DRAW * _ID_DIGITS // 2).hex()
        yield from (digits[start : start + _ID_DIGITS] for start in range(0, len(digits), _ID_DIGITS))


_request_ids = _draw_request_ids()


@lru_cache(maxsize=4096)
def peer_address(peer: str) -> str:
    """The IP address in gRPC's name for the other end; empty if it has none, as a Unix socket."""
    scheme, _, place = unquote(peer).partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return ""
    host, _, _ = place.rpartition(":")
    try:
        return str(ip_address(host.strip("[]")))
    except ValueError:
        return ""
