"""Messages put together from parts that are encoded already; see https://protobuf.dev/programming-guides/encoding."""

from functools import lru_cache

from google.protobuf.message import Message

_LENGTH_DELIMITED = 2


def tag(message: type[Message], field: str) -> bytes:
    """What stands before the length of ``field``, a string, bytes or a message."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)


def delimited(tag: bytes, encoded: bytes) -> bytes:
    """The whole field."""
    return tag + _varint(len(encoded)) + encoded


@lru_cache(maxsize=4096)
def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have the highest bit set."""
    if number < 0x80:
        return bytes((number,))
    return bytes((number & 0x7F | 0x80,)) + _varint(number >> 7)
