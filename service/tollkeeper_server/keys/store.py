"""Keys in Postgres: what mutations read under the lock and write before they release it, and pages of keys."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import orjson

from tollkeeper_server.keys.records import (
    KEY_COLUMNS,
    OWNER_COLUMNS,
    dumps,
    key_from,
    key_record,
    owner_from_record,
    owner_record,
)
from tollkeeper_server.keys.requests import REMEMBERED, Id, Remembered, Request
from tollkeeper_server.keys.workspace import Algorithm, Needs, Step, StoredSecret, Workspace
from tollkeeper_server.storage.postgres import Connection

CHANGES_KEPT = timedelta(days=1)
"""A cache that was cut off for longer begins anew."""

# Takes the lock that makes mutations happen one after the other. What is read later reflects all of them.
_NEXT_REVISION = "SELECT revision FROM next_numbers('')"

# LIMIT and OFFSET keep the planner to one look into the index for each; without them it may read all of the table.
_REMEMBERED = """
    SELECT found.*
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS it (tenant_id, actor, method, request_id)
    CROSS JOIN LATERAL (
        SELECT * FROM idempotency WHERE (tenant_id, actor, method, request_id)
            = (it.tenant_id, it.actor, it.method, it.request_id) LIMIT 1
    ) AS found
"""
_FORGET = "DELETE FROM idempotency WHERE (tenant_id, actor, method, request_id) = ($1, $2, $3, $4)"
OLD_LAST_USED_AT = """
    CASE WHEN overlap_ends_at IS NOT NULL THEN (
        SELECT old.last_used_at FROM secrets AS old
        WHERE old.key_id = keys.key_id AND old.expires_at = overlap_ends_at LIMIT 1
    ) END AS old_last_used_at
"""
# Rows are locked because their last use is noted without the lock of mutations.
_KEYS = f"SELECT *, {OLD_LAST_USED_AT} FROM keys WHERE key_id = ANY($1) ORDER BY key_id FOR NO KEY UPDATE"  # noqa: S608
_KEYS_OF = """
    SELECT found.key_id FROM unnest($1::text[], $2::text[]) AS it (tenant_id, owner_id)
    CROSS JOIN LATERAL (
        SELECT key_id FROM keys
        WHERE (tenant_id, owner_id) = (it.tenant_id, it.owner_id) AND state <> 'REVOKED' OFFSET 0
    ) AS found
"""
_SECRETS_OF = "SELECT * FROM secrets WHERE key_id = ANY($1)"
_OWNERS = """
    SELECT found.record FROM unnest($1::text[], $2::text[]) AS it (tenant_id, owner_id)
    CROSS JOIN LATERAL (
        SELECT to_jsonb(owners) AS record FROM owners
        WHERE (tenant_id, owner_id) = (it.tenant_id, it.owner_id) LIMIT 1
    ) AS found
"""
_TAKEN = "SELECT digest FROM secrets WHERE digest = ANY($1)"


def _assignments(columns: Sequence[str]) -> str:
    return ", ".join(f"{column} = excluded.{column}" for column in columns)


_DIGEST_COLUMNS = "digest, algorithm, pepper_version, key_id, created_at, expires_at, imported"
_STEP_COLUMNS = (
    "revision bigint, tenant_id text, key_id text, owner_id text, kind text, actor text, actor_ip text,"
    " request_id text, changed_at timestamptz, before jsonb, after jsonb"
)
# The order of steps is that of the audit log, which chains its events as they come in. Outdated changes go as new ones
# come, two for one, so that they never pile up and the newest one, which numbers the next, always stays.
_STORE = f"""
    WITH step AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset($1) AS step ({_STEP_COLUMNS}) ORDER BY revision
    ), tenant AS (
        INSERT INTO tenants (tenant_id, created_at) SELECT tenant_id, min(changed_at) FROM step GROUP BY tenant_id
        ON CONFLICT (tenant_id) DO NOTHING
    ), key AS (
        INSERT INTO keys ({", ".join(KEY_COLUMNS)})
        SELECT {", ".join(KEY_COLUMNS)} FROM jsonb_populate_recordset(NULL::keys, $2)
        ON CONFLICT (key_id) DO UPDATE SET {_assignments(KEY_COLUMNS[1:])}
    ), owner AS (
        INSERT INTO owners ({", ".join(OWNER_COLUMNS)})
        SELECT {", ".join(OWNER_COLUMNS)} FROM jsonb_populate_recordset(NULL::owners, $3)
        ON CONFLICT (tenant_id, owner_id) DO UPDATE SET {_assignments(OWNER_COLUMNS[2:])}
    ), secret AS (
        INSERT INTO secrets ({_DIGEST_COLUMNS})
        SELECT {_DIGEST_COLUMNS} FROM jsonb_populate_recordset(NULL::secrets, $4)
    ), ended AS (
        UPDATE secrets SET expires_at = (
            SELECT ends_at FROM unnest($5::bytea[], $6::timestamptz[]) AS it (ended, ends_at) WHERE ended = digest
        ) WHERE digest = ANY($5::bytea[])
    ), dropped AS (
        DELETE FROM secrets WHERE digest = ANY($7::bytea[])
    ), change AS (
        INSERT INTO changes (revision, tenant_id, key_id, owner, kind, changed_at)
        SELECT revision, tenant_id, key_id,
            CASE WHEN key_id = '' THEN tenant_id || '/' || owner_id ELSE '' END, kind, changed_at
        FROM step
    ), outdated AS (
        DELETE FROM changes WHERE revision IN (
            SELECT revision FROM (SELECT revision, changed_at FROM changes ORDER BY revision LIMIT $8) AS oldest
            WHERE changed_at <= $9
        )
    ), audit AS (
        INSERT INTO audit_events (tenant_id, sequence, occurred_at, actor, actor_ip, action, key_id, owner_id,
            request_id, revision, before, after)
        SELECT tenant_id, 0, changed_at, actor, actor_ip, kind, key_id, owner_id, request_id, revision, before, after
        FROM step ORDER BY revision
    )
    SELECT
