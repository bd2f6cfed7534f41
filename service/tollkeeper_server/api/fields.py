"""Rules for fields that recur in requests, and for those that need more than a bound or a pattern."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from math import isfinite
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from tollkeeper_server.api.convert import json_from
from tollkeeper_server.api.rules import NONE, Problems, Rule, at_most_bytes, between, each, matching
from tollkeeper_server.core.credential import PREFIX_PATTERN
from tollkeeper_server.core.limits import AMOUNT_MAX

API_KEY_BYTES_MAX = 4096
API_KEY_CHARACTERS_FIT = API_KEY_BYTES_MAX // 4
"""So many characters are never too many bytes."""
RAW_API_KEY_BYTES_MIN = 16
METADATA_BYTES_MAX = 4096
BATCH_MAX = 1000
"""Most items in one request."""
UNITS_MAX = 16
CIDRS_MAX = 100
WORDS_MAX = 100
UNIT_PATTERN = r"[a-z0-9_.-]{1,32}"
UNIT_ALLOWED = 'must be 1 to 32 of a-z, 0-9, "_", "-" and "."'
REQUEST_ID_PATTERN = r"[A-Za-z0-9_.:-]{1,64}"

_IP_CHARACTERS_MAX = 45
_TIME_ZONE_CHARACTERS_MAX = 64
_OWNER_CHARACTERS = r"[A-Za-z0-9_.@/:-]"
_OWNER_ALLOWED = 'of A-Z, a-z, 0-9, "_", "-", ".", "@", "/" and ":"'
_WORD_CHARACTERS = r"[A-Za-z0-9_.*/:-]"
_WORD_ALLOWED = 'of A-Z, a-z, 0-9, "_", "-", ".", "*", "/" and ":"'
_NOT_A_NETWORK: Problems = (
    ("", 'must be an IPv4 or IPv6 network as "192.0.2.0/24", without bits set behind its prefix'),
)
_is_unit = re.compile(UNIT_PATTERN).fullmatch

amount = between(0, AMOUNT_MAX)
api_key = at_most_bytes(API_KEY_BYTES_MAX)
given_api_key = at_most_bytes(API_KEY_BYTES_MAX, at_least=1)
raw_api_key = at_most_bytes(API_KEY_BYTES_MAX, at_least=RAW_API_KEY_BYTES_MIN)
sha256_base64url = matching(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", "must be 32 bytes in base64url without padding")
environment = matching(r"[A-Za-z0-9_.-]{0,64}", 'must be 0 to 64 of A-Z, a-z, 0-9, "_", "-" and "."')
etag = matching(r"[0-9a-f]{0,16}", "must be empty, or the etag of the record as it was read")
key_id = matching(r"key_[A-Za-z0-9]{22}", 'must be "key_" and 22 letters or digits')
key_id_or_empty = matching(r"key_[A-Za-z0-9]{22}", 'must be "key_" and 22 letters or digits', or_empty=True)
owner_id = matching(_OWNER_CHARACTERS + "{1,128}", f"must be 1 to 128 {_OWNER_ALLOWED}")
owner_id_or_empty = matching(_OWNER_CHARACTERS + "{0,128}", f"must be 0 to 128 {_OWNER_ALLOWED}")
PAGE = {
    "page_size": between(0, 2**31 - 1),
    "page_token": matching(r"[A-Za-z0-9_=-]{0,512}", "must be empty, or the next_page_token of the page before"),
}
"""What all requests for one page of many have."""
prefix = matching(
    PREFIX_PATTERN.pattern,
    'must be 1 to 20 of A-Z, a-z and 0-9, with single "_" or "-" inside, starting with a letter',
    or_empty=True,
)
request_id = matching(REQUEST_ID_PATTERN, 'must be 1 to 64 of A-Z, a-z, 0-9, "_", "-", "." and ":"', or_empty=True)
required_permission = matching(
    r"[A-Za-z0-9_./:-]{1,64}", 'must be 1 to 64 of A-Z, a-z, 0-9, "_", "-", ".", "/" and ":"'
)
resource_or_empty = matching(_WORD_CHARACTERS + "{0,128}", f"must be 0 to 128 {_WORD_ALLOWED}")
tenant_id = matching(
    r"[a-z0-9][a-z0-9_-]{0,63}",
    'must be 1 to 64 of a-z, 0-9, "_" and "-", starting with a letter or digit',
    or_empty=True,
)


def words(*, characters_max: int) -> Rule:
    """Permissions or resources of a key."""
    pattern = f"{_WORD_CHARACTERS}{{1,{characters_max}}}"
    return each(matching(pattern, f"must be 1 to {characters_max} {_WORD_ALLOWED}"), at_most=WORDS_MAX)


def hex_digest(digits: int) -> Rule:
    """A digest of so many hex digits."""
    return matching(rf"[0-9A-Fa-f]{{{digits}}}", f"must be {digits} hex digits")


def field_mask(known: Sequence[str]) -> Rule:
    """Names of fields, at least one, none twice."""
    problem = (("", f"must name at least one of {', '.join(known)}, and nothing else"),)

    def rule(mask: FieldMask) -> Problems:
        paths = list(mask.paths)
        return NONE if paths and set(paths) <= set(known) and len(set(paths)) == len(paths) else problem

    return rule


@lru_cache(maxsize=4096)
def ip_from(address: str) -> IPv4Address | IPv6Address | None:
    """The address, without port or zone; None if it is not one."""
    if len(address) > _IP_CHARACTERS_MAX or "%" in address:
        return None
    try:
        return ip_address(address)
    except ValueError:
        return None


def client_ip(address: str) -> Problems:
    """An IP address, or none."""
    if not address or ip_from(address) is not None:
        return NONE
    return (("", "must be an IPv4 or IPv6 address without port, or empty"),)


def charges(amounts: Mapping[str, int]) -> Problems:
    """Amounts by unit. A path names a unit only if it is well-formed."""
    if len(amounts) > UNITS_MAX:
        return (("", f"must be at most {UNITS_MAX} units"),)
    found: list[tuple[str, str]] = []
    for unit, charged in amounts.items():
        if not _is_unit(unit):
            found.append(("", f"every unit {UNIT_ALLOWED}"))
        elif problems := amount(charged):
            found += [(f'["{unit}"]', allowed) for _, allowed in problems]
    return found


def metadata(struct: Struct) -> Problems:
    """What JSON and the database can hold, up to a size."""
    values = json_from(struct)
    if not _is_storable(values):
        return (("", "must hold finite numbers only, and text without NUL"),)
    if len(orjson.dumps(values)) > METADATA_BYTES_MAX:
        return (("", f"must be at most {METADATA_BYTES_MAX} bytes as JSON"),)
    return NONE


def _is_storable(value: Any) -> bool:
    if isinstance(value, dict):
        return all("\0" not in name and _is_storable(item) for name, item in value.items())
    if isinstance(value, list):
        return all(_is_storable(item) for item in value)
    if isinstance(value, str):
        return "\0" not in value
    return not isinstance(value, float) or isfinite(value)


def allowed_cidrs(texts: Sequence[str]) -> Problems:
    """Networks in CIDR notation, none inside another and none twice."""
    if problems := _each_a_network(texts):
        return problems
    networks = [(network_from(text), index) for index, text in enumerate(texts)]
    found: list[tuple[str, str]] = []
    outer: tuple[IPv4Network | IPv6Network, int] | None = None
    # In this order a network comes right after the one that it lies in, or after others that lie in there as well.
    for network, index in sorted(networks, key=lambda item: (item[0].version, item[0], item[1])):
        if outer is not None and network.version == outer[0].version and network[0] in outer[0]:
            found.append((f"[{index}]", f"must not lie inside another network, here allowed_cidrs[{outer[1]}]"))
        else:
            outer = (network, index)
    return found


def network_from(text: str) -> IPv4Network | IPv6Network:
    """The network; raises ValueError if the text is not one in CIDR notation."""
    address, _, bits = text.partition("/")
    if ip_from(address) is None or not bits.isascii() or not bits.isdecimal():
        raise ValueError("not in CIDR notation")
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network[0].ipv4_mapped is not None:
        # Clients are compared as IPv4 where their address is mapped, so this would never match.
        raise ValueError("IPv4 inside IPv6")
    return network


def _network(text: str) -> Problems:
    try:
        network_from(text)
    except ValueError:
        return _NOT_A_NETWORK
    return NONE


_each_a_network = each(_network, at_most=CIDRS_MAX)


def time_zone(name: str) -> Problems:
    """A time zone of the IANA database, or none."""
    if not name or (len(name) <= _TIME_ZONE_CHARACTERS_MAX and _is_time_zone(name)):
        return NONE
    return (("", 'must be the IANA name of a time zone, as "Europe/Berlin", or empty'),)


def _is_time_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return False
    return name != "localtime"  # a file beside the zones, which means another zone on each machine
