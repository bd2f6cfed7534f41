"""What becomes of keys and owners after their creation, through both clients and a real server."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.server_process import ServerProcess
from tollkeeper import (
    Aborted,
    AlreadyExists,
    AsyncClient,
    CalendarWindow,
    Client,
    DecisionCode,
    FailedPrecondition,
    ImportKey,
    KeyChange,
    KeyState,
    LeakedKey,
    LeakedKeyOutcome,
    Limit,
    LimitScope,
    NotFound,
    Propagation,
    RevokeReason,
    Secret,
    micro_units,
)

PER_MINUTE = Limit.rate("per-minute", 5, timedelta(minutes=1))
MONTHLY = Limit.quota("monthly", 100, CalendarWindow.MONTH)
TOLD_SECONDS = 30


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, token=server.root_key) as client:
        yield client


async def test_only_what_is_given_of_a_key_changes(client: AsyncClient) -> None:
    created = await client.create_key(
        name="ci", permissions=["read"], limits=[PER_MINUTE], metadata={"plan": "pro"}, ttl=timedelta(days=1)
    )
    key = created.key
    change = await client.update_key(key.key_id, name="builds", permissions=["read", "write"])
    assert (change.propagation, change.revision > created.revision) == (Propagation.EVERYWHERE, True)
    assert (change.key.name, set(change.key.permissions)) == ("builds", {"read", "write"})
    assert (change.key.limits, change.key.metadata, change.key.expires_at) == (key.limits, key.metadata, key.expires_at)
    assert (await client.verify(created.api_key, permissions=["write"])).allowed
    emptied = (await client.update_key(key.key_id, limits=(), metadata={}, expires_at=None)).key
    assert (emptied.name, emptied.limits, emptied.metadata, emptied.expires_at) == ("builds", (), {}, None)


async def test_a_change_that_somebody_else_came_before_is_refused(client: AsyncClient) -> None:
    key = (await client.create_key()).key
    await client.update_key(key.key_id, name="first", etag=key.etag)
    with pytest.raises(Aborted):
        await client.update_key(key.key_id, name="second", etag=key.etag)
    assert (await client.get_key(key.key_id)).name == "first"


async def test_a_key_is_switched_off_and_on(client: AsyncClient) -> None:
    created = await client.create_key()
    disabled = await client.disable_key(created.key.key_id)
    assert (disabled.key.state, disabled.propagation) == (KeyState.DISABLED, Propagation.EVERYWHERE)
    assert (await client.verify(created.api_key)).code is DecisionCode.KEY_DISABLED
    enabled = await client.enable_key(created.key.key_id)
    assert (await client.verify(created.api_key, min_revision=enabled.revision)).allowed
    await client.revoke_key(created.key.key_id)
    with pytest.raises(FailedPrecondition):
        await client.enable_key(created.key.key_id)


async def test_a_key_is_rotated_with_an_overlap_that_can_end_early(client: AsyncClient) -> None:
    created = await client.create_key(limits=[PER_MINUTE])
    rotated = await client.rotate_key(created.key.key_id, overlap=timedelta(days=1))
    assert rotated.key.rotation is not None
    assert rotated.key.rotation.overlap_ends_at is not None
    assert timedelta(hours=23) < rotated.key.rotation.overlap_ends_at - datetime.now(UTC) <= timedelta(days=1)
    old, current = await client.verify(created.api_key), await client.verify(rotated.api_key)
    assert (old.secret, current.secret) == (Secret.OLD, Secret.CURRENT)
    assert current.limit("per-minute").used == 2, "a key has one budget, whichever API key is shown"
    ended = await client.end_overlap(created.key.key_id)
    assert (ended.key.rotation, ended.propagation) == (None, Propagation.EVERYWHERE)
    assert (await client.verify(created.api_key)).code is DecisionCode.KEY_INVALID
    assert (await client.verify(rotated.api_key)).allowed


async def test_a_rotation_without_overlap_ends_the_earlier_api_key_at_once(client: AsyncClient) -> None:
    created = await client.create_key()
    rotated, again = [await client.rotate_key(created.key.key_id, request_id="rotation-1") for _ in range(2)]
    assert (again.key, again.api_key, again.revision) == (rotated.key, rotated.api_key, rotated.revision)
    assert rotated.propagation is Propagation.EVERYWHERE
    assert not (await client.verify(created.api_key)).allowed
    assert (await client.verify(rotated.api_key)).allowed


async def test_keys_are_taken_over_and_work_as_they_are(client: AsyncClient) -> None:
    digest = hashlib.sha256(b"taken-over-by-digest").hexdigest()
    items = [
        ImportKey(raw_api_key="taken-over-as-it-is", name="raw", owner_id="globex", limits=(PER_MINUTE,)),
        ImportKey(sha256_hex=digest, name="digest", permissions=("read",)),
        ImportKey(sha512_hex="not hex"),
        ImportKey(raw_api_key="taken-over-as-it-is"),
    ]
    raw, by_digest, bad, twice = [outcome async for outcome in client.import_keys(items, tenant_id="t1")]
    assert isinstance(raw, KeyChange)
    assert isinstance(by_digest, KeyChange)
    assert (raw.key.name, raw.key.owner_id, raw.key.limits) == ("raw", "globex", (PER_MINUTE,))
    assert getattr(bad, "status", "") == "INVALID_ARGUMENT"
    assert isinstance(twice, AlreadyExists)
    assert (await client.verify("taken-over-as-it-is", min_revision=raw.revision)).allowed
    assert (await client.verify("taken-over-by-digest", permissions=["read"])).allowed


async def test_leaked_keys_are_ended_and_strangers_are_told_apart(client: AsyncClient) -> None:
    created = await client.create_key()
    report = await client.report_leaked_keys(
        [LeakedKey("tk_of_somebody_else"), LeakedKey(created.api_key, url="https://example.com", source="github")]
    )
    assert report.outcomes == (LeakedKeyOutcome.NOT_OURS, LeakedKeyOutcome.REVOKED)
    assert report.propagation is Propagation.EVERYWHERE
    assert (await client.get_key(created.key.key_id)).revoke_reason is RevokeReason.COMPROMISED


async def test_an_owner_shares_limits_is_suspended_and_loses_all_its_keys(client: AsyncClient) -> None:
    with pytest.raises(NotFound):
        await client.get_owner("initech", tenant_id="t2")
    first, second = [await client.create_key(owner_id="initech", tenant_id="t2") for _ in range(2)]
    change = await client.set_owner("initech", display_name="Initech", limits=[MONTHLY], tenant_id="t2")
    owner = await client.get_owner("initech", tenant_id="t2")
    assert owner == change.owner
    assert (owner.display_name, owner.limits, owner.suspended, owner.metadata) == ("Initech", (MONTHLY,), False, {})
    await client.verify(first.api_key)
    shared = (await client.verify(second.api_key)).limit("monthly")
    assert (shared.used, shared.scope) == (2, LimitScope.OWNER)
    report = await client.check_quota(owner_id="initech", tenant_id="t2")
    assert report.limit("monthly").remaining == 98

    await client.set_owner("initech", suspended=True, etag=owner.etag, tenant_id="t2")
    assert (await client.verify(first.api_key)).code is DecisionCode.KEY_DISABLED
    with pytest.raises(Aborted):
        await client.set_owner("initech", etag=owner.etag, tenant_id="t2")

    revoked = await client.revoke_keys("initech", reason=RevokeReason.OWNER_LEFT, tenant_id="t2")
    assert set(revoked.key_ids) == {first.key.key_id, second.key.key_id}
    assert revoked.propagation is Propagation.EVERYWHERE


async def test_keys_are_found_by_when_they_end_and_how_old_they_are(client: AsyncClient) -> None:
    late, soon = [(await client.create_key(ttl=timedelta(days=days), tenant_id="t3")).key for days in (20, 10)]
    never = (await client.create_key(tenant_id="t3")).key
    now = datetime.now(UTC)

    async def found(**filters: Any) -> list[str]:
        return [key.key_id async for key in client.list_keys(tenant_id="t3", page_size=1, **filters)]

    assert await found(expires_before=now + timedelta(days=30)) == [soon.key_id, late.key_id]
    assert await found(expires_before=now + timedelta(days=15)) == [soon.key_id]
    assert await found(created_before=now + timedelta(minutes=1)) == [never.key_id, soon.key_id, late.key_id]
    assert await found(api_key_created_before=now - timedelta(days=90)) == []


async def test_a_reservation_is_settled_once_by_what_was_used(client: AsyncClient) -> None:
    created = await client.create_key(limits=[Limit.spend("budget", "5.00", timedelta(days=30))])
    held = await client.verify(created.api_key, charges={"spend": micro_units("2.00")}, reserve=True)
    assert held.reservation_id
    settlement = await client.settle(held.reservation_id, {"spend": micro_units("0.50")})
    assert (settlement.already_settled, settlement.limits[0].used) == (False, micro_units("0.50"))
    again = await client.settle(held.reservation_id, {})
    assert (again.already_settled, again.limits[0].used) == (True, micro_units("0.50"))
    with pytest.raises(NotFound):
        await client.settle("res_" + "0" * 32, {})


async def test_usage_is_told_by_code_and_unit(client: AsyncClient) -> None:
    created = await client.create_key(owner_id="user", tenant_id="t4", permissions=["read"])
    for _ in range(3):
        await client.verify(created.api_key, charges={"tokens": 7})
    await client.verify(created.api_key, permissions=["write"])
    async with asyncio.timeout(TOLD_SECONDS):
        while not (usage := await client.get_usage(key_id=created.key.key_id)).denied:  # noqa: ASYNC110 (the server's)
            await asyncio.sleep(0.1)
    assert (usage.allowed, usage.units) == (3, {"tokens": 21})
    assert usage.denied == {DecisionCode.PERMISSION_DENIED: 1}
    assert (await client.get_usage(owner_id="user", tenant_id="t4")).allowed == 3
    assert [finding async for finding in client.list_findings(key_id=created.key.key_id)] == []


def test_the_synchronous_client_does_the_same(server: ServerProcess) -> None:
    with Client(server.address, token=server.root_key) as client:
        created = client.create_key(owner_id="sync-life")
        key_id = created.key.key_id
        assert client.update_key(key_id, name="new").key.name == "new"
        client.disable_key(key_id)
        client.enable_key(key_id)
        rotated = client.rotate_key(key_id, overlap=timedelta(hours=1))
        client.end_overlap(key_id)
        assert client.verify(rotated.api_key).allowed
        (imported,) = client.import_keys([ImportKey(raw_api_key="imported-by-the-synchronous-client")])
        assert isinstance(imported, KeyChange)
        assert client.set_owner("sync-life", suspended=True).owner == client.get_owner("sync-life")
        assert client.revoke_keys("sync-life").key_ids == (key_id,)
        assert client.report_leaked_keys([LeakedKey("nobody")]).outcomes == (LeakedKeyOutcome.NOT_OURS,)
        assert client.list_audit_events_page(key_id=key_id).events
        assert list(client.list_findings(key_id=key_id)) == []
