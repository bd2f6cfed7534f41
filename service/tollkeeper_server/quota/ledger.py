"""The ledger: how much of each QUOTA and SPEND limit is handed out, in Postgres, where nothing gets lost.

An *account* is one limit in one window. What it has debited is never less than what was admitted: a block is debited
before a pool in Redis gets it. So whatever happens to Redis, the limit holds; what a lost pool had not spent stays
debited until the reconciler gives it back.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import asyncpg

from tollkeeper_server.core.rate_window import COUNT_MAX
from tollkeeper_server.core.windows import Window, moment
from tollkeeper_server.quota.charges import PoolDemand
from tollkeeper_server.quota.epochs import EpochPassed
from tollkeeper_server.storage.postgres import Connection, Postgres

TIMEOUT_SECONDS = 2.0

_OPEN_ACCOUNTS = """
    INSERT INTO quota_ledger (account, ends_at)
    SELECT account, ends_at FROM unnest($1::text[], $2::timestamptz[]) AS asked (account, ends_at) ORDER BY account
    ON CONFLICT (account) DO NOTHING
"""

# A block is a hundredth of what is left, so little is lost with a pool, or what is asked for if that is more. A pool
# that is not the account's current one is lost, unless the current one was made just now and is still on its way.
_REFILL = """
    WITH found AS (
        SELECT ledger.*, asked.need, asked.amount, asked.ceiling,
            ledger.generation = asked.seen AS lives,
            ledger.generation <> asked.seen
                AND ledger.opened_at < clock_timestamp() - interval '250 milliseconds' AS makes_pool
        FROM quota_ledger AS ledger
        JOIN unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
            AS asked (account, seen, need, amount, ceiling) USING (account)
        WHERE EXISTS (SELECT FROM quota_epoch WHERE epoch = $1)
        ORDER BY account
        FOR UPDATE OF ledger
    ), block AS (
        SELECT account, generation, granted, opened_at, makes_pool, CASE WHEN lives OR makes_pool
            THEN greatest(0, least(ceiling - debited, greatest(need, least(ceiling - debited, amount) / 100)))
            ELSE 0
        END AS units, granted_at < clock_timestamp() - interval '2 seconds' AS rested
        FROM found
    ), lost AS (
        INSERT INTO quota_lost_pools (account, generation, granted, opened_at, lost_at)
        SELECT account, generation, granted, opened_at, clock_timestamp() FROM block WHERE makes_pool AND granted > 0
    )
    UPDATE quota_ledger AS ledger SET
        debited = debited + units,
        revision = revision + 1,
        generation = ledger.generation + makes_pool::int,
        granted = units + CASE WHEN makes_pool THEN 0 ELSE ledger.granted END,
        opened_at = CASE WHEN makes_pool THEN clock_timestamp() ELSE ledger.opened_at END,
        granted_at = CASE WHEN units > 0 THEN clock_timestamp() ELSE ledger.granted_at END
    FROM block WHERE ledger.account = block.account
    RETURNING ledger.account, ledger.generation, makes_pool, units, debited, revision,
        CASE WHEN rested AND NOT makes_pool THEN block.granted ELSE 0 END AS arrived
"""
_GIVE_BACK = """
    UPDATE quota_ledger SET debited = debited - $3, granted = granted - $3, revision = revision + 1
    WHERE account = $1 AND revision = $2 RETURNING debited, revision
"""

_LOCK = """
    SELECT account, debited, generation, revision FROM quota_ledger WHERE account = ANY($1) ORDER BY account FOR UPDATE
"""
_DEBIT = """
    UPDATE quota_ledger AS ledger SET debited = debited + units, revision = revision + 1
    FROM unnest($1::text[], $2::bigint[]) AS asked (account, units) WHERE ledger.account = asked.account
