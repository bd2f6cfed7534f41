"""What a verification reads: the records behind API keys, as committed when the read starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tollkeeper_server.core.key import Key
from tollkeeper_server.keys.records import key_from
from tollkeeper_server.storage.postgres import Connection

# One statement sees one moment: the revision is exactly that of the records beside it.
_BY_DIGESTS = """
    SELECT latest.revision AS reflected, found.*
    FROM (SELECT coalesce(max(revision), 0) AS revision FROM changes) AS latest
    LEFT JOIN (
        SELECT keys.*, secrets.digest, secrets.expires_at AS secret_expires_at
        FROM secrets JOIN keys USING (key_id)
        WHERE secrets.digest = ANY($1)
    ) AS found ON true
"""
_BY_KEY_IDS = "SELECT * FROM keys WHERE key_id = ANY($1)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRecord:
    """One API key of a key."""

    key: Key
    expires_at: datetime | None
    """From when on this API key no longer proves the key: the end of a rotation's overlap."""
    digest: bytes = field(repr=False)
    """Which API key it is."""


async def find_by_digests(connection: Connection, digests: Sequence[bytes]) -> tuple[Mapping[bytes, SecretRecord], int]:
    """The records of those ``digests`` that are known, and the revision up to which they reflect every change."""
    rows = await connection.fetch(_BY_DIGESTS, digests)
    records = {
        row["digest"]: SecretRecord(key=key_from(row), expires_at=row["secret_expires_at"], digest=row["digest"])
        for row in rows
        if row["digest"] is not None
    }
    return records, rows[0]["reflected"]


async def find_by_key_ids(connection: Connection, key_ids: Sequence[str]) -> Mapping[str, Key]:
    """The keys of those ``key_ids`` that exist."""
    return {row["key_id"]: key_from(row) for row in await connection.fetch(_BY_KEY_IDS, key_ids)}
