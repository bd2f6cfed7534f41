"""R0: no verification that starts after a mutation returned is ALLOWED against it; on any server, in any cache.

Prints its figures. Runs again with each protection switched off, which it must notice. TOLLKEEPER_TEST_PROBES tells
how many verifications to make.
"""

import asyncio
import os
import random
from functools import partial
from pathlib import Path

import pytest

from tests.faults.history import client_faults
from tests.faults.history.checker import told
from tests.faults.history.controller import TENANT
from tests.faults.history.record import now
from tests.faults.history.rig import Rig, history
from tests.faults.history.server_faults import SHORT_AGE_SECONDS
from tests.integration.keys_support import keys_on
from tollkeeper import AsyncClient, CreatedKey, Propagation
from tollkeeper._near_cache import NearCache

PROBES = int(os.environ.get("TOLLKEEPER_TEST_PROBES", "300000"))
SECONDS_MAX = max(90.0, PROBES / 3_000)
CAUGHT_SECONDS = 30.0

LATE_SECONDS = 3 * SHORT_AGE_SECONDS
SLOWNESS = "changes are slow,fills are slow"
PAUSED_SECONDS = 3.2
"""Longer than a lease, so that mutations return meanwhile."""

small_history = partial(history, seed=1, servers=2, verifying=2)

pytestmark = pytest.mark.timeout(SECONDS_MAX + 120)


async def test_no_verification_is_allowed_after_its_key_died(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    async with history(postgres_url, redis_url, directory=tmp_path, seed=seed) as rig:
        verdict = await rig.play(probes=PROBES, seconds=SECONDS_MAX)
        mutations = rig.controller.returned
    print(f"\nseed {seed}: {len(mutations)} mutations\n{told(verdict)}")
    assert not verdict.stale
    assert not verdict.refused
    assert min(verdict.probes, 3 * verdict.checked) >= PROBES


@pytest.mark.parametrize(
    ("server_fault", "client_fault"),
    [
        ("mutations do not wait,changes are slow", ""),
        ("clients are not waited for", "changes are slow"),
        ("changes delete,fills are slow", ""),
        ("", "changes delete,fills are slow"),
        ("precedents are believed", ""),
    ],
)
async def test_a_planted_fault_is_noticed(
    postgres_url: str, redis_url: str, tmp_path: Path, server_fault: str, client_fault: str
) -> None:
    planted = partial(small_history, server_fault=server_fault, client_fault=client_fault)
    async with planted(postgres_url, redis_url, directory=tmp_path) as rig:
        verdict = await rig.play(probes=PROBES, seconds=CAUGHT_SECONDS)
    print(f"\nservers: {server_fault or 'no fault'}; clients: {client_fault or 'no fault'}\n{told(verdict)}")
    assert verdict.stale


async def test_slowness_alone_makes_nothing_stale(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    slow = partial(small_history, server_fault=SLOWNESS, client_fault=SLOWNESS)
    async with slow(postgres_url, redis_url, directory=tmp_path) as rig:
        verdict = await rig.play(probes=30_000, seconds=CAUGHT_SECONDS)
    print(f"\nservers and clients: {SLOWNESS}\n{told(verdict)}")
    assert not verdict.stale
    assert not verdict.refused
    assert verdict.checked > 1_000


async def test_a_client_whose_clock_is_read_before_the_question_is_noticed(
    postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    fault = "clock is read before,changes are slow"
    planted = partial(small_history, owners=8, pause_seconds=2.0, client_fault=fault)
    async with planted(postgres_url, redis_url, directory=tmp_path) as rig:
        for process in 5 * rig.verifying:
            await rig.play(probes=PROBES, seconds=1)
            process.pause()
            await rig.play(probes=PROBES, seconds=PAUSED_SECONDS)
            process.resume()
            if (verdict := await rig.play(probes=PROBES, seconds=1)).stale:
                break
    print(f"\nclients paused, {fault}\n{told(verdict)}")
    assert verdict.stale


@pytest.mark.parametrize("fault", ["", "clock is read before,"])
async def test_a_server_that_was_paused_knows_that_its_lease_is_over(
    postgres_url: str, redis_url: str, tmp_path: Path, fault: str
) -> None:
    fault += "changes are slow"
    nobody_else = partial(history, seed=1, servers=2, verifying=0, owners=0, server_fault=fault)
    # With the fault the change may still reach the server before the question does.
    tries = 5 if "clock" in fault else 1
    is_stale = False
    async with nobody_else(postgres_url, redis_url, directory=tmp_path) as rig:
        for _ in range(tries):
            is_stale = is_stale or await is_allowed_by_one_that_was_paused(rig)
    print(f"\na server paused, {fault}: {'stale' if is_stale else 'not stale'}")
    assert is_stale == ("clock" in fault)


async def is_allowed_by_one_that_was_paused(rig: Rig) -> bool:
    """Whether a server answers ALLOWED to a question that came while it was paused, about a key that had ended."""
    paused, root = rig.servers[0], rig.controller.servers[1]
    async with AsyncClient(paused.address, token=rig.service_token, verify_timeout=10) as client:
        created = await remembered(client, root)
        paused.pause()
        try:
            change = await root.revoke_key(created.key.key_id)
            assert change.propagation is Propagation.EVERYWHERE
            verifying = asyncio.create_task(client.verify(created.api_key))
            await asyncio.sleep(0.5)  # the question is on its way
        finally:
            paused.resume()
        return (await verifying).allowed


async def remembered(client: AsyncClient, root: AsyncClient) -> CreatedKey:
    """A new key that every cache has come to know."""
    created, another = [await root.create_key(tenant_id=TENANT) for _ in range(2)]
    await root.revoke_key(another.key.key_id)  # with it the server has heard of all that came before
    while (near := client._near_cache) is not None and not len(near):
        await client.verify(created.api_key)
    assert (await client.verify(created.api_key)).allowed
    return created


@pytest.mark.parametrize("fault", ["", "reads extend age"])
@pytest.mark.parametrize("near_cache", [False, True])
async def test_what_is_always_read_grows_old(
    postgres_url: str, redis_url: str, tmp_path: Path, near_cache: bool, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_fault = f"age is short,{'' if near_cache else fault}"
    nobody_else = partial(history, seed=1, servers=1, verifying=0, owners=0, server_fault=server_fault)
    if near_cache:
        monkeypatch.setattr(NearCache, "recall", NearCache.recall)  # put back afterwards
        client_faults.plant(fault)
    async with nobody_else(postgres_url, redis_url, directory=tmp_path) as rig, keys_on(postgres_url) as keys:
        (server,) = rig.servers
        async with AsyncClient(server.address, token=rig.service_token, near_cache=near_cache) as client:
            created = await remembered(client, rig.controller.servers[0])
            await keys.rows("UPDATE keys SET state = 'DISABLED' WHERE key_id = $1", created.key.key_id)
            changed, seconds = now(), 0.0
            while (await client.verify(created.api_key)).allowed and seconds < LATE_SECONDS:
                seconds = (now() - changed) / 1e9
                await asyncio.sleep(0)
    print(f"\n{fault or 'no fault'}: what was changed behind the service was used for {seconds:.3f} s")
    assert (seconds > 2 * SHORT_AGE_SECONDS + 0.5) == bool(fault)
