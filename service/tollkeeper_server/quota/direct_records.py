"""Records of charges that were made in the ledger, so that each is made once: here, and in Redis when it is back.

Such a charge may have been made in Redis, too: before it was away, or by another server that it did answer. If it has
the record of that when it is back, one of the two is given back; if that was lost, the key stays charged twice.

Units go back the way those of a lost pool do: once every server has said what it doubts, for one of them may count the
charge in Redis only then. What the server that charged the ledger doubts itself is not given back here: it counts that
for nothing now, so that it goes back with the rest of its pool.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson

from tollkeeper_server.storage.postgres import Connection
from tollkeeper_server.usage.store import add_amounts

Usage = Mapping[tuple[str, datetime, str], int]
"""Amounts by subject, minute, and decision code or unit."""

_WRITE = """
    INSERT INTO quota_direct_charges AS known (record, expires_at, debits, counts)
    VALUES ($1, clock_timestamp() + $2 * interval '1 millisecond', $3, $4)
    ON CONFLICT (record) DO UPDATE SET expires_at = excluded.expires_at, told = false,
        debits = excluded.debits, counts = excluded.counts
    WHERE known.expires_at <= clock_timestamp()
"""
_EXISTS = "SELECT EXISTS (SELECT FROM quota_direct_charges WHERE record = $1 AND expires_at > clock_timestamp())"
_HAS_UNTOLD = "SELECT EXISTS (SELECT FROM quota_direct_charges WHERE NOT told AND expires_at > clock_timestamp())"
_READ = "SELECT record, told FROM quota_direct_charges WHERE expires_at > clock_timestamp()"
_TELL = "UPDATE quota_direct_charges SET told = true WHERE NOT told"
_READ_CHARGES = "SELECT record, debits, counts FROM quota_direct_charges WHERE record = ANY($1)"

# As pools of a generation that no other pool has. All that they held was spent by nobody.
_GIVE_BACK = """
    WITH locked AS (
        SELECT account, units FROM quota_ledger JOIN unnest($1::text[], $2::bigint[]) AS it (account, units)
            USING (account)
        ORDER BY account FOR UPDATE OF quota_ledger
    ), twice AS (
        UPDATE quota_ledger AS ledger SET revision = revision + 1 FROM locked WHERE ledger.account = locked.account
        RETURNING ledger.account, revision, units
    )
    INSERT INTO quota_lost_pools (account, generation, granted, opened_at, lost_at)
    SELECT account, -revision, units, clock_timestamp(), clock_timestamp() FROM twice
"""


async def write(
    connection: Connection, record: str, *, lifetime_ms: int, debits: Mapping[str, int], usage: Usage
) -> None:
    """Write down a charge: units by account that go back if it was made in Redis, too, and what it added to usage."""
    counts = [[subject, int(at.timestamp()), name, amount] for (subject, at, name), amount in usage.items()]
    await connection.execute(
        _WRITE, record, lifetime_ms, orjson.dumps(dict(debits)).decode(), orjson.dumps(counts).decode()
    )


async def exists(connection: Connection, record: str) -> bool:
    """Whether the charge was made here."""
    return bool(await connection.fetchval(_EXISTS, record))


async def has_untold(connection: Connection) -> bool:
    """Whether there are charges that Redis was not told of."""
    return bool(await connection.fetchval(_HAS_UNTOLD))


async def read(connection: Connection) -> tuple[list[str], list[str]]:
    """The charges that Redis was told of, and those that it was not."""
    rows = await connection.fetch(_READ)
    return [row["record"] for row in rows if row["told"]], [row["record"] for row in rows if not row["told"]]


async def tell(connection: Connection, *, twice: Mapping[str, bool]) -> None:
    """Redis was told of all, and had made these ``twice``; give them back, and their usage if Redis counted it."""
    await connection.execute(_TELL)
    units: defaultdict[str, int] = defaultdict(int)
    usage: defaultdict[tuple[str, datetime, str], int] = defaultdict(int)
    for row in await connection.fetch(_READ_CHARGES, list(twice)) if twice else ():
        for account, debited in orjson.loads(row["debits"]).items():
            units[account] += debited
        for subject, seconds, name, amount in orjson.loads(row["counts"]) if twice[row["record"]] else ():
            usage[subject, datetime.fromtimestamp(seconds, UTC), name] -= amount
    if units:
        await connection.execute(_GIVE_BACK, list(units), list(units.values()))
    if usage:
        await add_amounts(connection, usage)
