"""Keys in Postgres. Every mutation is one statement: it happens as a whole or not at all, in one round trip.

Each locks its key first and takes its numbers last: who has taken numbers holds up all other mutations to the commit.
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
_RECORDS = """
    change AS (
        INSERT INTO changes (revision, key_id, kind, changed_at)
        SELECT revision, $10, $3, $8 FROM number
    ),
    remembered AS (
        INSERT INTO idempotency (tenant_id, actor, method, request_id, fingerprint, seed, key_id, revision, created_at)
        SELECT $1, $2, $3, $4, $6, $7, $10, revision, $8 FROM number WHERE $4 <> ''
    ),
    -- Whoever adds a record takes an outdated one away, so that they never pile up.
    outdated AS (
        DELETE FROM idempotency WHERE $4 <> '' AND ctid = (
            SELECT ctid FROM idempotency WHERE created_at <= $9 ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
        )
    )
"""
# The order of the indexes for pages; see there.
_PAGE_ORDER = 'key_id COLLATE "POSIX"'
_AUDIT_COLUMNS = (
    "tenant_id, sequence, occurred_at, actor, actor_ip, action, key_id, owner_id, request_id, revision, before, after"
)
_CREATE = f"""
    WITH {_KNOWN}, tenant AS (
        INSERT INTO tenants (tenant_id, created_at)
        SELECT $11, $8 WHERE NOT EXISTS (SELECT FROM known)
        ON CONFLICT (tenant_id) DO NOTHING
    ), number AS MATERIALIZED (
        SELECT revision, sequence FROM next_numbers($11) WHERE NOT EXISTS (SELECT FROM known)
    ), key AS (
        INSERT INTO keys ({NEW_COLUMNS}, revision)
        SELECT {", ".join(f"${number}" for number in range(10, 30))}, revision FROM number
        RETURNING *
    ), secret AS (
        INSERT INTO secrets (digest, pepper_version, key_id, created_at)
        SELECT $30, $31, $10, $8 FROM number
    ), audit AS (
        INSERT INTO audit_events ({_AUDIT_COLUMNS})
        SELECT $11, sequence, $8, $2, $5, $3, $10, key.owner_id, $4, number.revision, NULL, to_jsonb(key)
        FROM number, key
    ), {_RECORDS}
    SELECT revision FROM number
"""  # noqa: S608
_REVOKE = f"""
    WITH {_KNOWN}, old AS MATERIALIZED (
        SELECT tenant_id, to_jsonb(keys) AS record FROM keys
        WHERE key_id = $10 AND state <> 'REVOKED' AND NOT EXISTS (SELECT FROM known)
        FOR UPDATE
    ), number AS MATERIALIZED (
        SELECT revision, sequence FROM old, next_numbers(old.tenant_id)
    ), key AS (
        UPDATE keys SET state = 'REVOKED', revoked_at = $8, revoke_reason = $11, updated_at = $8, updated_by = $2,
            revision = number.revision
        FROM number WHERE key_id = $10
        RETURNING keys.*
    ), audit AS (
        INSERT INTO audit_events ({_AUDIT_COLUMNS})
        SELECT old.tenant_id, sequence, $8, $2, $5, $3, $10, key.owner_id, $4, number.revision,
            old.record, to_jsonb(key) || jsonb_build_object('revoke_comment', $12::text)
        FROM old, number, key
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
    text, values = page_statement(query, tenant_id=tenant_id, before=before, now=now)
    async with connection.transaction():
        # Which index serves best depends on the values: an environment may be that of every key, or of one.
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        return [key_from(row) for row in await connection.fetch(text, *values)]


def page_statement(query: ListKeys, *, tenant_id: str, before: str | None, now: datetime) -> tuple[str, Sequence[Any]]:
    """What reads a page, with its values.

    A page is a range of the index of one of its filters, at a cost that does not grow with the table; the other filters
    look at what is found there. EXPIRED alone is found by passing over every active key that is newer.
    """
    values: list[Any] = []

    def mark(value: Any) -> str:
        values.append(value)
        return f"${len(values)}"

    stored = "ACTIVE" if query.state is KeyState.EXPIRED else query.state
    filters = {"owner_id": query.owner_id, "environment": query.environment, "prefix": query.prefix, "state": stored}
    conditions = [f"tenant_id = {mark(tenant_id)}"]
    conditions += [f"{column} = {mark(value)}" for column, value in filters.items() if value]
    if query.state is KeyState.ACTIVE:
        conditions.append(f"(expires_at IS NULL OR expires_at > {mark(now)})")
    elif query.state is KeyState.EXPIRED:
        conditions.append(f"expires_at <= {mark(now)}")
    if before is not None:
        conditions.append(f"{_PAGE_ORDER} < {mark(before)}")
    where, limit = " AND ".join(conditions), mark(query.page_size + 1)
    return f"SELECT * FROM keys WHERE {where} ORDER BY {_PAGE_ORDER} DESC LIMIT {limit}", values  # noqa: S608


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
