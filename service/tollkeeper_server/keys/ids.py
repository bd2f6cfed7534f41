"""Key identifiers: they sort by creation."""

import re
import secrets
import string
from datetime import UTC, datetime, timedelta

KEY_ID_PATTERN = re.compile("key_[0-9A-Za-z]{22}")

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase  # in the order of their bytes
_DIGITS = 22  # 62^22 > 2^128
_RANDOM_BITS = 70
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


def new_key_id(now: datetime) -> str:
    """``key_`` and 22 base62 digits: the microsecond of ``now`` in 58 bits, then 70 random ones."""
    number = ((now - _EPOCH) // _TICK) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    digits = []
    for _ in range(_DIGITS):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "key_" + "".join(reversed(digits))
