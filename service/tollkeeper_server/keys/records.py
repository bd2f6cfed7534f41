"""Keys as rows: the one place that knows both."""

from datetime import datetime
from typing import Any

import asyncpg
import orjson

from tollkeeper_server.core.key import Key, KeyState, RevokeReason
from tollkeeper_server.core.limits import CalendarWindow, Limit, LimitKind


def key_from(row: asyncpg.Record) -> Key:
    """The key of a row of the table ``keys``."""
    return Key(
        key_id=row["key_id"],
        tenant_id=row["tenant_id"],
        owner_id=row["owner_id"],
        name=row["name"],
        description=row["description"],
        environment=row["environment"],
        prefix=row["prefix"],
        hint=row["hint"],
        stored_state=KeyState(row["state"]),
        permissions=tuple(row["permissions"]),
        resources=tuple(row["resources"]),
        allowed_cidrs=tuple(row["allowed_cidrs"]),
        limits=tuple(_limit_from(limit) for limit in orjson.loads(row["limits"])),
        metadata=orjson.loads(row["metadata"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        updated_at=row["updated_at"],
        updated_by=row["updated_by"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        revoke_reason=RevokeReason(row["revoke_reason"]),
        last_used_at=row["last_used_at"],
        revision=row["revision"],
    )


def new_row(key: Key) -> tuple[Any, ...]:
    """What is stored of a key that was just made, in the order of ``NEW_COLUMNS``."""
    return (
        key.key_id,
        key.tenant_id,
        key.owner_id,
        key.name,
        key.description,
        key.environment,
        key.prefix,
        key.hint,
        key.stored_state.value,
        key.permissions,
        key.resources,
        key.allowed_cidrs,
        orjson.dumps(key.limits).decode(),
        orjson.dumps(key.metadata).decode(),
        key.created_at,
        key.created_by,
        key.updated_at,
        key.updated_by,
        key.expires_at,
        key.revoke_reason.value,
    )


NEW_COLUMNS = (
    "key_id, tenant_id, owner_id, name, description, environment, prefix, hint, state, permissions, resources, "
    "allowed_cidrs, limits, metadata, created_at, created_by, updated_at, updated_by, expires_at, revoke_reason"
)


def _limit_from(fields: dict[str, Any]) -> Limit:
    calendar, anchor = fields["calendar"], fields["anchor"]
    return Limit(
        name=fields["name"],
        kind=LimitKind(fields["kind"]),
        unit=fields["unit"],
        amount=fields["amount"],
        window_seconds=fields["window_seconds"],
        calendar=None if calendar is None else CalendarWindow(calendar),
        time_zone=fields["time_zone"],
        anchor=None if anchor is None else datetime.fromisoformat(anchor),
        shadow=fields["shadow"],
    )
