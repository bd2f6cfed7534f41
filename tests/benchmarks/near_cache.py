"""Prints what a hit in the near-cache costs beside a call of nothing, and how long a revocation waits for clients.

    python -m tests.benchmarks.near_cache [--rounds 15]

Runs a server of its own on embedded stores. A hit is a whole ``await client.verify(...)``, or ``client.verify(...)``,
in CPU time of its thread. Revocations are timed with 7 clients that hold leases, and with none, in turns.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles

import uvloop

from tests.benchmarks.processes import server
from tollkeeper import AsyncClient, Client, Decision

HITS = 20_000
"""In a round."""
HOLDERS = 7
REVOCATIONS = 20


async def nothing(
    api_key: str,
    *,
    resource: str = "",
    permissions: tuple[str, ...] = (),
    client_ip: str | None = None,
    charges: None = None,
) -> None:
    """What a call costs that does nothing."""


async def hit_ns(call: Callable[[], Awaitable[object]]) -> float:
    """CPU nanoseconds of one ``await`` among many."""
    started = time.thread_time()
    for _ in range(HITS):
        await call()
    return (time.thread_time() - started) / HITS * 1e9


async def until_kept(client: AsyncClient, api_key: str) -> Decision:
    """Verify until the answer comes from memory."""
    before = await client.verify(api_key)
    while (decision := await client.verify(api_key)) is not before:
        before = decision
        await asyncio.sleep(0.01)
    return before


async def hits(address: str, token: str, *, rounds: int) -> None:
    """Print what hits cost."""
    async with AsyncClient(address, token=token, near_cache=True) as client:
        created = await client.create_key(name="bench", tenant_id="bench", permissions=["read"])
        question = {"resource": "billing", "permissions": ("read",)}
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "await of a coroutine that does nothing": lambda: nothing(created.api_key, **question),  # type: ignore[arg-type]
            "await client.verify(...), from memory": lambda: client.verify(created.api_key, **question),  # type: ignore[arg-type]
        }
        await until_kept(client, created.api_key)
        kept = await client.verify(created.api_key, **question)  # type: ignore[arg-type]
        figures: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                figures[name].append(await hit_ns(way))
        again = await client.verify(created.api_key, **question)  # type: ignore[arg-type]
        print(f"\na hit, {rounds} rounds of {HITS:,}{'' if again is kept else ', not all of them from memory'}")
        for name, values in figures.items():
            print(f"{name:<40} {median(values):>6.0f} ns median {min(values):>6.0f} ns least")


def hits_in_a_thread(address: str, token: str, *, rounds: int) -> None:
    """Print what hits of the synchronous client cost."""
    with Client(address, token=token, near_cache=True) as client:
        created = client.create_key(name="bench", tenant_id="bench", permissions=["read"])
        before = None
        while (decision := client.verify(created.api_key)) is not before:
            before = decision
            time.sleep(0.01)
        values = []
        for _ in range(rounds):
            started = time.thread_time()
            for _ in range(HITS):
                client.verify(created.api_key)
            values.append((time.thread_time() - started) / HITS * 1e9)
        name = "client.verify(...), from memory"
        print(f"{name:<40} {median(values):>6.0f} ns median {min(values):>6.0f} ns least")


async def revocations(address: str, token: str, *, rounds: int) -> None:
    """Print how long revocations take, with clients that hold leases and without."""
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(AsyncClient(address, token=token))
        seconds: dict[int, list[float]] = {0: [], HOLDERS: []}
        for _ in range(rounds):
            for count, taken in seconds.items():
                async with AsyncExitStack() as holding:
                    for _ in range(count):
                        client = AsyncClient(address, token=token, near_cache=True)
                        await holding.enter_async_context(client)
                        await until_kept(client, (await manager.create_key(name="b", tenant_id="bench")).api_key)
                    for _ in range(REVOCATIONS):
                        created = await manager.create_key(name="b", tenant_id="bench")
                        started = time.perf_counter()
                        await manager.revoke_key(created.key.key_id)
                        taken.append(time.perf_counter() - started)
    print(f"\na revocation, {rounds} rounds of {REVOCATIONS}")
    for count, taken in seconds.items():
        p50, p99 = quantiles(taken, n=100)[49], quantiles(taken, n=100)[98]
        print(f"{count} clients hold leases {'':<18} {p50 * 1e3:>6.1f} ms median {p99 * 1e3:>6.1f} ms p99")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.near_cache", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each kind")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="tollkeeper-bench-") as directory, server(Path(directory)):
        address, token = (Path(directory, name).read_text().strip() for name in ("address", "root-key"))
        uvloop.run(hits(address, token, rounds=rounds))
        hits_in_a_thread(address, token, rounds=rounds)
        uvloop.run(revocations(address, token, rounds=rounds))


if __name__ == "__main__":
    main()
