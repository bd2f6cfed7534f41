"""The reconciler: gives back what lost pools had not spent.

Every server counts what it spent from each pool: a charge counts once the answer of Redis has arrived, under a lease.
When a pool is lost, each server that can have spent from it says how much that was; once all have, the rest goes back
to the ledger. A server that died cannot say: then the rest stays debited until the window ends, for it may be spent.
"""

import asyncio
import time
from collections.abc import Mapping
from uuid import uuid4

import structlog

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.quota.epochs import Epochs
from tollkeeper_server.quota.spends import Pool, Spends
from tollkeeper_server.storage.boottime import boottime
from tollkeeper_server.storage.postgres import Connection, Postgres

INTERVAL_SECONDS = 0.5
LEASE_SECONDS = 5.0
TIMEOUT_SECONDS = 2.0
SETTLES_AFTER_SECONDS = 2.0
"""From when on nothing is spent from a lost pool: its last grant is void, its last answer has arrived or timed out."""
REPORT_MAX = 10_000
KEEP_DAYS = 7
CLEAN_SECONDS = 60.0

_RENEW = """
    INSERT INTO quota_servers (server_id, joined_at, lease_until)
    VALUES ($1, clock_timestamp(), clock_timestamp() + $2 * interval '1 second')
    ON CONFLICT (server_id) DO UPDATE SET lease_until = excluded.lease_until
    RETURNING (SELECT epoch FROM quota_epoch) AS epoch,
        (SELECT count(*) FROM quota_servers WHERE server_id <> $1 AND lease_until > clock_timestamp()) + 1 AS live
"""
_UNREPORTED = """
    SELECT account, generation, granted FROM quota_lost_pools AS lost
    WHERE lost_at < clock_timestamp() - $2 * interval '1 second' AND NOT EXISTS (
        SELECT FROM quota_spends WHERE account = lost.account AND generation = lost.generation AND server_id = $1
    ) LIMIT $3
"""
_REPORT = """
    INSERT INTO quota_spends (account, generation, server_id, units)
    SELECT account, generation, $1, units FROM unnest($2::text[], $3::bigint[], $4::bigint[])
        AS spent (account, generation, units)
    WHERE EXISTS (SELECT FROM quota_ledger WHERE quota_ledger.account = spent.account)
    ON CONFLICT DO NOTHING
"""
_GIVE_BACK = """
    WITH closed AS (
        DELETE FROM quota_lost_pools AS lost
        WHERE lost_at < clock_timestamp() - $1 * interval '1 second' AND NOT EXISTS (
            SELECT FROM quota_servers AS server
            WHERE joined_at < lost.lost_at AND lease_until > lost.opened_at AND NOT EXISTS (
                SELECT FROM quota_spends AS spend
                WHERE spend.account = lost.account AND spend.generation = lost.generation
                    AND spend.server_id = server.server_id
            )
        )
        RETURNING account, granted - coalesce((
            SELECT sum(units) FROM quota_spends AS spend
            WHERE spend.account = lost.account AND spend.generation = lost.generation
        ), 0)::bigint AS units
    ), rest AS (
        SELECT account, sum(units)::bigint AS units FROM closed GROUP BY account
    ), locked AS (
        SELECT account FROM quota_ledger WHERE account IN (SELECT account FROM rest) ORDER BY account FOR UPDATE
    )
    UPDATE quota_ledger AS ledger SET debited = debited - rest.units, revision = revision + 1
    FROM rest JOIN locked USING (account) WHERE ledger.account = rest.account
    RETURNING rest.units
"""
_LEAVE = "DELETE FROM quota_servers WHERE server_id = $1"
_FORGET = (
    """
    DELETE FROM quota_ledger WHERE account IN (
        SELECT account FROM quota_ledger WHERE ends_at < clock_timestamp() - $1 * interval '1 day' LIMIT 10000
    )
    """,
    "DELETE FROM quota_servers WHERE lease_until < clock_timestamp() - ($1 + 366) * interval '1 day'",
    "DELETE FROM quota_direct_charges WHERE expires_at < clock_timestamp() - $1 * interval '1 minute'",
)

_log = structlog.get_logger()


class Reconciler:
    """Takes this server's part in giving back what was not spent."""

    def __init__(self, postgres: Postgres, *, epochs: Epochs, spends: Spends) -> None:
        self._postgres = postgres
        self._epochs = epochs
        self._spends = spends
        self._id = str(uuid4())
        self.live_servers = 1

    async def join(self) -> None:
        """Take the lease, and enter the epoch of Redis, or begin a new one. Raises Unavailable."""
        await self._renew()
        await self._epochs.establish()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        cleaned_at = float("-inf")
        while True:
            try:
                await self._renew()
                await self.reconcile()
                if time.monotonic() - cleaned_at > CLEAN_SECONDS:
                    cleaned_at = time.monotonic()
                    await self._forget()
            except Unavailable as fault:
                _log.warning("reconciliation_put_off", reason=fault.reason)
            except Exception:  # a fault of ours must not end it unseen
                _log.exception("reconciliation_failed")
            await asyncio.sleep(INTERVAL_SECONDS)

    async def leave(self) -> None:
        """Say what was spent from every pool, since nobody else can; call it when nothing is charged any more."""
        async with self._postgres.transaction(timeout_seconds=TIMEOUT_SECONDS) as connection:
            await self._report(connection, self._spends.pools())
            await connection.execute(_LEAVE, self._id)

    async def _renew(self) -> None:
        sent_at = boottime()
        async with self._postgres.connection(timeout_seconds=TIMEOUT_SECONDS) as connection:
            row = await connection.fetchrow(_RENEW, self._id, LEASE_SECONDS)
        assert row is not None
        if row["epoch"] != self._epochs.current:
            await self._epochs.adopt()
        self.live_servers = row["live"]
        self._spends.lease.renew(sent_at=sent_at, seconds=LEASE_SECONDS)

    async def reconcile(self) -> None:
        """Say what this server spent from lost pools, and give back the rest of those that all have spoken about."""
        async with self._postgres.transaction(timeout_seconds=TIMEOUT_SECONDS) as connection:
            lost = await connection.fetch(_UNREPORTED, self._id, SETTLES_AFTER_SECONDS, REPORT_MAX)
            await self._report(connection, {(row["account"], row["generation"]): row["granted"] for row in lost})
        async with self._postgres.connection(timeout_seconds=TIMEOUT_SECONDS) as connection:
            given_back = await connection.fetch(_GIVE_BACK, SETTLES_AFTER_SECONDS)
        if given_back:
            _log.info("quota_given_back", accounts=len(given_back), units=sum(row["units"] for row in given_back))

    async def _forget(self) -> None:
        """Delete what no longer matters, long after its window has ended."""
        self._spends.forget(before_us=time.time_ns() // 1000 - KEEP_DAYS * 86_400_000_000)
        async with self._postgres.connection(timeout_seconds=TIMEOUT_SECONDS) as connection:
            for statement in _FORGET:
                await connection.execute(statement, KEEP_DAYS)

    async def _report(self, connection: Connection, pools: Mapping[Pool, int]) -> None:
        if pools:
            accounts, generations = zip(*pools, strict=True)
            await connection.execute(_REPORT, self._id, accounts, generations, self._spends.report(pools))
