"""R0 while processes hang, die and come back, and the ways between them are lost: still no stale answer.

Prints its figures and the seed of what happened. TOLLKEEPER_TEST_CHAOS_ROUNDS tells how often each kind of trouble is
made, TOLLKEEPER_TEST_SEED makes a schedule again.
"""

import asyncio
import os
import random
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults.history.chaos import Chaos
from tests.faults.history.checker import told
from tests.faults.history.controller import TENANT
from tests.faults.history.rig import history
from tests.integration.postgres_process import PostgresProcess, postgres_process
from tollkeeper import AsyncClient, KeyChange, Propagation

ROUNDS = int(os.environ.get("TOLLKEEPER_TEST_CHAOS_ROUNDS", "1"))
LEASE_SECONDS = 2.0
GRACE_SECONDS = 0.2
BUSY_SECONDS = 0.3
"""What a machine that is busy with the tests themselves may add."""
REVOCATIONS = 12

pytestmark = pytest.mark.timeout(120 + 60 * ROUNDS)


@pytest.fixture
async def postgres() -> AsyncIterator[PostgresProcess]:
    with tempfile.TemporaryDirectory(prefix="tollkeeper-tests-") as directory:
        async with postgres_process(Path(directory)) as process:
            yield process


async def test_no_trouble_makes_an_answer_stale(postgres: PostgresProcess, redis_url: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("TOLLKEEPER_TEST_SEED") or random.randrange(1 << 32))
    print(f"\nTOLLKEEPER_TEST_SEED={seed}")
    async with history(postgres.url, redis_url, directory=tmp_path, seed=seed, through_links=True) as rig:
        chaos = Chaos(rig, postgres, random.Random(seed))
        playing = asyncio.create_task(chaos.play(rounds=ROUNDS))
        while not (playing.done() or (await rig.play(probes=1 << 60, seconds=1)).stale):
            pass
        await playing
        verdict = await rig.play(probes=1 << 60, seconds=3)
        returned = rig.controller.returned
    for trouble in chaos.troubles:
        print(f"{trouble.kind} {trouble.which}: {(trouble.ended - trouble.began) / 1e9:.1f} s")
    seconds = sorted((each.returned - each.sent) / 1e9 for each in returned)
    pending = sum(each.pending for each in returned)
    print(
        f"{len(returned)} mutations, {pending} PENDING, longest {', '.join(f'{each:.2f}' for each in seconds[-5:])} s"
    )
    print(f"{told(verdict)}\n{rig.crashed} clients brought down by gRPC's core")
    assert not verdict.stale
    assert not verdict.refused
    assert verdict.checked > 1_000 * ROUNDS


async def test_a_client_that_is_forgotten_when_it_is_cut_off_is_noticed(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    planted = partial(history, seed=1, servers=2, verifying=2, server_fault="lost clients are forgotten")
    async with planted(postgres_url, redis_url, directory=tmp_path, through_links=True) as rig:
        for links in rig.links * 3:
            await rig.play(probes=1 << 60, seconds=2)
            for link in links:
                link.cut()
            await rig.play(probes=1 << 60, seconds=LEASE_SECONDS)
            for link in links:
                link.heal()
            if (verdict := await rig.play(probes=1 << 60, seconds=1)).stale:
                break
    print(f"\nlost clients are forgotten\n{told(verdict)}")
    assert verdict.stale


@pytest.mark.parametrize("hanging", ["servers", "verifying"])
async def test_a_revocation_waits_for_who_hangs_no_longer_than_the_lease(
    postgres_url: str, redis_url: str, tmp_path: Path, hanging: str
) -> None:
    few = partial(history, seed=1, owners=2, pause_seconds=5.0)
    async with few(postgres_url, redis_url, directory=tmp_path) as rig:
        await rig.play(probes=1 << 60, seconds=2)
        process = getattr(rig, hanging)[0]
        root = rig.controller.servers[1]
        key_ids = [(await root.create_key(tenant_id=TENANT)).key.key_id for _ in range(REVOCATIONS)]
        process.pause()
        took = await asyncio.gather(
            *(revoke_after(0.2 * number, root, key_id) for number, key_id in enumerate(key_ids))
        )
        process.resume()
        verdict = await rig.play(probes=1 << 60, seconds=2)
    longest = max(seconds for seconds, _ in took)
    pending = sum(change.propagation is not Propagation.EVERYWHERE for _, change in took)
    print(f"\n{hanging}[0] hangs: RevokeKey returned after {longest:.3f} s at most, {pending} PENDING\n{told(verdict)}")
    assert not verdict.stale
    assert not verdict.refused
    assert longest > LEASE_SECONDS / 2  # it did wait
    assert longest < LEASE_SECONDS + GRACE_SECONDS + BUSY_SECONDS


async def revoke_after(seconds: float, root: AsyncClient, key_id: str) -> tuple[float, KeyChange]:
    """How long RevokeKey took, asked for after a while."""
    await asyncio.sleep(seconds)
    loop = asyncio.get_running_loop()
    asked = loop.time()
    change = await root.revoke_key(key_id)
    return loop.time() - asked, change
