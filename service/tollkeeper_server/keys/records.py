"""Keys, secrets and owners as rows, and as the records of the audit log: the one place that knows both."""

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_network
from typing import Any, Protocol

import orjson

from tollkeeper_server.core.key import Key, KeyState, Owner, RevokeReason
from tollkeeper_server.core.limits import CalendarWindow, Limit, LimitKind


class Row(Protocol):
    """A row of the database, or a record in JSON."""

    def __getitem__(self, name: str, /) -> Any: ...

    def get(self, name: str, /) -> Any: ...


KEY_COLUMNS = (
    "key_id",
    "tenant_id",
    "owner_id",
    "name",
    "description",
    "environment",
    "prefix",
    "length",
    "hint",
    "state",
    "permissions",
    "resources",
    "allowed_cidrs",
    "limits",
    "metadata",
    "created_at",
    "created_by",
    "updated_at",
    "updated_by",
    "expires_at",
    "revoked_at",
    "revoke_reason",
    "api_key_created_at",
    "overlap_ends_at",
    "revision",
)
"""Columns that mutations write, of which a key's record consists."""

OWNER_COLUMNS = (
    "tenant_id",
    "owner_id",
    "display_name",
    "limits",
    "suspended",
    "metadata",
    "created_at",
    "updated_at",
    "revision",
)

_ATTRIBUTES = {"state": "stored_state"}
_USES = ("last_used_at", "old_last_used_at")
_TIMES = (
    "created_at",
    "updated_at",
    "expires_at",
    "revoked_at",
    "api_key_created_at",
    "overlap_ends_at",
    *_USES,
)


def key_from(row: Row) -> Key:
    """The key of a row of the table ``keys``; ``old_last_used_at`` is taken over where the row has it."""
    return Key(
        key_id=row["key_id"],
        tenant_id=row["tenant_id"],
        owner_id=row["owner_id"],
        name=row["name"],
        description=row["description"],
        environment=row["environment"],
        prefix=row["prefix"],
        length=row["length"],
        hint=row["hint"],
        stored_state=KeyState(row["state"]),
        permissions=tuple(row["permissions"]),
        resources=tuple(row["resources"]),
        allowed_cidrs=tuple(row["allowed_cidrs"]),
        limits=_limits_from(row["limits"]),
        metadata=_json(row["metadata"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        updated_at=row["updated_at"],
        updated_by=row["updated_by"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        revoke_reason=RevokeReason(row["revoke_reason"]),
        last_used_at=row.get("last_used_at"),
        api_key_created_at=row["api_key_created_at"],
        overlap_ends_at=row["overlap_ends_at"],
        old_last_used_at=row.get("old_last_used_at"),
        revision=row["revision"],
    )


def key_record(key: Key) -> dict[str, Any]:
    """What is stored of a key, and told of it in the audit log."""
    return {column: getattr(key, _ATTRIBUTES.get(column, column)) for column in KEY_COLUMNS}


def whole_key_record(key: Key) -> dict[str, Any]:
    """As ``key_record``, with what is noted of its use."""
    return key_record(key) | {name: getattr(key, name) for name in _USES}


def key_from_record(record: Mapping[str, Any]) -> Key:
    """The inverse of ``whole_key_record``, after a passage through JSON."""
    times = {name: _time(record[name]) for name in _TIMES}
    return key_from({**record, **times, "allowed_cidrs": tuple(map(ip_network, record["allowed_cidrs"]))})


def owner_record(owner: Owner) -> dict[str, Any]:
    """What is stored of an owner, and told of it in the audit log."""
    return {column: getattr(owner, column) for column in OWNER_COLUMNS}


def owner_from_record(record: Mapping[str, Any]) -> Owner:
    """The inverse of ``owner_record``, after a passage through JSON; a row as JSON is a record as well."""
    created_at, updated_at = _time(record["created_at"]), _time(record["updated_at"])
    assert created_at is not None
    assert updated_at is not None
    return Owner(
        owner_id=record["owner_id"],
        tenant_id=record["tenant_id"],
        display_name=record["display_name"],
        limits=_limits_from(record["limits"]),
        suspended=record["suspended"],
        metadata=_json(record["metadata"]),
        created_at=created_at,
        updated_at=updated_at,
        revision=record["revision"],
    )


def dumps(value: object) -> str:
    """JSON as the database takes it."""
    return orjson.dumps(value, default=_plain).decode()


def _plain(value: object) -> object:
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)


def _json(value: Any) -> Any:
    """The driver gives JSON columns as text."""
    return orjson.loads(value) if isinstance(value, str) else value


def _time(value: str | datetime | None) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _limits_from(value: Any) -> tuple[Limit, ...]:
    return tuple(map(_limit_from, _json(value)))


def _limit_from(fields: Mapping[str, Any]) -> Limit:
    calendar = fields["calendar"]
    return Limit(
        name=fields["name"],
        kind=LimitKind(fields["kind"]),
        unit=fields["unit"],
        amount=fields["amount"],
        window_seconds=fields["window_seconds"],
        calendar=None if calendar is None else CalendarWindow(calendar),
        time_zone=fields["time_zone"],
        anchor=_time(fields["anchor"]),
        shadow=fields["shadow"],
    )
