"""What tests of limits share: servers as far as charging goes, keys, limits, and a look into the ledger."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg

from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.key import Key, Owner
from tollkeeper_server.core.limits import CalendarWindow, Limit, LimitKind
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.quota.charging import charging
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.storage.redis import Redis

PATIENT_SECONDS = 10.0
"""So that a busy machine is not taken for a Redis that is down."""

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
RECENTLY = datetime.now(UTC) - timedelta(hours=1)
"""When keys and owners were created, the same all through a run: it anchors windows, and no day of theirs ends soon."""
DAY = 86_400
AMPLE = 10**9


@contextlib.asynccontextmanager
async def server(
    postgres_url: str, redis_url: str, *, timeout_seconds: float = PATIENT_SECONDS
) -> AsyncIterator[Charger]:
    """A Charger with connections of its own, as each server has."""
    postgres = await Postgres.connect(postgres_url)
    redis = await Redis.connect(redis_url)
    try:
        async with charging(postgres, redis, timeout_seconds=timeout_seconds) as charger:
            yield charger
    finally:
        await redis.close()
        await postgres.close()


def quota(
    amount: int,
    *,
    name: str = "quota",
    unit: str = "requests",
    seconds: int | None = DAY,
    calendar: CalendarWindow | None = None,
    kind: LimitKind = LimitKind.QUOTA,
    shadow: bool = False,
) -> Limit:
    """A limit over a day, unless another window is given."""
    window = None if calendar else seconds
    return Limit(
        name=name, kind=kind, unit=unit, amount=amount, window_seconds=window, calendar=calendar, shadow=shadow
    )


def rate(amount: int, *, name: str = "rate", seconds: int = 3600) -> Limit:
    """A RATE limit of requests."""
    return Limit(name=name, kind=LimitKind.RATE, unit="requests", amount=amount, window_seconds=seconds)


def key(*limits: Limit, key_id: str = "key_1", owner_id: str = "", created_at: datetime = RECENTLY) -> Key:
    """A key of the tenant acme."""
    return Key(
        key_id=key_id,
        tenant_id="acme",
        owner_id=owner_id,
        limits=limits,
        created_at=created_at,
        updated_at=created_at,
    )


def owner(*limits: Limit, owner_id: str = "owner_1") -> Owner:
    """An owner of the tenant acme."""
    return Owner(owner_id=owner_id, tenant_id="acme", limits=limits, created_at=RECENTLY, updated_at=RECENTLY)


async def charge(charger: Charger, subject: Key, units: int = 1, *, request_id: str = "") -> DecisionCode:
    """Charge requests, and count them as a verification does."""
    charges = {"requests": units}
    counts = {DecisionCode.ALLOWED: 1, **charges}
    outcome = await charger.charge(subject, charges=charges, consume=True, counts=counts, request_id=request_id)
    return outcome.code


async def used(postgres_url: str, subject: str = "key_1") -> dict[str, int]:
    """What is stored of the usage of a key, or an owner, over all times; 0 is left out."""
    connection = await asyncpg.connect(postgres_url)
    try:
        rows = await connection.fetch(
            "SELECT counter, sum(amount)::bigint AS amount FROM usage_buckets WHERE subject = $1"
            " GROUP BY counter HAVING sum(amount) <> 0",
            subject,
        )
        return {row["counter"]: row["amount"] for row in rows}
    finally:
        await connection.close()


async def until_used(postgres_url: str, expected: dict[str, int], subject: str = "key_1") -> None:
    """Wait until so much usage is stored, and no longer than it takes to drain a few times."""
    for _ in range(500):
        if (found := await used(postgres_url, subject)) == expected:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{found} is stored instead of {expected}")


async def until_nothing_is_lost(postgres_url: str) -> None:
    """Wait until all that is to be given back is."""
    connection = await asyncpg.connect(postgres_url)
    try:
        async with asyncio.timeout(20):
            while await connection.fetchval("SELECT count(*) FROM quota_lost_pools"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        await connection.close()


async def debited(postgres_url: str) -> int:
    """What all accounts together have debited."""
    connection = await asyncpg.connect(postgres_url)
    try:
        return int(await connection.fetchval("SELECT coalesce(sum(debited), 0) FROM quota_ledger"))
    finally:
        await connection.close()
