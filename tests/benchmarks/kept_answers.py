"""What verifications cost that the client answers by itself: its CPU, and what still gets to server and Redis."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio

from tests.benchmarks.measure import cpu_seconds
from tollkeeper import AsyncClient

WARM_UP_SECONDS = 2.0
"""In that time the lease is there, and blocks have grown to what is asked for."""
AT_ONCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one verification costs, the calls included by which the client keeps what it knows honest."""

    client_cpu_us: float
    server_cpu_us: float
    redis_commands: float
    verifications: int


async def measure(client: AsyncClient, api_key: str, *, pid: int, data_dir: Path, seconds: float) -> Cost:
    """Verify one API key as fast as it goes. ``client`` has a near-cache; its server runs on ``data_dir``."""
    await _verify(client, api_key, seconds=WARM_UP_SECONDS)
    async with redis.asyncio.from_url(f"unix://{data_dir / 'run' / 'valkey.sock'}") as store:
        commands, server, mine = await _commands(store), cpu_seconds(pid), time.process_time()
        verifications = await _verify(client, api_key, seconds=seconds)
        return Cost(
            client_cpu_us=(time.process_time() - mine) / verifications * 1e6,
            server_cpu_us=(cpu_seconds(pid) - server) / verifications * 1e6,
            redis_commands=(await _commands(store) - commands) / verifications,
            verifications=verifications,
        )


async def _verify(client: AsyncClient, api_key: str, *, seconds: float) -> int:
    verifications = 0
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        for _ in range(AT_ONCE):
            decision = await client.verify(api_key)
            assert decision.allowed
        verifications += AT_ONCE
        await asyncio.sleep(0)  # as requests come in a service, others run in between
    return verifications


async def _commands(store: "redis.asyncio.Redis") -> int:
    """Commands that servers have sent; what scripts call is in these."""
    found = await store.info("commandstats")
    return sum(int(each["calls"]) for name, each in found.items() if name in ("cmdstat_evalsha", "cmdstat_eval"))
