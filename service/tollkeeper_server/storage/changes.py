"""Changes: what caches have to follow. The table is the truth; the notification only wakes those who read it."""

from dataclasses import dataclass

import asyncpg

CHANNEL = "tollkeeper_changes"

_READ = "SELECT revision, tenant_id, key_id, owner, kind FROM changes WHERE revision > $1 ORDER BY revision LIMIT $2"
_REVISION = "SELECT coalesce(max(revision), 0) FROM changes"
_HAS_IMPORTS = "SELECT EXISTS (SELECT FROM secrets WHERE imported)"
_ADD_SECRETS = frozenset({"CreateKey", "ImportKeys", "RotateKey"})


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one subject."""

    revision: int
    tenant_id: str
    """Empty in changes from before tenants were named."""
    subject: str
    """The key that changed; or the owner whose keys all did, see ``owner_subject``."""
    adds_secret: bool
    """Whether an API key that nobody knew is known from now on."""
    imports: bool
    """Whether that API key may have any shape."""


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


def owner_subject(tenant_id: str, owner_id: str) -> str:
    """What an owner is called in changes; no key_id has a "/"."""
    return f"{tenant_id}/{owner_id}"


def key_or_owner(subject: str) -> tuple[str, str]:
    """The key_id, or else the owner_id, of the subject of a change; the other one is empty."""
    _, slash, owner_id = subject.partition("/")
    return ("", owner_id) if slash else (subject, "")


async def read_revision(connection: "asyncpg.Connection[asyncpg.Record]", *, timeout: float) -> int:
    """The revision of the last change."""
    revision: int = await connection.fetchval(_REVISION, timeout=timeout)
    return revision


async def has_imports(connection: "asyncpg.Connection[asyncpg.Record]", *, timeout: float) -> bool:
    """Whether any key was imported."""
    found: bool = await connection.fetchval(_HAS_IMPORTS, timeout=timeout)
    return found
