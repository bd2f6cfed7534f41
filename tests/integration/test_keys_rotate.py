"""Rotation: two API keys at most, one key and one budget, and the same answer to the same request."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.integration.keys_support import ACME, OTHER, ROOT, Keys, keys_on
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.credential import Keyring, fingerprint
from tollkeeper_server.core.errors import AlreadyExists, FailedPrecondition, NotFound, PermissionDenied
from tollkeeper_server.core.key import Secret
from tollkeeper_server.keys.commands import NameKey, Propagation, RotatedKey, RotateKey

DAY = timedelta(days=1)


@pytest.fixture
async def keys(postgres_url: str) -> AsyncIterator[Keys]:
    async with keys_on(postgres_url) as keys:
        yield keys


async def rotate(keys: Keys, key_id: str, caller: Caller = ACME, /, **fields: object) -> RotatedKey:
    return await keys.service.rotate(caller, RotateKey(key_id=key_id, **fields))  # type: ignore[arg-type]


async def proven(keys: Keys, *api_keys: str) -> list[Secret | None]:
    records = [await keys.record(api_key) for api_key in api_keys]
    return [None if record is None else record.secret for record in records]


async def test_without_overlap_the_earlier_api_key_is_dead_at_once(keys: Keys) -> None:
    created = await keys.create(prefix="ila", length=76, name="same", owner_id="o")
    rotated = await rotate(keys, created.key.key_id)
    assert await proven(keys, created.api_key, rotated.api_key) == [None, Secret.CURRENT]
    assert rotated.propagation is Propagation.EVERYWHERE
    assert (len(rotated.api_key), rotated.api_key[:4]) == (76, "ila_")
    assert rotated.fingerprint == fingerprint(rotated.api_key)
    assert rotated.key == replace(
        created.key,
        hint=f"ila_…{rotated.api_key[-4:]}",
        api_key_created_at=rotated.key.updated_at,
        updated_at=rotated.key.updated_at,
        updated_by=ACME.key_id,
        revision=rotated.revision,
    )
    assert await keys.service.get(ACME, created.key.key_id) == rotated.key


async def test_an_ended_api_key_is_dead_for_a_server_whose_clock_is_behind(keys: Keys) -> None:
    created = await keys.create()
    await rotate(keys, created.key.key_id)
    keys.clock.now -= timedelta(hours=1)
    assert await proven(keys, created.api_key) == [None]


async def test_during_the_overlap_both_work_and_tell_which_is_which(keys: Keys) -> None:
    created = await keys.create()
    rotated = await rotate(keys, created.key.key_id, overlap=DAY)
    assert await proven(keys, created.api_key, rotated.api_key) == [Secret.OLD, Secret.CURRENT]
    rotation = rotated.key.rotation_at(keys.clock())
    assert rotation is not None
    assert rotation.overlap_ends_at == rotated.key.updated_at + DAY
    keys.clock.now += DAY
    assert await proven(keys, created.api_key, rotated.api_key) == [None, Secret.CURRENT]
    assert (await keys.service.get(ACME, created.key.key_id)).rotation_at(keys.clock()) is None


async def test_the_last_use_of_the_old_api_key_is_seen(keys: Keys) -> None:
    created = await keys.create()
    used_at = keys.clock()
    rotated = await rotate(keys, created.key.key_id, overlap=DAY)
    await keys.rows("UPDATE secrets SET last_used_at = $1 WHERE expires_at IS NOT NULL", used_at)
    rotation = (await keys.service.get(ACME, created.key.key_id)).rotation_at(keys.clock())
    assert rotation is not None
    assert rotation.old_last_used_at == used_at
    assert rotated.key.old_last_used_at is None


async def test_a_second_rotation_ends_the_oldest_and_keeps_the_newest_two(keys: Keys) -> None:
    first = await keys.create()
    second = await rotate(keys, first.key.key_id, overlap=DAY)
    third = await rotate(keys, first.key.key_id, overlap=DAY)
    given = (first.api_key, second.api_key, third.api_key)
    assert await proven(keys, *given) == [None, Secret.OLD, Secret.CURRENT]
    fourth = await rotate(keys, first.key.key_id)
    assert await proven(keys, *given, fourth.api_key) == [None, None, None, Secret.CURRENT]
    for _ in range(5):
        await rotate(keys, first.key.key_id, overlap=DAY)
    assert (await keys.rows("SELECT count(*) FROM secrets"))[0]["count"] <= 3  # type: ignore[operator]


async def test_an_overlap_can_be_ended_early(keys: Keys) -> None:
    created = await keys.create()
    rotated = await rotate(keys, created.key.key_id, overlap=DAY)
    ended = await keys.service.end_overlap(ACME, NameKey(key_id=created.key.key_id))
    assert await proven(keys, created.api_key, rotated.api_key) == [None, Secret.CURRENT]
    assert ended.propagation is Propagation.EVERYWHERE
    assert ended.key.rotation_at(keys.clock()) is None


async def test_a_repeated_request_gets_the_same_api_key_and_rotates_once(keys: Keys) -> None:
    created = await keys.create()
    first = await rotate(keys, created.key.key_id, overlap=DAY, request_id="r1")
    await rotate(keys, created.key.key_id)
    before = await keys.dump()
    again = await rotate(keys, created.key.key_id, overlap=DAY, request_id="r1")
    assert (again.key, again.api_key, again.revision) == (first.key, first.api_key, first.revision)
    assert await keys.dump() == before
    with pytest.raises(AlreadyExists):
        await rotate(keys, created.key.key_id, overlap=2 * DAY, request_id="r1")


async def test_no_api_key_of_a_rotation_is_in_any_table(keys: Keys) -> None:
    created = await keys.create(request_id="r1")
    rotated = await rotate(keys, created.key.key_id, overlap=DAY, request_id="r2")
    dump = await keys.dump()
    for api_key in (created.api_key, rotated.api_key):
        for trace in (api_key, api_key[3:15], api_key[-12:], fingerprint(api_key), api_key.encode().hex()):
            assert trace not in dump
    assert rotated.api_key not in repr(rotated)


async def test_a_first_answer_whose_minting_secret_is_gone_is_not_made_up(postgres_url: str) -> None:
    async with keys_on(postgres_url) as keys:
        created = await keys.create()
        await rotate(keys, created.key.key_id, request_id="r1")
    rotated = Keyring(peppers={1: b"p" * 32}, tag_keys={2: b"T" * 32})
    async with keys_on(postgres_url, keyring=rotated) as keys:
        with pytest.raises(FailedPrecondition) as refused:
            await rotate(keys, created.key.key_id, request_id="r1")
    assert refused.value.reason == "API_KEY_GONE"


async def test_nobody_gets_the_api_key_of_a_key_that_may_do_more_than_itself(keys: Keys) -> None:
    mighty = await keys.create(ROOT, permissions=("tollkeeper:audit.read",))
    foreign = await keys.create(ROOT, tenant_id="other")
    before = await keys.dump()
    with pytest.raises(PermissionDenied):
        await rotate(keys, mighty.key.key_id)
    with pytest.raises(NotFound):
        await rotate(keys, foreign.key.key_id)
    with pytest.raises(NotFound):
        await keys.service.end_overlap(OTHER, NameKey(key_id=mighty.key.key_id))
    assert await keys.dump() == before