"""  # noqa: S608
# Whoever adds answers takes as many outdated ones away, so that they never pile up.
_REMEMBER = """
    WITH outdated AS (
        DELETE FROM idempotency WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM idempotency WHERE created_at <= $2 ORDER BY created_at LIMIT $3
        ))
    )
    INSERT INTO idempotency (tenant_id, actor, method, request_id, fingerprint, seed, revision, answer, created_at)
    SELECT tenant_id, actor, method, request_id, fingerprint, seed, revision, answer, created_at
    FROM jsonb_populate_recordset(NULL::idempotency, $1)
"""


async def open_workspace(
    connection: Connection, needs: Needs, requests: Sequence[Request], *, clock: Callable[[], datetime]
) -> Workspace:
    """Take the lock, and read what is needed."""
    next_revision = await connection.fetchval(_NEXT_REVISION)
    key_ids = set(needs.key_ids)
    if needs.keys_of:
        key_ids |= {row["key_id"] for row in await connection.fetch(_KEYS_OF, *zip(*needs.keys_of, strict=True))}
    return Workspace(
        clock=clock,
        next_revision=next_revision,
        answers=await _remembered(connection, requests, forgotten=clock() - REMEMBERED) if requests else {},
        keys=map(key_from, await connection.fetch(_KEYS, sorted(key_ids)) if key_ids else ()),
        secrets=map(_secret_from, await connection.fetch(_SECRETS_OF, needs.secrets_of) if needs.secrets_of else ()),
        owners=[
            owner_from_record(orjson.loads(row["record"]))
            for row in (await connection.fetch(_OWNERS, *zip(*needs.owner_ids, strict=True)) if needs.owner_ids else ())
        ],
        taken=[row["digest"] for row in (await connection.fetch(_TAKEN, needs.digests) if needs.digests else ())],
    )


async def store_workspace(connection: Connection, workspace: Workspace) -> None:
    """Write what the operations have changed, and what they answered."""
    if workspace.steps:
        ended = workspace.ended_secrets()
        await connection.execute(
            _STORE,
            dumps([_step_row(step) for step in workspace.steps]),
            dumps(list(map(key_record, workspace.changed_keys()))),
            dumps(list(map(owner_record, workspace.changed_owners()))),
            dumps(workspace.new_secrets()),
            [secret.digest for secret in ended],
            [secret.expires_at for secret in ended],
            workspace.dropped_secrets(),
            2 * len(workspace.steps),
            workspace.now() - CHANGES_KEPT,
        )
    if workspace.answered:
        rows = [_answer_row(request, answered) for request, answered in workspace.answered]
        await connection.execute(_REMEMBER, dumps(rows), workspace.now() - REMEMBERED, len(rows))


async def _remembered(
    connection: Connection, requests: Sequence[Request], *, forgotten: datetime
) -> dict[Id, Remembered]:
    rows = await connection.fetch(_REMEMBERED, *zip(*(request.id for request in requests), strict=True))
    ids = {(row["tenant_id"], row["actor"], row["method"], row["request_id"]): row for row in rows}
    outdated = [id_ for id_, row in ids.items() if row["created_at"] <= forgotten]
    if outdated:
        await connection.executemany(_FORGET, outdated)
    return {id_: Remembered.read(row) for id_, row in ids.items() if row["created_at"] > forgotten}


def _secret_from(row: asyncpg.Record) -> StoredSecret:
    return StoredSecret(
        digest=row["digest"],
        algorithm=Algorithm(row["algorithm"]),
        pepper_version=row["pepper_version"],
        key_id=row["key_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        imported=row["imported"],
        last_used_at=row["last_used_at"],
    )


def _step_row(step: Step) -> dict[str, Any]:
    return {
        "revision": step.revision,
        "tenant_id": step.tenant_id,
        "key_id": step.key_id,
        "owner_id": step.owner_id,
        "kind": step.request.method,
        "actor": step.request.actor,
        "actor_ip": step.request.actor_ip,
        "request_id": step.request.request_id,
        "changed_at": step.changed_at,
        "before": step.before,
        "after": step.after,
    }


def _answer_row(request: Request, answered: Remembered) -> dict[str, Any]:
    return {
        "tenant_id": request.tenant_id,
        "actor": request.actor,
        "method": request.method,
        "request_id": request.request_id,
        "fingerprint": answered.fingerprint,
        "seed": answered.answer.seed,
        "revision": answered.answer.revision,
        "answer": answered.answer.content(),
        "created_at": answered.answered_at,
    }
