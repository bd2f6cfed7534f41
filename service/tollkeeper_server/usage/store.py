"""Usage in Postgres: one statement for each thing to tell. All but those that add may be repeated at will.

None of them waits for a mutation of a key, nor for another server except row by row in the same order.
"""

from collections.abc import Mapping
from datetime import datetime

from tollkeeper_server.storage.postgres import Connection
from tollkeeper_server.usage.recorder import Network

NETWORKS_MAX = 32
"""A key that is used from so many client networks has no usual ones; no more are kept."""

_BIGINT_MAX = 2**63 - 1

_ADD = """
    INSERT INTO usage_buckets AS bucket (subject, starts_at, seconds, counter, amount)
    SELECT subject, starts_at, 60, counter, amount
    FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::bigint[]) AS it (subject, starts_at, counter, amount)
    ORDER BY subject, starts_at, counter
    ON CONFLICT (subject, starts_at, seconds, counter, source) DO UPDATE SET amount = bucket.amount + excluded.amount
"""

_RAISE = """
    INSERT INTO usage_buckets AS bucket (subject, starts_at, seconds, counter, source, amount)
    SELECT subject, starts_at, 60, counter, source, amount
    FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::bigint[])
        AS it (subject, starts_at, counter, source, amount)
    ORDER BY subject, starts_at, counter, source
    ON CONFLICT (subject, starts_at, seconds, counter, source) DO UPDATE SET amount = excluded.amount
        WHERE bucket.amount < excluded.amount
"""

# The server's row says which batches are in. It is locked first, so a batch that is sent again, even while its first
# sending is still under way, finds out whether that got through.
_ADD_COUNTERS = """
    WITH new AS (
        INSERT INTO usage_servers AS server (server_id, batches, added_at) VALUES ($1, $2, clock_timestamp())
        ON CONFLICT (server_id) DO UPDATE SET batches = excluded.batches, added_at = excluded.added_at
        WHERE server.batches < excluded.batches
        RETURNING batches
    )
    INSERT INTO usage_buckets AS bucket (subject, starts_at, seconds, counter, amount)
    SELECT subject, starts_at, 60, counter, amount
    FROM new, unnest($3::text[], $4::timestamptz[], $5::text[], $6::bigint[])
        AS it (subject, starts_at, counter, amount)
    ORDER BY subject, starts_at, counter
    ON CONFLICT (subject, starts_at, seconds, counter, source) DO UPDATE SET amount = bucket.amount + excluded.amount
"""


def keeping_findings(source: str) -> str:
    """A statement that keeps what ``source`` finds: rows of key_id, kind, network, found_at and denied."""
    return f"""
        INSERT INTO findings AS known
            (tenant_id, owner_id, key_id, kind, network, day, first_at, last_at, denied)
        SELECT tenant_id, owner_id, key_id, kind, network, found_at::date AS day,
            min(found_at), max(found_at), least(max(found.denied), 9223372036854775807)
        FROM ({source}) AS found JOIN keys USING (key_id)
        GROUP BY tenant_id, owner_id, key_id, kind, network, day
        ORDER BY key_id, day, kind, network
        ON CONFLICT (key_id, day, kind, network) DO UPDATE SET
            last_at = greatest(known.last_at, excluded.last_at), denied = greatest(known.denied, excluded.denied)
        WHERE known.last_at < excluded.last_at OR known.denied < excluded.denied
    """  # noqa: S608


# A mutation locks its key before the key's secrets, and so does this; a key that is locked is left for the next time.
_NOTE_USES = f"""
    WITH used AS MATERIALIZED (
        SELECT secrets.key_id, digest, used_at, expires_at
        FROM unnest($1::bytea[], $2::timestamptz[]) AS it (digest, used_at) JOIN secrets USING (digest)
        WHERE last_used_at IS NULL OR last_used_at < used_at
    ), free AS MATERIALIZED (
        SELECT key_id FROM keys WHERE key_id IN (SELECT key_id FROM used)
        ORDER BY key_id FOR NO KEY UPDATE SKIP LOCKED
    ), secret AS (
        UPDATE secrets SET last_used_at = greatest(last_used_at, used_at)
        FROM used JOIN free USING (key_id) WHERE secrets.digest = used.digest
    ), key AS (
        UPDATE keys SET last_used_at = greatest(last_used_at, used_at)
        FROM (SELECT key_id, max(used_at) AS used_at FROM used JOIN free USING (key_id) GROUP BY key_id) AS last
        WHERE keys.key_id = last.key_id
    ), finding AS ({
    keeping_findings('''
        SELECT key_id, 'EARLIER_API_KEY_USED' AS kind, '' AS network, used_at AS found_at, 0 AS denied
        FROM used WHERE expires_at IS NOT NULL
    ''')
})
    SELECT digest FROM used WHERE key_id NOT IN (SELECT key_id FROM free)
"""  # noqa: S608

