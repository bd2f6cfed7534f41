"""Upkeep: older usage is summed up into longer buckets, the oldest is forgotten, bursts of denials are found.

Every server wakes up at the same second of a minute, and the one that gets the lock does the work.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.usage.queries import Granularity
from tollkeeper_server.usage.store import keeping_findings

SECOND_OF_MINUTE = 15
"""By then every server has flushed the minute before."""
ROWS_MAX = 5_000
"""What is moved or forgotten in one transaction, which takes some tens of milliseconds."""

MINUTES_KEPT = timedelta(hours=25)
HOURS_KEPT = timedelta(days=60)
DAYS_KEPT = timedelta(days=1_500)
FINDINGS_KEPT = timedelta(days=60)
NETWORKS_KEPT = timedelta(days=90)
SERVERS_KEPT = timedelta(days=30)
"""A server that was cut off for so long might add its last batch twice."""

BURST_DENIALS = 50
BURST_FACTOR = 10
BURST_LOOKBACK = timedelta(minutes=3)

_LOCK = 0x746F6C6C75736167  # "tollusag"
_DENIALS = [code.value for code in DecisionCode if code is not DecisionCode.ALLOWED]

_SUM_UP = """
    WITH moved AS (
        DELETE FROM usage_buckets WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM usage_buckets WHERE seconds = $1 AND starts_at < $3
            ORDER BY starts_at LIMIT $4 FOR UPDATE SKIP LOCKED
        ))
        RETURNING subject, starts_at, counter, amount
    ), summed_up AS (
        INSERT INTO usage_buckets AS bucket (subject, starts_at, seconds, counter, amount)
        SELECT subject, date_bin($2::integer * interval '1 second', starts_at, 'epoch') AS longer, $2::integer, counter,
            sum(amount)
        FROM moved GROUP BY subject, longer, counter ORDER BY subject, longer, counter
        ON CONFLICT (subject, starts_at, seconds, counter, source)
            DO UPDATE SET amount = bucket.amount + excluded.amount
    )
    SELECT count(*) FROM moved
"""
_FORGET = """
    WITH forgotten AS (
        DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {condition} LIMIT $2)) RETURNING 1
    )
    SELECT count(*) FROM forgotten
"""
_FORGET_DAYS = _FORGET.format(table="usage_buckets", condition="seconds = 86400 AND starts_at < $1")
_FORGET_FINDINGS = _FORGET.format(table="findings", condition="last_at < $1")
_FORGET_NETWORKS = _FORGET.format(table="key_networks", condition="last_used_at < $1")
_FORGET_SERVERS = _FORGET.format(table="usage_servers", condition="added_at < $1")

_FIND_BURSTS = keeping_findings(f"""
    SELECT subject AS key_id, 'DENIED_BURST' AS kind, '' AS network, starts_at AS found_at, denied
    FROM (
        SELECT subject, starts_at, sum(amount) AS denied FROM usage_buckets
        WHERE seconds = 60 AND starts_at >= $1 AND starts_at < $2 AND counter = ANY($3)
        GROUP BY subject, starts_at HAVING sum(amount) >= {BURST_DENIALS}
    ) AS burst
    WHERE EXISTS (SELECT FROM keys WHERE key_id = subject) AND 1440 * denied >= {BURST_FACTOR} * (
        SELECT coalesce(sum(amount), 0) FROM usage_buckets AS usual
        WHERE usual.subject = burst.subject AND counter = ANY($3)
            AND usual.starts_at >= burst.starts_at - interval '1 day' AND usual.starts_at < burst.starts_at
    )
""")  # noqa: S608

_log = structlog.get_logger()


class UsageUpkeep:
    """Keeps the tables of usage bounded, and finds what only shows in a whole minute."""

    def __init__(self, *, postgres: Postgres, clock: Callable[[], datetime]) -> None:
        self._postgres = postgres
        self._clock = clock

    async def run(self) -> None:
        """Do it once a minute until cancelled."""
        while True:
            now = self._clock()
            await asyncio.sleep((SECOND_OF_MINUTE - now.second - now.microsecond / 1e6) % 60 or 60)
            try:
                await self.once(now=self._clock())
            except Unavailable:  # told where it was found out
                continue
            except Exception:  # a fault of ours: the next minute may be better
                _log.exception("usage_upkeep_failed")

    async def once(self, *, now: datetime) -> None:
        """Do all that is due at ``now``. Raises Unavailable if Postgres does not answer in time."""
        minute = now.replace(second=0, microsecond=0)
        hour = (now - MINUTES_KEPT).replace(minute=0, second=0, microsecond=0)
        day = (now - HOURS_KEPT).replace(hour=0, minute=0, second=0, microsecond=0)
        await self._locked(_FIND_BURSTS, minute - BURST_LOOKBACK, minute, _DENIALS)
        await self._until_done(_SUM_UP, Granularity.MINUTE, Granularity.HOUR, hour)
        await self._until_done(_SUM_UP, Granularity.HOUR, Granularity.DAY, day)
        await self._until_done(_FORGET_DAYS, now - DAYS_KEPT)
        await self._until_done(_FORGET_FINDINGS, now - FINDINGS_KEPT)
        await self._until_done(_FORGET_NETWORKS, now - NETWORKS_KEPT)
        await self._until_done(_FORGET_SERVERS, now - SERVERS_KEPT)

    async def _until_done(self, statement: str, *values: object) -> None:
        while await self._locked(statement, *values, ROWS_MAX) == ROWS_MAX:
            pass

    async def _locked(self, statement: str, *values: object) -> int | None:
        """What the statement answers; None if another server does the work."""
        async with self._postgres.transaction() as connection:
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                return None
            count: int | None = await connection.fetchval(statement, *values)
            return count
