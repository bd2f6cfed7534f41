"""Listing keys: pages that neither skip nor repeat, filters, and a cost that does not grow with the table."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from tests.integration.keys_support import ACME, OTHER, ROOT, Keys, keys_on
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.errors import InvalidArgument, PermissionDenied
from tollkeeper_server.core.key import Key, KeyState
from tollkeeper_server.keys.commands import KeyPage, ListKeys, RevokeKey, RotateKey
from tollkeeper_server.keys.listing import page_statement
from tollkeeper_server.keys.pages import Cursor
from tollkeeper_server.storage.postgres import acting_in


@pytest.fixture
async def keys(postgres_url: str) -> AsyncIterator[Keys]:
    async with keys_on(postgres_url) as keys:
        yield keys


async def page(keys: Keys, caller: Caller = ACME, /, **fields: Any) -> KeyPage:
    return await keys.service.list(caller, ListKeys(**fields))


async def every(keys: Keys, caller: Caller = ACME, /, **fields: Any) -> list[Key]:
    found: list[Key] = []
    token = ""
    while True:
        answer = await page(keys, caller, page_token=token, **fields)
        found += answer.keys
        token = answer.next_page_token
        if not token:
            return found
        assert len(answer.keys) == fields.get("page_size", 50)


@pytest.mark.parametrize(("page_size", "pages"), [(1, 6), (2, 3), (3, 2), (5, 2), (6, 1), (7, 1)])
async def test_pages_give_every_key_once_newest_first(keys: Keys, page_size: int, pages: int) -> None:
    created = [(await keys.create(name=str(number))).key for number in range(6)]
    token, seen = "", list[Key]()
    for number in range(pages):
        answer = await page(keys, page_size=page_size, page_token=token)
        seen += answer.keys
        token = answer.next_page_token
        assert bool(token) == (number < pages - 1)
    assert seen == created[::-1]


async def test_an_empty_list_is_one_empty_page(keys: Keys) -> None:
    assert await page(keys) == KeyPage(keys=(), next_page_token="")


async def test_pages_stay_stable_while_keys_are_created(keys: Keys) -> None:
    created = [(await keys.create()).key for _ in range(20)]
    stop = asyncio.Event()

    async def keep_creating() -> None:
        while not stop.is_set():
            await keys.create()

    creating = asyncio.create_task(keep_creating())
    first = await page(keys, page_size=5)
    seen = [key.key_id for key in first.keys]
    token = first.next_page_token
    while token:
        answer = await page(keys, page_size=5, page_token=token)
        seen += [key.key_id for key in answer.keys]
        token = answer.next_page_token
    stop.set()
    await creating
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen, reverse=True)
    assert {key.key_id for key in created} <= set(seen)


async def test_filters_and_states(keys: Keys) -> None:
    async def make(name: str, **fields: Any) -> str:
        return (await keys.create(name=name, **fields)).key.key_id

    await make("plain")
    await make("owned", owner_id="customer-7")
    await make("staging", environment="staging")
    await make("both", owner_id="customer-7", environment="staging", prefix="ila")
    await make("short", ttl=timedelta(seconds=1))
    await make("long", ttl=timedelta(days=1))
    revoked = await make("revoked", owner_id="customer-7", ttl=timedelta(seconds=1))
    await keys.service.revoke(ACME, RevokeKey(key_id=revoked))
    disabled = await make("disabled")
    await keys.rows("UPDATE keys SET state = 'DISABLED' WHERE key_id = $1", disabled)
    await keys.create(tenant_id="other", name="foreign", owner_id="customer-7", environment="staging", prefix="ila")
    keys.clock.now += timedelta(seconds=2)

    async def names(**fields: Any) -> set[str]:
        found = await every(keys, page_size=2, **fields)
        for key in found:
            assert fields.get("state") in (None, key.state_at(keys.clock()))
        return {key.name for key in found}

    everything = {"plain", "owned", "staging", "both", "short", "long", "revoked", "disabled"}
    assert await names() == everything
    assert await names(owner_id="customer-7") == {"owned", "both", "revoked"}
    assert await names(environment="staging") == {"staging", "both"}
    assert await names(prefix="ila") == {"both"}
    assert await names(prefix="tk") == everything - {"both"}
    assert await names(state=KeyState.ACTIVE) == everything - {"short", "revoked", "disabled"}
    assert await names(state=KeyState.EXPIRED) == {"short"}
    assert await names(state=KeyState.REVOKED) == {"revoked"}
    assert await names(state=KeyState.DISABLED) == {"disabled"}
    assert await names(owner_id="customer-7", environment="staging", prefix="ila", state=KeyState.ACTIVE) == {"both"}
    assert await names(owner_id="customer-8") == set()


async def test_a_tenant_sees_its_own_keys_and_root_sees_those_of_the_tenant_it_names(keys: Keys) -> None:
    mine = (await keys.create(ACME)).key
    theirs = (await keys.create(OTHER, tenant_id="")).key
    assert await every(keys, ACME) == [mine]
    assert await every(keys, ACME, tenant_id="acme") == [mine]
    assert await every(keys, ROOT, tenant_id="other") == [theirs]
    assert await every(keys, ROOT) == []
    assert await every(keys, ROOT, tenant_id="nobody") == []
    with pytest.raises(PermissionDenied):
        await page(keys, ACME, tenant_id="other")


async def test_a_page_token_is_good_for_its_own_filters_alone(keys: Keys) -> None:
    for _ in range(3):
        await keys.create(owner_id="a")
        await keys.create(ROOT, tenant_id="other", owner_id="a")
    token = (await page(keys, page_size=1, owner_id="a")).next_page_token
    assert len((await page(keys, page_size=2, owner_id="a", page_token=token)).keys) == 2
    refused: list[tuple[Caller, dict[str, Any]]] = [
        (ACME, {}),
        (ACME, {"owner_id": "b"}),
        (ACME, {"owner_id": "a", "environment": "e"}),
        (ACME, {"owner_id": "a", "state": KeyState.ACTIVE}),
        (ACME, {"owner_id": "a", "prefix": "tk"}),
        (ROOT, {"owner_id": "a", "tenant_id": "other"}),
    ]
    for caller, filters in refused:
        with pytest.raises(InvalidArgument) as fault:
            await page(keys, caller, page_token=token, **filters)
        assert [violation.field for violation in fault.value.violations] == ["page_token"]


FILTERS: list[dict[str, Any]] = [
    {},
    {"owner_id": "owner-7"},
    {"owner_id": "nobody"},
    {"environment": "rare"},
    {"environment": "production"},
    {"prefix": "rare"},
    {"state": KeyState.ACTIVE},
    {"state": KeyState.REVOKED},
    {"state": KeyState.DISABLED},
    {"environment": "rare", "state": KeyState.ACTIVE},
    {"created_before": datetime(2100, 1, 1, tzinfo=UTC)},
    {"api_key_created_before": datetime(2100, 1, 1, tzinfo=UTC)},
    {"owner_id": "owner-7", "environment": "production", "prefix": "tk", "state": KeyState.ACTIVE},
]
MANY = 5_000
MANY_KEYS = """
    INSERT INTO keys SELECT (jsonb_populate_record(keys, jsonb_build_object(
        'key_id', 'key_' || lpad((number + $2)::text, 22, '0'),
        'tenant_id', $3::text,
        'owner_id', 'owner-' || number % 200,
        'environment', CASE WHEN number % 1000 = 0 THEN 'rare' ELSE 'production' END,
        'prefix', CASE WHEN number % 1000 = 1 THEN 'rare' ELSE 'tk' END,
        'state', CASE number % 1000 WHEN 2 THEN 'DISABLED' WHEN 3 THEN 'REVOKED' ELSE 'ACTIVE' END,
        'revoked_at', CASE WHEN number % 1000 = 3 THEN now() END,
        'expires_at', CASE WHEN number % 2 = 0 THEN now() + interval '1 year' END
    ))).* FROM keys, generate_series(1, $1::int) AS number WHERE tenant_id = $3