_NOTE_NETWORKS = f"""
    WITH used AS MATERIALIZED (
        SELECT * FROM unnest($1::text[], $2::cidr[], $3::timestamptz[]) AS it (key_id, network, used_at)
    ), known AS MATERIALIZED (
        SELECT key_id, count(*) AS networks, min(first_used_at) AS since
        FROM key_networks WHERE key_id = ANY($1) GROUP BY key_id
    ), fresh AS (
        SELECT used.*, coalesce(networks, 0) + row_number() OVER (PARTITION BY key_id ORDER BY network) AS networks
        FROM used LEFT JOIN known USING (key_id)
        WHERE NOT EXISTS (SELECT FROM key_networks AS old WHERE (old.key_id, old.network) = (used.key_id, used.network))
    ), added AS (
        INSERT INTO key_networks (key_id, network, first_used_at, last_used_at)
        SELECT key_id, network, used_at, used_at FROM fresh WHERE networks <= {NETWORKS_MAX}
        ORDER BY key_id, network
        ON CONFLICT (key_id, network) DO NOTHING
        RETURNING key_id, network, first_used_at
    ), again AS (
        UPDATE key_networks AS old SET last_used_at = used_at
        FROM used WHERE (old.key_id, old.network) = (used.key_id, used.network)
            AND last_used_at < used_at - interval '1 day'
    )
    {
    keeping_findings('''
        SELECT key_id, 'NEW_NETWORK' AS kind, network::text AS network, first_used_at AS found_at, 0 AS denied
        FROM added JOIN known USING (key_id) WHERE since <= first_used_at - interval '1 day'
    ''')
}
"""  # noqa: S608

_NOTE_ENDED = keeping_findings("""
    SELECT key_id, 'ENDED_API_KEY_USED' AS kind, '' AS network, used_at AS found_at, 0 AS denied
    FROM unnest($1::text[], $2::timestamptz[]) AS it (key_id, used_at)
""")


async def add_amounts(connection: Connection, amounts: Mapping[tuple[str, datetime, str], int]) -> None:
    """Add amounts by subject, minute, and decision code or unit; as part of a transaction that remembers it."""
    subjects, times, names = zip(*amounts, strict=True)
    await connection.execute(_ADD, subjects, times, names, list(amounts.values()))


async def raise_amounts(connection: Connection, reached: Mapping[tuple[str, datetime, str, str], int]) -> None:
    """Let amounts by subject, minute, decision code or unit, and source be at least these; may be repeated at will."""
    subjects, times, names, sources = zip(*reached, strict=True)
    amounts = [min(amount, _BIGINT_MAX) for amount in reached.values()]
    await connection.execute(_RAISE, subjects, times, names, sources, amounts)


async def add_counters(
    connection: Connection, counters: Mapping[tuple[str, datetime, str], int], *, server_id: str, number: int
) -> None:
    """Add amounts to the minutes they belong to, unless batch ``number`` of this server is in already."""
    subjects, times, names = zip(*counters, strict=True)
    amounts = [min(amount, _BIGINT_MAX) for amount in counters.values()]
    await connection.execute(_ADD_COUNTERS, server_id, number, subjects, times, names, amounts)


async def note_uses(connection: Connection, uses: Mapping[bytes, datetime]) -> set[bytes]:
    """Move last uses of API keys and their keys on; gives those digests that have to be tried again."""
    rows = await connection.fetch(_NOTE_USES, list(uses), list(uses.values()))
    return {row["digest"] for row in rows}


async def note_networks(connection: Connection, networks: Mapping[tuple[str, Network], datetime]) -> None:
    """Keep client networks of keys, and find those that are new."""
    key_ids, values = zip(*networks, strict=True)
    await connection.execute(_NOTE_NETWORKS, key_ids, values, list(networks.values()))


async def note_ended(connection: Connection, ended: Mapping[str, datetime]) -> None:
    """Keep as findings that API keys were used after their end."""
    await connection.execute(_NOTE_ENDED, list(ended), list(ended.values()))
