"""A row of a file as a key to import."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import typer

from tollkeeper import ImportKey, Limit, LimitKind
from tollkeeper.command.keys.files import Row
from tollkeeper.command.limits import parse_duration, parse_limit
from tollkeeper.command.options import limits_of, parse_time

SEPARATOR = ";"


def import_key(row: Row) -> ImportKey:
    """The key that a row describes. Raises typer.TyperException, which shows no credential."""
    if unknown := row.values.keys() - COLUMNS.keys():
        raise row.fault(f"there is no column {', '.join(sorted(unknown))}: see `tollkeeper keys import --help`")
    fields: dict[str, Any] = {}
    for name, value in row.values.items():
        try:
            fields[name] = COLUMNS[name](value)
        except (typer.TyperException, ValueError) as error:
            raise row.fault(f"{name}: {error}") from None
    if len(fields.keys() & CREDENTIALS) != 1:
        raise row.fault(f"give exactly one of {', '.join(CREDENTIALS)}")
    if "expires_at" in fields and "ttl" in fields:
        raise row.fault("give expires_at or ttl, not both")
    try:
        limits = limits_of(*(fields.pop(kind, None) for kind in ("rate", "quota", "spend")))
    except typer.TyperException as error:
        raise row.fault(error.format_message()) from None
    return ImportKey(**fields, limits=tuple(limits))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value


def _number(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


def _words(value: Any) -> tuple[str, ...]:
    words = [word.strip() for word in value.split(SEPARATOR)] if isinstance(value, str) else value
    if not isinstance(words, list):
        raise ValueError("must be a list of texts")
    return tuple(_text(word) for word in words)


def _limits(kind: LimitKind) -> Callable[[Any], list[Limit]]:
    return lambda value: [parse_limit(text, kind) for text in _words(value)]


def _metadata(value: Any) -> Mapping[str, Any]:
    metadata = json.loads(value) if isinstance(value, str) else value
    if not isinstance(metadata, dict):
        raise ValueError("must be a JSON object")
    return metadata


def _time(value: Any) -> datetime:
    return parse_time(_text(value))


def _length(value: Any) -> timedelta:
    return parse_duration(_text(value))


CREDENTIALS = ("raw_api_key", "sha256_hex", "sha256_base64url", "sha512_hex", "hmac_sha256_hex")

COLUMNS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(CREDENTIALS, _text),
    "pepper_version": _number,
    "name": _text,
    "description": _text,
    "owner_id": _text,
    "environment": _text,
    "permissions": _words,
    "resources": _words,
    "allowed_cidrs": _words,
    "rate": _limits(LimitKind.RATE),
    "quota": _limits(LimitKind.QUOTA),
    "spend": _limits(LimitKind.SPEND),
    "metadata": _metadata,
    "expires_at": _time,
    "ttl": _length,
}
"""How each column is read."""
