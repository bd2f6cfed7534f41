"""Revoking keys: by name or by possession, once and for all, whoever comes second."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.integration.keys_support import ACME, KEYRING, OTHER, ROOT, Keys, keys_on
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.credential import Keyring
from tollkeeper_server.core.errors import AlreadyExists, NotFound
from tollkeeper_server.core.key import KeyState, RevokeReason
from tollkeeper_server.keys.commands import Mutation, Propagation, RevokeKey


@pytest.fixture
async def keys(postgres_url: str) -> AsyncIterator[Keys]:
    async with keys_on(postgres_url) as keys:
        yield keys


async def revoke(keys: Keys, caller: Caller = ACME, /, **fields: object) -> Mutation:
    return await keys.service.revoke(caller, RevokeKey(**fields))  # type: ignore[arg-type]


async def test_a_revoked_key_stays_revoked(keys: Keys) -> None:
    created = await keys.create()
    answer = await revoke(keys, key_id=created.key.key_id, reason=RevokeReason.COMPROMISED)
    assert answer.key.stored_state is KeyState.REVOKED
    assert answer.key.revoke_reason is RevokeReason.COMPROMISED
    assert answer.key.updated_by == ACME.key_id
    assert answer.key.revoked_at is not None
    assert answer.revision == answer.key.revision == 2
    assert answer.propagation is Propagation.EVERYWHERE
    assert answer.key.revoked_at < answer.effective_at <= keys.clock.now
    assert await keys.service.get(ACME, created.key.key_id) == answer.key


async def test_whoever_holds_the_api_key_can_name_the_key_by_it(keys: Keys) -> None:
    created, bystander = await keys.create(), await keys.create()
    answer = await revoke(keys, api_key=created.api_key)
    assert answer.key.key_id == created.key.key_id
    assert (await keys.service.get(ACME, bystander.key.key_id)).stored_state is KeyState.ACTIVE


async def test_an_api_key_stored_under_an_older_pepper_still_names_its_key(postgres_url: str) -> None:
    async with keys_on(postgres_url) as keys:
        created = await keys.create()
    rotated = Keyring(peppers={1: b"p" * 32, 2: b"P" * 32}, tag_keys={1: b"t" * 32})
    async with keys_on(postgres_url, keyring=rotated) as keys:
        assert (await revoke(keys, api_key=created.api_key)).key.key_id == created.key.key_id


async def test_an_api_key_whose_overlap_has_ended_names_nothing(keys: Keys) -> None:
    created = await keys.create()
    await keys.rows("UPDATE secrets SET expires_at = $1", keys.clock())
    with pytest.raises(NotFound):
        await revoke(keys, api_key=created.api_key)


async def test_the_audit_event_tells_before_after_and_why(keys: Keys) -> None:
    created = await keys.create(owner_id="customer-7")
    await revoke(keys, api_key=created.api_key, comment="found on a forum", request_id="r9")
    events = await keys.rows(
        "SELECT sequence, actor, actor_ip, action, key_id, owner_id, request_id, revision, before->>'state' AS before,"
        " after->>'state' AS after, after->>'revoke_comment' AS comment FROM audit_events WHERE action = 'RevokeKey'"
    )
    assert events == [
        {
            "sequence": 2,
            "actor": ACME.key_id,
            "actor_ip": ACME.address,
            "action": "RevokeKey",
            "key_id": created.key.key_id,
            "owner_id": "customer-7",
            "request_id": "r9",
            "revision": 2,
            "before": "ACTIVE",
            "after": "REVOKED",
            "comment": "found on a forum",
        }
    ]
    assert (await keys.rows("SELECT kind, key_id FROM changes WHERE revision = 2")) == [
        {"kind": "RevokeKey", "key_id": created.key.key_id}
    ]
    dump = await keys.dump()
    assert created.api_key not in dump
    assert created.api_key[-12:] not in dump


async def test_revoking_again_changes_nothing_and_gives_the_first_revocation(keys: Keys) -> None:
    created = await keys.create()
    first = await revoke(keys, key_id=created.key.key_id, reason=RevokeReason.UNUSED, comment="one")
    before = await keys.dump()
    again = await revoke(keys, ROOT, api_key=created.api_key, reason=RevokeReason.COMPROMISED, comment="two")
    assert (again.key, again.revision, again.propagation) == (first.key, first.revision, first.propagation)
    assert await keys.dump() == before


async def test_of_many_revocations_at_once_one_counts(keys: Keys) -> None:
    for _ in range(10):
        created = await keys.create()
        reasons = (RevokeReason.COMPROMISED, RevokeReason.UNUSED, RevokeReason.SUPERSEDED, RevokeReason.OWNER_LEFT)
        answers = await asyncio.gather(*(revoke(keys, key_id=created.key.key_id, reason=reason) for reason in reasons))
        assert len({(answer.key.revoke_reason, answer.key.revoked_at, answer.revision) for answer in answers}) == 1
    assert await keys.rows("SELECT count(*) FROM audit_events WHERE action = 'RevokeKey'") == [{"count": 10}]
    assert await keys.rows("SELECT max(revision) FROM changes") == [{"max": 20}]


async def test_a_revocation_waits_for_another_change_of_the_key_and_keeps_it(keys: Keys) -> None:
    created = await keys.create(name="old")
    async with keys.postgres.transaction() as other:
        await other.execute("UPDATE keys SET name = 'new'")
        revocation = asyncio.create_task(revoke(keys, key_id=created.key.key_id))
        await keys.until("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted) AS done")
    answer = await revocation
    assert (answer.key.name, answer.key.stored_state) == ("new", KeyState.REVOKED)
    events = await keys.rows("SELECT before->>'name' AS name FROM audit_events WHERE action = 'RevokeKey'")
    assert events == [{"name": "new"}]


async def test_a_repeated_request_gets_the_same_and_a_reused_request_id_is_refused(keys: Keys) -> None:
    one, two = await keys.create(), await keys.create()
    first = await revoke(keys, key_id=one.key.key_id, comment="x", request_id="r1")
    assert (await revoke(keys, api_key=one.api_key, comment="x", request_id="r1")).key == first.key
    for other in ({"key_id": two.key.key_id, "comment": "x"}, {"key_id": one.key.key_id, "comment": "y"}):
        with pytest.raises(AlreadyExists) as refused:
            await revoke(keys, request_id="r1", **other)
        assert refused.value.reason == "REQUEST_ID_REUSED"
    assert (await keys.service.get(ACME, two.key.key_id)).stored_state is KeyState.ACTIVE


async def test_unknown_and_foreign_keys_are_told_apart_by_nobody(keys: Keys) -> None:
    created = await keys.create(ACME)
    before = await keys.dump()
    stranger = KEYRING.mint(prefix="tk", length=60, seed=KEYRING.new_seed(b"s" * 32))
    faults = []
    for caller, subject in (
        (OTHER, {"key_id": created.key.key_id}),
        (ACME, {"key_id": "key_0000000000000000000000"}),
        (ACME, {"api_key": stranger}),
        (ACME, {"api_key": "no API key at all"}),
    ):
        with pytest.raises(NotFound) as refused:
            await revoke(keys, caller, **subject)
        faults.append((refused.value.message, refused.value.reason, tuple(refused.value.metadata)))
    with pytest.raises(NotFound) as refused:
        await keys.service.get(OTHER, created.key.key_id)
    faults.append((refused.value.message, refused.value.reason, tuple(refused.value.metadata)))
    assert set(faults) == {("there is no such key", "KEY_NOT_FOUND", ())}
    assert await keys.dump() == before


async def test_root_callers_revoke_in_every_tenant(keys: Keys) -> None:
    created = await keys.create(ACME)
    assert (await revoke(keys, ROOT, api_key=created.api_key)).key.stored_state is KeyState.REVOKED


async def test_whoever_holds_the_api_key_revokes_its_key_whosever_it_is(keys: Keys) -> None:
    created = await keys.create(ACME)
    assert (await revoke(keys, OTHER, api_key=created.api_key)).key.stored_state is KeyState.REVOKED
    (event,) = await keys.rows("SELECT tenant_id, actor FROM audit_events WHERE action = 'RevokeKey'")
    assert event == {"tenant_id": "acme", "actor": OTHER.key_id}
