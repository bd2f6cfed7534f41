"""What a call carries beside its message: who calls, from where, and under which id. All pure."""

import re
import secrets
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import unquote

from tollkeeper_server.api.fields import API_KEY_BYTES_MAX, REQUEST_ID_PATTERN
from tollkeeper_server.core.errors import Unauthenticated

Metadata = Iterable[tuple[str, str | bytes]]

AUTHORIZATION = "authorization"
REQUEST_ID = "x-request-id"

_EXPECTED = 'metadata "authorization: Bearer <API key of the caller>"'
_bearer = re.compile(rf"[Bb][Ee][Aa][Rr][Ee][Rr] +([\x21-\x7e]{{1,{API_KEY_BYTES_MAX}}})").fullmatch
_well_formed = re.compile(REQUEST_ID_PATTERN).fullmatch


def bearer_token(metadata: Metadata) -> str:
    """The API key that the caller shows. Raises Unauthenticated unless there is exactly one."""
    values = [value for name, value in metadata if name == AUTHORIZATION]
    if not values:
        raise Unauthenticated(f"the call needs {_EXPECTED}", reason="CALLER_CREDENTIALS_MISSING")
    if len(values) > 1:
        raise Unauthenticated(
            f"the call has {AUTHORIZATION} more than once; it needs one {_EXPECTED}",
            reason="CALLER_CREDENTIALS_AMBIGUOUS",
        )
    found = _bearer(values[0]) if isinstance(values[0], str) else None
    if found is None:
        raise Unauthenticated(
            f"{AUTHORIZATION} is not as expected; the call needs {_EXPECTED}",
            reason="CALLER_CREDENTIALS_MALFORMED",
        )
    return found[1]


def call_id(metadata: Metadata, *, named: str) -> str:
    """The id of a call: as its message names it, else as its metadata does, else a new one."""
    if named and _well_formed(named):
        return named
    for name, value in metadata:
        if name == REQUEST_ID and isinstance(value, str) and _well_formed(value):
            return value
    return new_request_id()


def new_request_id() -> str:
    """An id that nobody can guess, 32 hex digits."""
    return secrets.token_hex(16)


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
