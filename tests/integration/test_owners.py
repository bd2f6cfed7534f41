"""Owners: what their keys share, and what ends all of them at once."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.keys_support import ACME, OTHER, ROOT, Keys, keys_on
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.errors import Aborted, NotFound, PermissionDenied
from tollkeeper_server.core.key import KeyState, RevokeReason
from tollkeeper_server.core.limits import Limit, LimitKind
from tollkeeper_server.keys.owner_commands import OwnerChange, RevokedKeys, RevokeKeys, SetOwner

MINUTE = Limit(name="minute", kind=LimitKind.RATE, unit="requests", amount=5, window_seconds=60)


@pytest.fixture
async def keys(postgres_url: str) -> AsyncIterator[Keys]:
    async with keys_on(postgres_url) as keys:
        yield keys


async def put(keys: Keys, caller: Caller = ACME, /, **fields: Any) -> OwnerChange:
    return await keys.service.owners.set(caller, SetOwner(**{"owner_id": "o", **fields}))


async def revoke_all(keys: Keys, caller: Caller = ACME, /, **fields: Any) -> RevokedKeys:
    return await keys.service.owners.revoke_keys(caller, RevokeKeys(**{"owner_id": "o", **fields}))


async def test_an_owner_reads_back_as_it_was_set_and_replaced(keys: Keys) -> None:
    first = await put(keys, display_name="Ünïcode", limits=(MINUTE,), metadata={"plan": {"seats": 3}})
    assert await keys.service.owners.get(ACME, "o") == first.owner
    second = await put(keys, suspended=True)
    assert (second.owner.display_name, second.owner.limits, second.owner.metadata) == ("", (), {})
    assert second.owner.created_at == first.owner.created_at < second.owner.updated_at
    assert second.owner.etag != first.owner.etag
    assert await keys.service.owners.get(ROOT, "o", tenant_id="acme") == second.owner


async def test_setting_what_is_set_leaves_no_trace(keys: Keys) -> None:
    first = await put(keys, limits=(MINUTE,))
    before = await keys.dump()
    assert (await put(keys, limits=(MINUTE,))).owner == first.owner
    assert await keys.dump() == before


async def test_an_owner_is_its_tenants_own(keys: Keys) -> None:
    await put(keys, display_name="mine")
    with pytest.raises(NotFound) as refused:
        await keys.service.owners.get(OTHER, "o")
    assert refused.value.reason == "OWNER_NOT_FOUND"
    for attempt in (put(keys, OTHER, tenant_id="acme"), revoke_all(keys, OTHER, tenant_id="acme")):
        with pytest.raises(PermissionDenied):
            await attempt
    assert (await put(keys, OTHER)).owner.tenant_id == "other"
    assert (await keys.service.owners.get(ACME, "o")).display_name == "mine"


async def test_an_old_etag_is_refused_for_a_new_owner_as_well(keys: Keys) -> None:
    with pytest.raises(Aborted):
        await put(keys, etag="0" * 16)
    first = await put(keys)
    await put(keys, etag=first.owner.etag, display_name="a")
    with pytest.raises(Aborted):
        await put(keys, etag=first.owner.etag, display_name="b")


async def test_a_verification_finds_the_owner_beside_the_key(keys: Keys) -> None:
    plain, owned = await keys.create(), await keys.create(owner_id="o")
    await keys.create(tenant_id="other", owner_id="o")
    await put(keys, OTHER, display_name="another tenant's")
    found = await keys.record(owned.api_key)
    assert found is not None
    assert found.owner is None
    change = await put(keys, limits=(MINUTE,), suspended=True)
    found = await keys.record(owned.api_key)
    assert found is not None
    assert found.owner == change.owner
    found = await keys.record(plain.api_key)
    assert found is not None
    assert found.owner is None


async def test_a_change_of_an_owner_names_the_owner_to_caches_and_in_the_audit_log(keys: Keys) -> None:
    await put(keys, display_name="a", request_id="r1")
    assert await keys.rows("SELECT key_id, owner, kind FROM changes") == [
        {"key_id": "", "owner": "acme/o", "kind": "SetOwner"}
    ]
    assert await keys.rows("SELECT owner_id, key_id, request_id, after->>'display_name' AS name FROM audit_events") == [
        {"owner_id": "o", "key_id": "", "request_id": "r1", "name": "a"}
    ]


async def test_all_keys_of_an_owner_are_revoked_and_no_other(keys: Keys) -> None:
    mine = [(await keys.create(owner_id="o")).key.key_id for _ in range(3)]
    others = [(await keys.create(owner_id="p")).key, (await keys.create(tenant_id="other", owner_id="o")).key]
    revoked = await revoke_all(keys, reason=RevokeReason.OWNER_LEFT, comment="bye", request_id="r1")
    assert sorted(revoked.key_ids) == sorted(mine)
    for key_id in mine:
        key = await keys.service.get(ACME, key_id)
        assert (key.stored_state, key.revoke_reason) == (KeyState.REVOKED, RevokeReason.OWNER_LEFT)
    for key in others:
        assert await keys.service.get(ROOT, key.key_id) == key
    events = await keys.rows("SELECT key_id FROM audit_events WHERE action = 'RevokeKeys'")
    assert sorted(str(event["key_id"]) for event in events) == sorted(mine)
    later = await keys.create(owner_id="o")
    assert (await revoke_all(keys, reason=RevokeReason.OWNER_LEFT, comment="bye", request_id="r1")).key_ids == (
        revoked.key_ids
    )
    assert (await keys.service.get(ACME, later.key.key_id)).stored_state is KeyState.ACTIVE
    assert (await revoke_all(keys)).key_ids == (later.key.key_id,)
    assert (await revoke_all(keys)).key_ids == ()
