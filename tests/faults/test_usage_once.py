"""Every verification is counted exactly once, whatever becomes of the answers of Postgres and of Postgres itself.

Prints its figures, and runs again without what keeps a batch from being added twice, which it must notice.
TOLLKEEPER_TEST_FLUSHES tells how many flushes to make.
"""

import os
import random

import pytest

from tests.faults.postgres_proxy import proxy_to
from tests.integration.usage_support import MINUTE, NOON, usage_on
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.usage import store
from tollkeeper_server.usage.flusher import UsageFlusher
from tollkeeper_server.usage.recorder import UsageRecorder

FLUSHES = int(os.environ.get("TOLLKEEPER_TEST_FLUSHES", "300"))
SERVERS = 3


async def play(postgres_url: str, *, flushes: int, seed: int) -> dict[str, int]:
    """How much more is stored than was recorded, by counter, after losses and outages; 0 is right."""
    chance = random.Random(seed)
    recorded: dict[str, int] = {"ALLOWED": 0, "IP_DENIED": 0, "tokens": 0}
    async with usage_on(postgres_url) as usage, proxy_to(postgres_url, seed=seed) as (proxy, url):
        secrets = [await usage.key(owner_id="customer-1") for _ in range(10)]
        postgres = await Postgres.connect(url)
        recorders = [UsageRecorder() for _ in range(SERVERS)]
        flushers = [UsageFlusher(recorder, postgres=postgres) for recorder in recorders]
        failed = 0
        for number in range(flushes):
            index = number % SERVERS
            for secret in chance.sample(secrets, 4):
                code = chance.choice([DecisionCode.ALLOWED, DecisionCode.IP_DENIED])
                at = NOON + chance.randrange(3) * MINUTE
                recorders[index].record(secret, code=code, charges={"tokens": 7}, client_ip=None, now=at)
                recorded[code] += 1
                recorded["tokens"] += 7 * (code is DecisionCode.ALLOWED)
            proxy.loses, proxy.is_away = 0.06, number % 50 > 40
            failed += not await flushers[index].flush()
        proxy.loses, proxy.is_away = 0.0, False
        for flusher in flushers:
            while not await flusher.flush():  # connections that were cut are found out one by one
                pass
        await postgres.close()
        print(f"\n{flushes} flushes, {failed} failed, {proxy.lost} answers lost")
        rows = await usage.keys.rows(
            "SELECT counter, sum(amount)::bigint AS amount FROM usage_buckets WHERE subject = $1 GROUP BY counter",
            "acme/customer-1",
        )
    assert failed < flushes
    assert proxy.lost > flushes / 20
    stored = {str(row["counter"]): int(str(row["amount"])) for row in rows}
    return {counter: stored[counter] - amount for counter, amount in recorded.items()}


async def test_every_verification_is_counted_once(postgres_url: str) -> None:
    assert await play(postgres_url, flushes=FLUSHES, seed=1) == {"ALLOWED": 0, "IP_DENIED": 0, "tokens": 0}


async def test_batches_that_are_added_twice_are_noticed(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unguarded = store._ADD_COUNTERS.replace("WHERE server.batches < excluded.batches", "")
    assert unguarded != store._ADD_COUNTERS
    monkeypatch.setattr(store, "_ADD_COUNTERS", unguarded)
    differences = await play(postgres_url, flushes=150, seed=2)
    print(f"batches are added twice: {differences}")
    assert differences["tokens"] > 0
