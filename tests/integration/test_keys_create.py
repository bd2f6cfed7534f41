"""Creating keys: what is stored, what is answered, who may, and what a repeated request gets."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from tests.integration.keys_support import ACME, KEYRING, ROOT, TABLES, Keys, keys_on
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.credential import Keyring, fingerprint
from tollkeeper_server.core.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    TollkeeperError,
)
from tollkeeper_server.core.key import ROOT_TENANT, KeyState
from tollkeeper_server.core.limits import CalendarWindow, Limit, LimitKind
from tollkeeper_server.keys.lookup import find_by_digests

EVERYTHING: dict[str, Any] = {
    "tenant_id": "acme",
    "owner_id": "customer-7",
    "name": "Ünïcode, 'quotes' and \\ too",
    "description": "a description",
    "environment": "production",
    "prefix": "ila",
    "length": 76,
    "permissions": ("read", "a:*"),
    "resources": ("reports",),
    "allowed_cidrs": (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("192.0.2.7/32")),
    "limits": (
        Limit(name="minute", kind=LimitKind.RATE, unit="requests", amount=5, window_seconds=60, shadow=True),
        Limit(
            name="month",
            kind=LimitKind.SPEND,
            unit="spend",
            amount=10**15,
            calendar=CalendarWindow.MONTH,
            time_zone="Europe/Berlin",
        ),
        Limit(
            name="fixed",
            kind=LimitKind.QUOTA,
            unit="tokens",
            amount=0,
            window_seconds=3600,
            anchor=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        ),
    ),
    "metadata": {"plan": "gold", "seats": 3.5, "nested": {"list": [1, None, True, "x"]}, "huge": 1e300, "tiny": 5e-324},
}


@pytest.fixture
async def keys(postgres_url: str) -> AsyncIterator[Keys]:
    async with keys_on(postgres_url) as keys:
        yield keys


async def counts(keys: Keys) -> dict[str, int]:
    query = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in TABLES)
    return (await keys.rows(f"SELECT {query}"))[0]  # type: ignore[return-value]


async def test_a_key_reads_back_exactly_as_it_was_answered(keys: Keys) -> None:
    created = await keys.create(**EVERYTHING, ttl=timedelta(days=1))
    assert await keys.service.get(ROOT, created.key.key_id) == created.key
    for name in EVERYTHING.keys() - {"length"}:
        assert getattr(created.key, name) == EVERYTHING[name]
    assert created.key.expires_at == created.key.created_at + timedelta(days=1)
    assert created.key.created_by == created.key.updated_by == ROOT.key_id
    assert created.key.state_at(keys.clock()) is KeyState.ACTIVE


async def test_the_api_key_proves_the_key_and_nothing_else_does(keys: Keys) -> None:
    created, other = await keys.create(**EVERYTHING), await keys.create()
    assert len(created.api_key) == EVERYTHING["length"]
    assert created.fingerprint == fingerprint(created.api_key)
    assert created.key.hint == f"ila_…{created.api_key[-4:]}"
    digest, stranger = KEYRING.digest(created.api_key), KEYRING.digest("tk_nobody")
    async with keys.postgres.connection() as connection:
        found, revision = await find_by_digests(connection, [stranger, digest])
        nothing, _ = await find_by_digests(connection, [stranger])
    assert {at: record.key for at, record in found.items()} == {digest: created.key}
    assert found[digest].expires_at is None
    assert not nothing
    assert revision == other.revision


async def test_a_lookup_in_an_empty_database_reflects_revision_zero(keys: Keys) -> None:
    async with keys.postgres.connection() as connection:
        assert await find_by_digests(connection, [b"d" * 32]) == ({}, 0)


async def test_every_creation_leaves_its_change_and_its_audit_event(keys: Keys) -> None:
    first = await keys.create(ROOT, **EVERYTHING, request_id="r1")
    second = await keys.create(ACME, name="second")
    await keys.create(ROOT, tenant_id="other")
    changes = await keys.rows("SELECT revision, key_id, kind FROM changes ORDER BY revision LIMIT 2")
    assert changes == [
        {"revision": 1, "key_id": first.key.key_id, "kind": "CreateKey"},
        {"revision": 2, "key_id": second.key.key_id, "kind": "CreateKey"},
    ]
    events = await keys.rows(
        "SELECT sequence, actor, actor_ip, action, key_id, owner_id, request_id, revision, before,"
        " after->>'name' AS name FROM audit_events WHERE tenant_id = 'acme' ORDER BY sequence"
    )
    assert events == [
        {
            "sequence": sequence,
            "actor": caller.key_id,
            "actor_ip": caller.address,
            "action": "CreateKey",
            "key_id": created.key.key_id,
            "owner_id": created.key.owner_id,
            "request_id": request_id,
            "revision": sequence,
            "before": None,
            "name": created.key.name,
        }
        for sequence, caller, created, request_id in ((1, ROOT, first, "r1"), (2, ACME, second, ""))
    ]
    assert await keys.rows("SELECT max(sequence) FROM audit_events WHERE tenant_id = 'other'") == [{"max": 1}]


async def test_no_api_key_is_in_any_table(keys: Keys) -> None:
    created = await keys.create(**EVERYTHING, request_id="r1")
    dump = await keys.dump()
    assert created.key.key_id in dump
    secret = created.api_key.removeprefix("ila_")
    for trace in (created.api_key, secret[:12], secret[-12:], created.fingerprint, created.api_key.encode().hex()):
        assert trace not in dump
    assert created.api_key not in repr(created)


async def test_revisions_and_audit_sequences_have_no_gaps_when_many_create_at_once(keys: Keys) -> None:
    created = await asyncio.gather(*(keys.create(ROOT, tenant_id=f"tenant-{number % 3}") for number in range(60)))
    assert sorted(each.revision for each in created) == list(range(1, 61))
    events = await keys.rows(
        "SELECT array_agg(sequence ORDER BY revision) AS them FROM audit_events GROUP BY tenant_id"
    )
    assert [event["them"] for event in events] == [list(range(1, 21))] * 3


async def test_who_reads_changes_by_cursor_misses_none(keys: Keys) -> None:
    seen: list[object] = []

    async def follow() -> None:
        while len(seen) < 80:
            cursor = seen[-1] if seen else 0
            rows = await keys.rows("SELECT revision FROM changes WHERE revision > $1 ORDER BY revision", cursor)
            seen.extend(row["revision"] for row in rows)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(follow())
        for _ in range(80):
            group.create_task(keys.create())
    assert seen == list(range(1, 81))


async def test_a_repeated_request_gets_its_first_answer_and_creates_nothing(keys: Keys) -> None:
    first = await keys.create(**EVERYTHING, ttl=timedelta(days=1), request_id="r1")
    before = await counts(keys)
    assert await keys.create(**EVERYTHING, ttl=timedelta(days=1), request_id="r1") == first
    assert await counts(keys) == before


async def test_a_repeated_request_gets_the_key_as_it_was_even_if_it_has_changed(keys: Keys) -> None:
    first = await keys.create(request_id="r1")
    await keys.rows("UPDATE keys SET name = 'changed', revision = 99")
    assert await keys.create(request_id="r1") == first


async def test_two_identical_requests_at_once_create_one_key(keys: Keys) -> None:
    for round_number in range(10):
        answers = await asyncio.gather(*(keys.create(request_id=f"r{round_number}") for _ in range(4)))
        assert all(answer == answers[0] for answer in answers)
    assert (await counts(keys)) == {
        "tenants": 1,
        "keys": 10,
        "secrets": 10,
        "owners": 0,
        "changes": 10,
        "audit_events": 10,
        "idempotency": 10,
    }
    assert await keys.rows("SELECT max(revision) FROM changes") == [{"max": 10}]


@pytest.mark.parametrize(
    "other",
    [{"name": "other"}, {"tenant_id": "other"}, {"permissions": ("write",)}, {"metadata": {"a": 2}}, {"length": 60}],
)
async def test_a_request_id_used_for_something_else_is_refused(keys: Keys, other: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"permissions": ("read",), "metadata": {"a": 1}, "request_id": "r1"}
    await keys.create(**asked)
    before = await counts(keys)
    with pytest.raises(AlreadyExists) as refused:
        await keys.create(**{**asked, **other})
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert await counts(keys) == before


async def test_a_request_id_means_nothing_to_another_caller(keys: Keys) -> None:
    mine = await keys.create(ACME, request_id="r1")
    theirs = await keys.create(replace(ACME, key_id="key_colleague"), request_id="r1")
    assert theirs.key.key_id != mine.key.key_id
    assert theirs.api_key != mine.api_key


async def test_without_a_request_id_every_request_creates(keys: Keys) -> None:
    assert (await keys.create()).key.key_id != (await keys.create()).key.key_id


async def test_requests_are_forgotten_after_a_day_and_their_records_deleted(keys: Keys) -> None:
    first = await keys.create(request_id="r1")
    await keys.create(request_id="r2")
    keys.clock.now += timedelta(hours=23, minutes=59)
    assert await keys.create(request_id="r1") == first
    keys.clock.now += timedelta(minutes=2)
    assert (await keys.create(request_id="r1")).key.key_id != first.key.key_id
    await keys.create(request_id="r3")
    remembered = await keys.rows("SELECT request_id FROM idempotency ORDER BY request_id")
    assert [row["request_id"] for row in remembered] == ["r1", "r3"]


async def test_changes_are_forgotten_after_a_day_but_for_the_newest_which_numbers_the_next(keys: Keys) -> None:
    for _ in range(3):
        await keys.create()
    keys.clock.now += timedelta(days=1, minutes=1)
    revisions = [(await keys.create()).key.revision for _ in range(2)]
    assert revisions == [4, 5]
    assert [row["revision"] for row in await keys.rows("SELECT revision FROM changes ORDER BY revision")] == [4, 5]


async def test_a_first_answer_whose_minting_secret_is_gone_is_not_made_up(postgres_url: str) -> None:
    async with keys_on(postgres_url) as keys:
        await keys.create(request_id="r1")
    rotated = Keyring(peppers={1: b"p" * 32}, tag_keys={2: b"T" * 32})
    async with keys_on(postgres_url, keyring=rotated) as keys:
        with pytest.raises(FailedPrecondition) as refused:
            await keys.create(request_id="r1")
    assert refused.value.reason == "API_KEY_GONE"


async def test_a_first_answer_survives_the_rotation_of_the_secrets(postgres_url: str) -> None:
    async with keys_on(postgres_url) as keys:
        first = await keys.create(request_id="r1")
    rotated = Keyring(peppers={1: b"p" * 32, 2: b"P" * 32}, tag_keys={1: b"t" * 32, 2: b"T" * 32})
    async with keys_on(postgres_url, keyring=rotated) as keys:
        assert await keys.create(request_id="r1") == first


@pytest.mark.parametrize(
    ("caller", "asked", "fault"),
    [
        (ACME, {"tenant_id": "other"}, PermissionDenied),
        (ACME, {"tenant_id": ROOT_TENANT}, PermissionDenied),
        (ACME, {"permissions": ("tollkeeper:verify",)}, PermissionDenied),
        (ACME, {"permissions": ("tollkeeper:*",)}, PermissionDenied),
        (ACME, {"permissions": ("read", "tollkeeper:keys.read")}, PermissionDenied),
        (replace(ACME, permissions=("*",)), {"permissions": ("tollkeeper:verify",)}, PermissionDenied),
        (ACME, {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, InvalidArgument),
        (ACME, {"expires_at": datetime(9999, 1, 1, tzinfo=UTC)}, InvalidArgument),
    ],
)
async def test_a_refused_creation_writes_nothing(
    keys: Keys, caller: Caller, asked: dict[str, Any], fault: type[TollkeeperError]
) -> None:
    with pytest.raises(fault):
        await keys.create(caller, **{"request_id": "r1", **asked})
    assert set((await counts(keys)).values()) == {0}


async def test_a_caller_gives_away_the_permissions_that_it_has(keys: Keys) -> None:
    assert (await keys.create(ACME, permissions=("tollkeeper:keys.write", "*"))).key.tenant_id == "acme"
    assert (await keys.create(ROOT, permissions=("tollkeeper:*", "tollkeeper:verify"))).key.tenant_id == "acme"


async def test_a_caller_that_names_no_tenant_acts_in_its_own(keys: Keys) -> None:
    assert (await keys.create(ACME, tenant_id="")).key.tenant_id == "acme"
    assert (await keys.create(ROOT, tenant_id="")).key.tenant_id == ROOT_TENANT


async def test_a_statement_that_fails_half_way_leaves_nothing(keys: Keys) -> None:
    await keys.create()
    before = await counts(keys)
    await keys.rows("ALTER TABLE audit_events ADD CONSTRAINT broken CHECK (actor <> 'key_acme')")
    with pytest.raises(Exception, match="broken"):
        await keys.create(ACME, request_id="r1")
    assert await counts(keys) == before
    assert (await keys.create(ROOT)).revision == 2


async def test_a_repeated_request_gets_its_first_answer_even_if_its_expiry_has_passed_since(keys: Keys) -> None:
    expires_at = keys.clock.now + timedelta(minutes=1)
    first = await keys.create(expires_at=expires_at, request_id="r1")
    keys.clock.now += timedelta(minutes=2)
    assert await keys.create(expires_at=expires_at, request_id="r1") == first
    with pytest.raises(InvalidArgument):
        await keys.create(expires_at=expires_at, request_id="r2")
