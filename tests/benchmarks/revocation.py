"""Prints how long RevokeKey takes until the key is dead everywhere: at three servers and in four near-caches.

    python -m tests.benchmarks.revocation [--revocations 300]

Seven processes hold leases and are healthy; CreateKey, which commits as much and waits for nobody, stands beside it.
The stores write to disk as in production, and share the machine with everything else.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from statistics import quantiles
from typing import TypeVar

from tests.faults.history.controller import TENANT
from tests.faults.history.rig import history
from tollkeeper import Propagation
from tollkeeper_server.embedded import embedded_stores
from tollkeeper_server.storage.migrate import migrate

Answer = TypeVar("Answer")

SERVERS, NEAR_CACHES = 3, 4
WARM_SECONDS = 2.0
"""In that time every near-cache has its lease."""


async def measure(*, revocations: int) -> None:
    """Run everything and print the table."""
    with tempfile.TemporaryDirectory(prefix="tollkeeper-bench-") as directory:
        place = Path(directory)
        async with embedded_stores(place) as stores:
            await migrate(stores.postgres)
            rig = history(
                stores.postgres, stores.redis, directory=place, seed=1, servers=SERVERS, verifying=NEAR_CACHES, owners=0
            )
            async with rig as running:
                await asyncio.sleep(WARM_SECONDS)
                roots = running.controller.servers
                key_ids, creating, revoking = list[str](), list[float](), list[float]()
                for number in range(revocations):
                    created, seconds = await timed(roots[number % SERVERS].create_key(tenant_id=TENANT))
                    key_ids.append(created.key.key_id)
                    creating.append(seconds)
                for number, key_id in enumerate(key_ids):
                    change, seconds = await timed(roots[number % SERVERS].revoke_key(key_id))
                    assert change.propagation is Propagation.EVERYWHERE, "a holder did not answer"
                    revoking.append(seconds)
    holders = f"{SERVERS} servers, {NEAR_CACHES} near-caches"
    print(f"{revocations} of each, one after the other, through each server in turn; {holders}")
    print(f"{'':<12} {'p50 ms':>8} {'p90 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    for name, seconds_of_each in (("CreateKey", creating), ("RevokeKey", revoking)):
        cuts = quantiles(seconds_of_each, n=100)
        figures = (cuts[49], cuts[89], cuts[98], max(seconds_of_each))
        print(f"{name:<12} " + " ".join(f"{1000 * figure:>8.1f}" for figure in figures))


async def timed(call: Awaitable[Answer]) -> tuple[Answer, float]:
    """What a call answers, and how many seconds that took."""
    started = time.perf_counter()
    return await call, time.perf_counter() - started


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.revocation", description=__doc__)
    parser.add_argument("--revocations", type=int, default=300, help="how many")
    asyncio.run(measure(revocations=parser.parse_args().revocations))


if __name__ == "__main__":
    main()
