"""Keeps secrets out of logs: a structlog processor for values, and a mask over every line that leaves.

Redaction reads ``debug_redact`` from the contract, so a field is secret where it is declared and nowhere else.
"""

import re
from collections.abc import Mapping, MutableMapping
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

REDACTED = "[redacted]"

_SECRET_NAMES = frozenset(
    {
        "api_key",
        "authorization",
        "password",
        "pepper",
        "peppers",
        "postgres_url",
        "raw_api_key",
        "redis_url",
        "secret",
        "seed",
        "tag_key",
        "tag_keys",
        "token",
    }
)
_PLAIN = frozenset({str, int, float, bool, type(None)})

# An API key of ours ends in "_" and at least 34 letters and digits; nothing else that is logged does.
_API_KEY_TAIL = re.compile(rb"_[0-9A-Za-z]{34,}")


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: no secret is left in the event, however deep."""
    if _SECRET_NAMES.isdisjoint(event) and _PLAIN.issuperset(map(type, event.values())):
        return event
    for name, value in event.items():
        if name in _SECRET_NAMES:
            event[name] = REDACTED
        elif type(value) not in _PLAIN:
            event[name] = redacted(value)
    return event


def redacted(value: Any) -> Any:
    """The value without secrets: messages and mappings by the names of their fields, metadata by those of its pairs."""
    if isinstance(value, Message):
        return _redacted_message(value)
    if isinstance(value, Mapping):
        return {name: REDACTED if _is_secret(name) else redacted(item) for name, item in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and _is_secret(value[0]):
        return (value[0], REDACTED)
    if isinstance(value, tuple):
        return tuple(map(redacted, value))
    if isinstance(value, list | set | frozenset):
        return [redacted(item) for item in value]
    return value


def mask(lines: bytes) -> bytes:
    """The lines without anything that looks like an API key of ours."""
    return _API_KEY_TAIL.sub(b"_" + REDACTED.encode(), lines)


def _is_secret(name: Any) -> bool:
    return isinstance(name, str) and name.lower() in _SECRET_NAMES


def _redacted_message(message: Message) -> dict[str, Any]:
    secret = _secret_fields(message.DESCRIPTOR)
    return {
        field.name: REDACTED if field.name in secret else _redacted_field(field, value)
        for field, value in message.ListFields()
    }


def _redacted_field(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is None:
        return list(value) if field.is_repeated else value
    if field.message_type.GetOptions().map_entry:
        return {str(name): redacted(item) for name, item in value.items()}
    return [_redacted_message(item) for item in value] if field.is_repeated else _redacted_message(value)


@cache
def _secret_fields(descriptor: Descriptor) -> frozenset[str]:
    return frozenset(field.name for field in descriptor.fields if field.GetOptions().debug_redact)