"""


@pytest.fixture
async def many_keys(keys: Keys) -> Keys:
    """Many keys of "acme", and as many newer ones of "other"."""
    async with keys.postgres.connection(timeout_seconds=30) as connection:
        for number, tenant_id in enumerate(("acme", "other")):
            await keys.create(tenant_id=tenant_id)
            await connection.execute(MANY_KEYS, MANY, number * MANY, tenant_id)
    await keys.rows("ANALYZE keys")
    return keys


async def test_a_page_touches_little_more_than_its_rows(many_keys: Keys) -> None:
    for filters, after in itertools.product(FILTERS, (None, Cursor(f"key_{MANY // 2:022}"))):
        query = ListKeys(**filters)
        text, values = page_statement(query, tenant_id="acme", after=after, now=many_keys.clock())
        async with many_keys.postgres.connection() as connection, acting_in("acme", connection):
            plan = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", *values)
        root = orjson.loads(plan)[0]["Plan"]
        assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] <= query.page_size + 10, plan


async def test_filters_find_every_match_in_a_big_tenant(many_keys: Keys) -> None:
    for filters, expected in (
        ({}, MANY + 1),
        ({"owner_id": "owner-7"}, MANY // 200),
        ({"environment": "rare"}, MANY // 1000),
        ({"state": KeyState.DISABLED}, MANY // 1000),
        ({"state": KeyState.EXPIRED}, 0),
    ):
        found = await every(many_keys, page_size=1000, **filters)
        assert len({key.key_id for key in found}) == len(found) == expected


async def test_keys_that_expire_come_in_the_order_in_which_they_do(keys: Keys) -> None:
    now = keys.clock.now
    for name, days in (("c", 3), ("a", 1), ("never", 0), ("b", 2), ("b2", 2), ("late", 40), ("gone", -1)):
        fields = {"expires_at": now + timedelta(days=days + 2)} if days else {}
        await keys.create(name=name, **fields)
    await keys.create(tenant_id="other", expires_at=now + timedelta(days=1, hours=1))
    keys.clock.now += timedelta(days=2)
    soon = keys.clock.now + timedelta(days=30)
    for page_size in (1, 2, 100):
        found = await every(keys, page_size=page_size, expires_before=soon)
        assert [key.name for key in found] in (["gone", "a", "b", "b2", "c"], ["gone", "a", "b2", "b", "c"])
        living = await every(keys, page_size=page_size, expires_before=soon, state=KeyState.ACTIVE)
        assert [key.name for key in living] == [key.name for key in found][1:]
    assert [key.name for key in await every(keys, expires_before=soon, state=KeyState.EXPIRED)] == ["gone"]


async def test_keys_that_are_old_and_keys_that_are_due_for_rotation(keys: Keys) -> None:
    old = [(await keys.create(name=name)).key for name in ("kept", "rotated", "revoked")]
    keys.clock.now += timedelta(days=90)
    border = keys.clock()
    await keys.create(name="new")
    await keys.service.rotate(ACME, RotateKey(key_id=old[1].key_id))
    await keys.service.revoke(ACME, RevokeKey(key_id=old[2].key_id))

    async def names(**filters: Any) -> list[str]:
        return [key.name for key in await every(keys, page_size=1, **filters)]

    assert await names(created_before=border) == ["revoked", "rotated", "kept"]
    assert await names(created_before=old[1].created_at) == ["kept"]
    assert await names(api_key_created_before=border) == ["revoked", "kept"]
    assert await names(api_key_created_before=border, state=KeyState.ACTIVE) == ["kept"]
    assert await names(created_before=border, expires_before=border) == []
