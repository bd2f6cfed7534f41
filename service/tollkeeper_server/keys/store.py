"""Keys in Postgres. Every mutation is one statement: it happens as a whole or not at all, in one round trip.

Each takes its locks in the same order: the key, its tenant, and last the revision counter, until the commit.
"""

from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from tollkeeper_server.core.key import Key, KeyState
from tollkeeper_server.keys.commands import ListKeys, RevokeKey
from tollkeeper_server.keys.records import NEW_COLUMNS, key_from, new_row
from tollkeeper_server.keys.requests import REMEMBERED, Request
from tollkeeper_server.storage.postgres import Connection

# What surrounds the change in every mutation. $1 to $6 are the Request, $7 is the seed of an API key, $8 the time, $9
# the end of the time whose requests are forgotten, $10 the key_id. Nothing is done for a request that is known already.
_KNOWN = """
    known AS (
        SELECT FROM idempotency WHERE (tenant_id, actor, method, request_id) = ($1, $2, $3, $4)
    )
"""
_COUNTER = """
    counter AS (
        UPDATE revision_counter SET revision = revision_counter.revision + 1
        FROM tenant
        RETURNING revision_counter.revision
    )
"""
_RECORDS = """
    change AS (
        INSERT INTO changes (revision, key_id, kind, changed_at)
        SELECT revision, $10, $3, $8 FROM counter
    ),
    remembered AS (
        INSERT INTO idempotency (tenant_id, actor, method, request_id, fingerprint, seed, key_id, revision, created_at)
        SELECT $1, $2, $3, $4, $6, $7, $10, revision, $8 FROM counter WHERE $4 <> ''
    ),
    -- Whoever adds a record takes two outdated ones away, so that they never pile up.
    outdated AS (
        DELETE FROM idempotency WHERE $4 <> '' AND ctid = ANY (ARRAY(
            SELECT ctid FROM idempotency WHERE created_at <= $9 ORDER BY created_at LIMIT 2 FOR UPDATE SKIP LOCKED
        ))
    )
"""
_AUDIT_COLUMNS = (
    "tenant_id, sequence, occurred_at, actor, actor_ip, action, key_id, owner_id, request_id, revision, before, after"
)
_CREATE = f"""
    WITH {_KNOWN}, tenant AS (
        INSERT INTO tenants AS tenant (tenant_id, created_at, audit_sequence)
        SELECT $11, $8, 1 WHERE NOT EXISTS (SELECT FROM known)
        ON CONFLICT (tenant_id) DO UPDATE SET audit_sequence = tenant.audit_sequence + 1
        RETURNING audit_sequence
    ), {_COUNTER}, key AS (
        INSERT INTO keys ({NEW_COLUMNS}, revision)
        SELECT {", ".join(f"${number}" for number in range(10, 30))}, revision FROM counter
        RETURNING *
    ), secret AS (
        INSERT INTO secrets (digest, pepper_version, key_id, created_at)
        SELECT $30, $31, $10, $8 FROM counter
    ), audit AS (
        INSERT INTO audit_events ({_AUDIT_COLUMNS})
        SELECT tenant_id, audit_sequence, $8, $2, $5, $3, key_id, owner_id, $4, revision, NULL, to_jsonb(key)
        FROM tenant, key
    ), {_RECORDS}
    SELECT revision FROM counter
"""  # noqa: S608
_REVOKE = f"""
    WITH {_KNOWN}, old AS (
        SELECT keys.tenant_id AS its_tenant, to_jsonb(keys) AS record FROM keys
        WHERE key_id = $10 AND state <> 'REVOKED' AND NOT EXISTS (SELECT FROM known)
        FOR UPDATE
    ), tenant AS (
        UPDATE tenants SET audit_sequence = audit_sequence + 1 FROM old WHERE tenant_id = its_tenant
        RETURNING audit_sequence
    ), {_COUNTER}, key AS (
        UPDATE keys SET state = 'REVOKED', revoked_at = $8, revoke_reason = $11, updated_at = $8, updated_by = $2,
            revision = counter.revision
        FROM counter WHERE key_id = $10
        RETURNING keys.*
    ), audit AS (
        INSERT INTO audit_events ({_AUDIT_COLUMNS})
        SELECT tenant_id, audit_sequence, $8, $2, $5, $3, key_id, owner_id, $4, revision,
            old.record, to_jsonb(key) || jsonb_build_object('revoke_comment', $12::text)
        FROM old, tenant, key
    ), {_RECORDS}
    SELECT * FROM key
"""  # noqa: S608


async def create_key(
    connection: Connection, key: Key, *, digest: bytes, pepper_version: int, seed: bytes, request: Request
) -> int | None:
    """Store a new key and the digest of its API key, and its tenant if that is new; gives the revision.

    None, with nothing done, if the request is known: see ``first_answer``.
    """
    values = (*_shared(request, seed=seed, now=key.created_at), *new_row(key), digest, pepper_version)
    row = await _unless_known(connection.fetchrow(_CREATE, *values))
    return None if row is None else row["revision"]


async def revoke_key(
    connection: Connection, key_id: str, command: RevokeKey, *, request: Request, now: datetime
) -> Key | None:
    """Revoke a key. None, with nothing done, if it is revoked or the request is known."""
    values = (*_shared(request, seed=None, now=now), key_id, command.reason.value, command.comment)
    row = await _unless_known(connection.fetchrow(_REVOKE, *values))
    return None if row is None else key_from(row)


async def list_keys(
    connection: Connection, query: ListKeys, *, tenant_id: str, before: str | None, now: datetime
) -> Sequence[Key]:
    """The newest keys that match, older than the key ``before``; one more than a page if there are more."""
    values: list[Any] = [tenant_id]
    conditions = ["tenant_id = $1"]

    def where(condition: str, value: Any) -> None:
        values.append(value)
        conditions.append(condition.format(f"${len(values)}"))

    if before is not None:
        where("key_id < {}", before)
    if query.owner_id:
        where("owner_id = {}", query.owner_id)
    if query.environment:
        where("environment = {}", query.environment)
    if query.prefix:
        where("prefix = {}", query.prefix)
    if query.state is KeyState.ACTIVE:
        where("state = 'ACTIVE' AND (expires_at IS NULL OR expires_at > {})", now)
    elif query.state is KeyState.EXPIRED:
        where("state = 'ACTIVE' AND expires_at <= {}", now)
    elif query.state is not None:
        where("state = {}", query.state.value)
    values.append(query.page_size + 1)
    text = f"SELECT * FROM keys WHERE {' AND '.join(conditions)} ORDER BY key_id DESC LIMIT ${len(values)}"  # noqa: S608
    return [key_from(row) for row in await connection.fetch(text, *values)]


def _shared(request: Request, *, seed: bytes | None, now: datetime) -> tuple[Any, ...]:
    return (
        request.tenant_id,
        request.actor,
        request.method,
        request.request_id,
        request.actor_ip,
        request.fingerprint,
        seed,
        now,
        now - REMEMBERED,
    )


async def _unless_known(statement: Awaitable[asyncpg.Record | None]) -> asyncpg.Record | None:
    """None also where the same request came twice at the same time and the other one has got through."""
    try:
        return await statement
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "idempotency_pkey":
            return None
        raise