"""
_READ = "SELECT account, debited FROM quota_ledger WHERE account = ANY($1)"


class Need(NamedTuple):
    """What the pool of an account lacks."""

    demand: PoolDemand
    seen: int
    """Generation of the pool that lacks it; -1 if there was none."""
    units: int
    received: int
    """What the pool had been granted, as far as it arrived."""
    seen_us: int
    """When all this was seen, by the store's clock."""


class Block(NamedTuple):
    """Units moved from the ledger to a pool."""

    generation: int
    makes_pool: bool
    """The pool begins with it."""
    units: int
    debited: int
    revision: int
    arrived: int
    """What the pool was granted before, if all of that has arrived or is void by now; else 0."""


def ceiling(demand: PoolDemand) -> int:
    """How much the account may debit: a shadow limit never denies."""
    return COUNT_MAX if demand.shadow else demand.amount


class Ledger:
    """The accounts. Raises Unavailable if Postgres does not answer in time."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def refill(self, needs: Sequence[Need], *, epoch: str) -> Mapping[str, Block]:
        """Debit a block for each account, as large as the limits that ``needs`` tell of allow, even if that is nothing.

        Raises EpochPassed if Redis is no longer in ``epoch``.
        """
        merged = _merged(needs)
        async with self._postgres.connection(timeout_seconds=TIMEOUT_SECONDS) as connection:
            rows = await connection.fetch(_REFILL, epoch, *_columns(merged))
            known = {row["account"] for row in rows}
            if missing := [need for need in merged if need.demand.account not in known]:
                await open_accounts(connection, [need.demand for need in missing])
                rows += await connection.fetch(_REFILL, epoch, *_columns(missing))
        if len(rows) < len(merged):
            raise EpochPassed
        return {row["account"]: Block(*row[1:]) for row in rows}

    async def give_back(self, account: str, units: int, *, block: Block) -> Block:
        """Credit units of the account that its pool never got, unless it has changed since ``block`` was debited."""
        async with self._postgres.connection(timeout_seconds=TIMEOUT_SECONDS) as connection:
            row = await connection.fetchrow(_GIVE_BACK, account, block.revision, units)
        return block if row is None else block._replace(debited=row["debited"], revision=row["revision"])

    async def debited(self, accounts: Sequence[str]) -> dict[str, int]:
        """What accounts have debited; those that never were charged are left out."""
        async with self._postgres.connection(timeout_seconds=TIMEOUT_SECONDS) as connection:
            return {row["account"]: row["debited"] for row in await connection.fetch(_READ, accounts)}


async def open_accounts(connection: Connection, demands: Sequence[PoolDemand]) -> None:
    """Make accounts that do not exist."""
    accounts = [demand.account for demand in demands]
    await connection.execute(_OPEN_ACCOUNTS, accounts, [_end(demand.window) for demand in demands])


async def lock(connection: Connection, accounts: Sequence[str]) -> dict[str, asyncpg.Record]:
    """The accounts that exist, which nobody else changes until the transaction ends."""
    return {row["account"]: row for row in await connection.fetch(_LOCK, accounts)}


async def debit(connection: Connection, units: Mapping[str, int]) -> None:
    """Debit each account, or credit it where ``units`` are negative."""
    await connection.execute(_DEBIT, list(units), list(units.values()))


def _merged(needs: Sequence[Need]) -> list[Need]:
    """One need for each account: of all who wait for the same pool, together."""
    merged: dict[str, Need] = {}
    for need in needs:
        same = merged.get(need.demand.account)
        if same is None or same.seen < need.seen:
            merged[need.demand.account] = need
        elif same.seen == need.seen:
            merged[need.demand.account] = need._replace(units=min(same.units + need.units, COUNT_MAX))
    return list(merged.values())


def _columns(needs: Sequence[Need]) -> list[list[str] | list[int]]:
    return [
        [need.demand.account for need in needs],
        [need.seen for need in needs],
        [need.units for need in needs],
        [need.demand.amount for need in needs],
        [ceiling(need.demand) for need in needs],
    ]


def _end(window: Window) -> object:
    return moment(window.ends_us)
