"""What a verification reads: the records behind API keys, as committed when the read starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg
import orjson

from tollkeeper_server.core.key import Key, Owner, Secret
from tollkeeper_server.keys.records import key_from, owner_from_record
from tollkeeper_server.keys.store import OLD_LAST_USED_AT
from tollkeeper_server.keys.workspace import Algorithm
from tollkeeper_server.storage.postgres import Connection

# One statement sees one moment: the revision is exactly that of the records beside it.
_BY_DIGESTS = """
    SELECT latest.revision AS reflected, found.*
    FROM (SELECT coalesce(max(revision), 0) AS revision FROM changes) AS latest
    LEFT JOIN (
        SELECT keys.*, secrets.digest, secrets.algorithm, secrets.expires_at AS secret_expires_at,
            to_jsonb(owners) AS owner
        FROM secrets JOIN keys USING (key_id) LEFT JOIN owners USING (tenant_id, owner_id)
        WHERE secrets.digest = ANY($1)
    ) AS found ON true
"""
_BY_KEY_IDS = f"SELECT *, {OLD_LAST_USED_AT} FROM keys WHERE key_id = ANY($1)"  # noqa: S608
_OWNED_BY_KEY_IDS = """
    SELECT keys.*, to_jsonb(owners) AS owner FROM keys LEFT JOIN owners USING (tenant_id, owner_id)
    WHERE key_id = ANY($1)
"""
_OWNER = "SELECT to_jsonb(owners) AS owner FROM owners WHERE (tenant_id, owner_id) = ($1, $2)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRecord:
    """One API key of a key."""

    key: Key
    owner: Owner | None = None
    """The key's owner, if anything was set about it."""
    expires_at: datetime | None
    """From when on this API key no longer proves the key: the end of a rotation's overlap."""
    digest: bytes = field(repr=False)
    """Which API key it is."""
    algorithm: Algorithm = Algorithm.PEPPERED
    """What the digest was made with."""

    @property
    def secret(self) -> Secret:
        """Which of the key's API keys it is."""
        return Secret.CURRENT if self.expires_at is None else Secret.OLD


async def find_by_digests(connection: Connection, digests: Sequence[bytes]) -> tuple[Mapping[bytes, SecretRecord], int]:
    """The records of those ``digests`` that are known, and the revision up to which they reflect every change."""
    rows = await connection.fetch(_BY_DIGESTS, digests)
    records = {row["digest"]: _secret_record(row) for row in rows if row["digest"] is not None}
    return records, rows[0]["reflected"]


async def find_by_key_ids(connection: Connection, key_ids: Sequence[str]) -> Mapping[str, Key]:
    """The keys of those ``key_ids`` that exist."""
    return {row["key_id"]: key_from(row) for row in await connection.fetch(_BY_KEY_IDS, key_ids)}


async def find_with_owners(connection: Connection, key_ids: Sequence[str]) -> Mapping[str, tuple[Key, Owner | None]]:
    """The keys of those ``key_ids`` that exist, with their owners."""
    rows = await connection.fetch(_OWNED_BY_KEY_IDS, key_ids)
    return {row["key_id"]: (key_from(row), _owner(row)) for row in rows}


async def find_owner(connection: Connection, *, tenant_id: str, owner_id: str) -> Owner | None:
    """What is known of the owner; None if nothing was ever set."""
    row = await connection.fetchrow(_OWNER, tenant_id, owner_id)
    return None if row is None else _owner(row)


def _secret_record(row: asyncpg.Record) -> SecretRecord:
    return SecretRecord(
        key=key_from(row),
        owner=_owner(row),
        expires_at=row["secret_expires_at"],
        digest=row["digest"],
        algorithm=Algorithm(row["algorithm"]),
    )


def _owner(row: asyncpg.Record) -> Owner | None:
    return None if row["owner"] is None else owner_from_record(orjson.loads(row["owner"]))
