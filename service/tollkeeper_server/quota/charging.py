"""Everything that charging needs, built and kept running."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import structlog

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.quota.charge_store import ChargeStore
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.quota.counters import TIMEOUT_SECONDS, Counters
from tollkeeper_server.quota.direct import DirectCharges
from tollkeeper_server.quota.epochs import Epochs
from tollkeeper_server.quota.ledger import Ledger
from tollkeeper_server.quota.rate_shares import RateShares
from tollkeeper_server.quota.reconciler import Reconciler
from tollkeeper_server.quota.refills import Refills
from tollkeeper_server.quota.reservations import Reservations
from tollkeeper_server.quota.spends import Spends
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.storage.redis import Redis
from tollkeeper_server.usage.drainer import UsageDrainer

_log = structlog.get_logger()


@contextlib.asynccontextmanager
async def charging(
    postgres: Postgres, redis: Redis, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> AsyncIterator[Charger]:
    """A Charger on both stores, and beside it what brings back and stores what it leaves there, until the block ends.

    ``timeout_seconds`` is how long a charge waits for Redis.
    """
    store = ChargeStore(redis)
    epochs = Epochs(postgres, store=store)
    spends = Spends()
    reconciler = Reconciler(postgres, epochs=epochs, spends=spends)
    shares = RateShares(live_replicas=lambda: reconciler.live_servers, clock_us=lambda: time.time_ns() // 1000)
    counters = Counters(store, spends=spends, restore=reconciler.join, timeout_seconds=timeout_seconds)
    drainer = UsageDrainer(redis, postgres, touched=store.touched, clock_us=counters.clock.now_us)
    reservations = Reservations(postgres, counters=counters)
    charger = Charger(
        counters=counters,
        refills=Refills(ledger=Ledger(postgres), counters=counters, epochs=epochs),
        direct=DirectCharges(postgres, shares=shares, epochs=epochs, spends=spends),
        reservations=reservations,
        epochs=epochs,
    )
    try:
        await reconciler.join()
    except Unavailable as fault:
        counters.lose(fault, at="tk:{start}")
    running = [
        asyncio.create_task(reconciler.run(), name="reconciler"),
        asyncio.create_task(reservations.run(), name="reservations"),
        asyncio.create_task(drainer.run(), name="usage_drainer"),
    ]
    try:
        yield charger
    finally:
        await charger.close()
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        if not await drainer.drain():
            _log.warning("usage_left_in_redis")  # another server finds it there
        try:
            await reconciler.leave()
        except Unavailable:
            _log.warning("quota_server_left_without_word")  # what pools lose from now on stays debited
