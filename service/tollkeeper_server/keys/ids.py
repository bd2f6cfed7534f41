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
    return _key_id(now, secrets.randbits(_RANDOM_BITS))


def first_key_id(moment: datetime) -> str:
    """No key that was made at ``moment`` or later sorts before this, and every one that was made earlier does."""
    return _key_id(max(moment, _EPOCH), 0)


def _key_id(moment: datetime, rest: int) -> str:
    number = ((moment - _EPOCH) // _TICK) << _RANDOM_BITS | rest
    digits = []
    for _ in range(_DIGITS):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "key_" + "".join(reversed(digits))
