"""Prints what keys in memory cost a server: bytes of each, and CPU of a verification, among more and more of them.

    python -m tests.benchmarks.memory [--keys 1000 100000 1000000]

For each number a process of its own, with a Verifier on real stores as the server builds it; the records are put into
its cache as a read of the database would put them. "Bytes" is the growth of the process's resident memory.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil
import uvloop

from tollkeeper_server.core.cache import RecordCache
from tollkeeper_server.core.changes import owner_subject
from tollkeeper_server.core.credential import Keyring, default_length, hint
from tollkeeper_server.core.key import Key
from tollkeeper_server.core.policy import Use
from tollkeeper_server.embedded import embedded_stores
from tollkeeper_server.keys.ids import new_key_id
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.keys.upgrades import Upgrades
from tollkeeper_server.quota.charging import charging
from tollkeeper_server.settings import StoreUrls
from tollkeeper_server.storage.boottime import boottime
from tollkeeper_server.storage.migrate import migrate
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.storage.redis import Redis
from tollkeeper_server.usage.recorder import UsageRecorder
from tollkeeper_server.verify.directory import KeyDirectory
from tollkeeper_server.verify.replica import Replica
from tollkeeper_server.verify.verification import Verification
from tollkeeper_server.verify.verifier import Verifier

KEYS = (1_000, 100_000, 1_000_000)
VERIFICATIONS = 20_000
AT_ONCE = 500
KEYRING = Keyring(peppers={1: os.urandom(32)}, tag_keys={1: os.urandom(32)})


def record(number: int) -> tuple[str, SecretRecord]:
    """A key with permissions, a resource and an owner, and its API key. As from a database, it shares no text."""
    now = datetime.now(UTC)
    tenant_id, permissions, resources = json.loads('["bench", ["read", "write"], ["billing"]]')
    seed = KEYRING.new_seed(os.urandom(32))
    api_key = KEYRING.mint(prefix="tk", length=default_length("tk"), seed=seed)
    key = Key(
        key_id=new_key_id(now),
        tenant_id=tenant_id,
        owner_id=f"owner-{number}",
        name=f"key number {number}",
        prefix="tk",
        length=len(api_key),
        hint=hint(api_key, prefix="tk"),
        permissions=tuple(permissions),
        resources=tuple(resources),
        created_at=now,
        created_by=f"key_{number:022}",
        updated_at=now,
        updated_by=f"key_{number:022}",
        api_key_created_at=now,
        revision=number + 1,
    )
    return api_key, SecretRecord(key=key, expires_at=None, digest=KEYRING.digest(api_key))


@contextlib.asynccontextmanager
async def verifying(stores: StoreUrls, cache: RecordCache[SecretRecord]) -> AsyncIterator[tuple[Verifier, Replica]]:
    """A Verifier on real stores, and its replica."""
    postgres, redis = await Postgres.connect(stores.postgres), await Redis.connect(stores.redis)
    replica = Replica(stores.postgres, cache=cache)
    upgrades = Upgrades(postgres, pepper_version=KEYRING.current_pepper_version)
    directory = KeyDirectory(postgres, keyring=KEYRING, cache=cache, replica=replica, upgrades=upgrades)
    following = asyncio.create_task(replica.run())
    try:
        async with charging(postgres, redis) as charger:
            clock = partial(datetime.now, UTC)
            yield Verifier(directory=directory, charger=charger, usage=UsageRecorder(), clock=clock), replica
    finally:
        following.cancel()
        await asyncio.wait([following])
        await directory.close()
        await redis.close()
        await postgres.close()


async def measure(keys: int, stores: StoreUrls) -> None:
    """Fill a cache with so many keys, verify them in random order, and print what that cost as JSON."""
    cache = RecordCache[SecretRecord](entries_max=keys, unknown_max=1, tombstones_max=1, age_max_seconds=3600)
    async with verifying(stores, cache) as (verifier, replica):
        await leased(replica)
        api_keys = [""] * keys
        gc.collect()
        before = psutil.Process().memory_info().rss
        for number in range(keys):
            api_keys[number], secret = record(number)
            subjects = (secret.key.key_id, owner_subject(secret.key.tenant_id, secret.key.owner_id))
            cache.put(secret.digest, secret, subjects=subjects, revision=replica.revision, now=boottime())
            if number % 1_000 == 0:
                await asyncio.sleep(0)  # others run, as the replica does
        resident = psutil.Process().memory_info().rss - before - sum(map(sys.getsizeof, api_keys))
        assert len(cache) == keys
        cost_us = min([await verify(verifier, replica, api_keys) for _ in range(3)])
    print(json.dumps({"keys": keys, "bytes": round(resident / keys), "cost_us": round(cost_us, 1)}))


async def leased(replica: Replica) -> None:
    """Let the replica renew its lease, and wait until it may answer from memory."""
    async with asyncio.timeout(30):
        await asyncio.sleep(0.001)
        while not replica.may_answer():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def verify(verifier: Verifier, replica: Replica, api_keys: list[str]) -> float:
    """Microseconds of CPU that a verification takes."""
    use = Use(resource="billing", required_permissions=("read",))
    asked = [
        Verification(api_key=api_key, tenant_id="bench", use=use, charges={"requests": 1})
        for api_key in random.choices(api_keys, k=VERIFICATIONS)
    ]
    spent = 0.0
    for start in range(0, VERIFICATIONS, AT_ONCE):
        await leased(replica)
        started = time.process_time()
        for verification in asked[start : start + AT_ONCE]:
            decision = await verifier.verify(verification)
            assert decision.allowed
        spent += time.process_time() - started
    return spent / VERIFICATIONS * 1e6


async def with_stores(keys: int) -> None:
    """Measure on stores of its own."""
    with tempfile.TemporaryDirectory(prefix="tollkeeper-bench-") as directory:
        async with embedded_stores(Path(directory), durable=False) as stores:
            await migrate(stores.postgres)
            await measure(keys, stores)


def figures(keys: int) -> dict[str, float]:
    """What a process of its own measures."""
    command = [sys.executable, "-m", __spec__.name, "--child", "--keys", str(keys)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=600)
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=KEYS, help="keys in memory")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        uvloop.run(with_stores(arguments.keys[0]))
        return
    print(f"{'keys in memory':>16} {'bytes each':>12} {'CPU us a verification':>24}")
    for keys in arguments.keys:
        found = figures(keys)
        print(f"{keys:>16,} {found['bytes']:>12,} {found['cost_us']:>24}")


if __name__ == "__main__":
    main()
