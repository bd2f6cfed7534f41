"""Changes: what caches have to follow. The table is the truth; the notification only wakes those who read it."""

import asyncpg

from tollkeeper_server.core.changes import Change

CHANNEL = "tollkeeper_changes"

_READ = "SELECT revision, tenant_id, key_id, owner, kind FROM changes WHERE revision > $1 ORDER BY revision LIMIT $2"
_REVISION = "SELECT coalesce(max(revision), 0) FROM changes"
_HAS_IMPORTS = "SELECT EXISTS (SELECT FROM secrets WHERE imported)"
_ADD_SECRETS = frozenset({"CreateKey", "ImportKeys", "RotateKey"})


async def read_changes(
    connection: "asyncpg.Connection[asyncpg.Record]", *, after: int, limit: int, timeout: float
) -> list[Change]:
    """Up to ``limit`` changes after revision ``after``, oldest first; without gaps, since revisions have none."""
    rows = await connection.fetch(_READ, after, limit, timeout=timeout)
    return [
        Change(
            row["revision"],
            row["tenant_id"],
            row["owner"] or row["key_id"],
            adds_secret=row["kind"] in _ADD_SECRETS,
            imports=row["kind"] == "ImportKeys",
        )
        for row in rows
    ]


async def read_revision(connection: "asyncpg.Connection[asyncpg.Record]", *, timeout: float) -> int:
    """The revision of the last change."""
    revision: int = await connection.fetchval(_REVISION, timeout=timeout)
    return revision


async def has_imports(connection: "asyncpg.Connection[asyncpg.Record]", *, timeout: float) -> bool:
    """Whether any key was imported."""
    found: bool = await connection.fetchval(_HAS_IMPORTS, timeout=timeout)
    return found
