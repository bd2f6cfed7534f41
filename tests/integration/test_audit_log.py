"""The audit log: whole, in order, told to those who may read it, and found out if anybody alters it."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.keys_support import ACME, OTHER, ROOT, Keys, keys_on
from tollkeeper import AuditHead, AuditVerifier
from tollkeeper._audit import canonical
from tollkeeper._results.audit import audit_event
from tollkeeper_server.api.convert_audit import audit_event_message
from tollkeeper_server.audit.events import AuditEvent, ListAuditEvents
from tollkeeper_server.audit.service import AuditService
from tollkeeper_server.audit.store import page_statement
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.errors import InvalidArgument, PermissionDenied, Unavailable
from tollkeeper_server.keys.commands import RevokeKey
from tollkeeper_server.storage.postgres import acting_in, connect

COLUMNS = {
    "tenant_id": "'third'",
    "sequence": "100",
    "occurred_at": "occurred_at + interval '1 microsecond'",
    "actor": "actor || 'x'",
    "actor_ip": "'192.0.2.99'",
    "action": "'DeleteKey'",
    "key_id": "'key_x'",
    "owner_id": "owner_id || 'x'",
    "request_id": "request_id || 'x'",
    "revision": "revision + 1",
    "before": """coalesce(before, '{}') || '{"name": "x"}'""",
    "after": """after || '{"name": "x"}'""",
    "hash": "sha256(hash)",
}
"""For each column what somebody may want to write there."""


@pytest.fixture
async def keys(postgres_url: str) -> AsyncIterator[Keys]:
    async with keys_on(postgres_url) as keys:
        yield keys


async def page(keys: Keys, caller: Caller = ACME, **query: Any) -> Any:
    return await AuditService(postgres=keys.postgres).list(caller, ListAuditEvents(**query))


async def every(keys: Keys, caller: Caller = ACME, **query: Any) -> list[AuditEvent]:
    found: list[AuditEvent] = []
    token = ""
    while True:
        part = await page(keys, caller, page_token=token, **query)
        found += part.events
        token = part.next_page_token
        if not token:
            return found


async def verify(keys: Keys, *heads: AuditHead, caller: Caller = ACME) -> list[str]:
    """What a client finds wrong with the log of "acme", over the whole way that events take to it."""
    verifier = AuditVerifier(heads=heads)
    for event in await every(keys, caller, page_size=7):
        verifier.add(audit_event(audit_event_message(event)))
    verifier.finish()
    return verifier.problems


async def head(keys: Keys) -> AuditHead:
    (newest,) = (await page(keys, page_size=1)).events
    it: AuditHead = audit_event(audit_event_message(newest)).head
    return it


async def lived(keys: Keys) -> list[str]:
    """Twenty events of "acme", and some of "other"."""
    ids = []
    for number in range(10):
        created = await keys.create(name=f"key {number}", owner_id=f"owner-{number % 3}", metadata={"n": number + 0.5})
        ids.append(created.key.key_id)
        await keys.create(OTHER, tenant_id="other")
        await keys.service.revoke(ACME, RevokeKey(key_id=created.key.key_id, comment="because"))
    return ids


async def test_a_log_that_nobody_altered_is_intact(keys: Keys) -> None:
    assert await verify(keys) == []
    await lived(keys)
    assert await verify(keys) == []
    assert await verify(keys, await head(keys)) == []
    early = await head(keys)
    await keys.create()
    assert await verify(keys, early, await head(keys)) == []
    assert [event.sequence for event in await every(keys)] == list(range(21, 0, -1))


async def test_an_edit_of_any_column_of_any_event_is_found(keys: Keys) -> None:
    await lived(keys)
    kept = await head(keys)
    await keys.owner.execute(
        "CREATE TABLE untouched AS TABLE audit_events; ALTER TABLE audit_events DISABLE TRIGGER USER"
    )
    for (column, value), sequence in itertools.product(COLUMNS.items(), (1, 9, 20)):
        await keys.rows(
            f"UPDATE audit_events SET {column} = {value} WHERE (tenant_id, sequence) = ('acme', $1)", sequence
        )
        assert await verify(keys, kept), (column, sequence)
        newest_is_gone = sequence == 20 and column == "tenant_id"
        assert await verify(keys) or newest_is_gone, (column, sequence)
        await keys.owner.execute("DELETE FROM audit_events; INSERT INTO audit_events TABLE untouched")
    assert await verify(keys, kept) == []


async def test_every_column_of_the_log_is_covered(keys: Keys) -> None:
    columns = await keys.rows("SELECT column_name FROM information_schema.columns WHERE table_name = 'audit_events'")
    assert {column["column_name"] for column in columns} == set(COLUMNS)


@pytest.mark.parametrize(
    ("tampering", "problem"),
    [
        ("DELETE FROM audit_events WHERE tenant_id = 'acme' AND sequence = 9", "event 9 is missing"),
        ("DELETE FROM audit_events WHERE tenant_id = 'acme' AND sequence < 4", "events 1 to 3 are missing"),
        (
            "DELETE FROM audit_events WHERE tenant_id = 'acme' AND sequence = 9;"
            " UPDATE audit_events SET sequence = sequence - 1 WHERE tenant_id = 'acme' AND sequence > 9",
            "event 19, or event 18 was altered",
        ),
        (
            "UPDATE audit_events SET sequence = CASE sequence WHEN 5 THEN 6 ELSE 5 END + 1000"
            " WHERE tenant_id = 'acme' AND sequence IN (5, 6);"
            " UPDATE audit_events SET sequence = sequence - 1000 WHERE tenant_id = 'acme' AND sequence > 1000",
            "event 6, or event 5 was altered",
        ),
        (
            "UPDATE audit_events SET sequence = sequence + 1000 WHERE tenant_id = 'acme' AND sequence > 9;"
            " UPDATE audit_events SET sequence = sequence - 999 WHERE tenant_id = 'acme' AND sequence > 1000;"
            " ALTER TABLE audit_events DISABLE TRIGGER USER;"
            " INSERT INTO audit_events SELECT (jsonb_populate_record(it, '{\"sequence\": 10}')).*"
            " FROM audit_events AS it WHERE tenant_id = 'acme' AND sequence = 9",
            "event 10, or event 9 was altered",
        ),
    ],
    ids=["deleted", "start deleted", "deleted and closed up", "swapped", "inserted"],
)
async def test_events_that_are_deleted_moved_or_inserted_are_found(keys: Keys, tampering: str, problem: str) -> None:
    await lived(keys)
    await keys.owner.execute(tampering)
    assert problem in await verify(keys)


async def test_a_cut_tail_is_found_against_an_earlier_head(keys: Keys) -> None:
    await lived(keys)
    kept = await head(keys)
    await keys.rows("DELETE FROM audit_events WHERE tenant_id = 'acme' AND sequence > 17")
    assert await verify(keys) == []
    assert await verify(keys, kept) == ["events 18 to 20 are missing"]
    await keys.rows("DELETE FROM audit_events WHERE tenant_id = 'acme'")
    assert await verify(keys, kept) == ["events 1 to 20 are missing"]


async def test_a_chain_that_was_made_anew_is_found_against_an_earlier_head(keys: Keys) -> None:
    await lived(keys)
    kept = await head(keys)
    rows = await keys.rows("SELECT * FROM audit_events WHERE tenant_id = 'acme' ORDER BY sequence")
    await keys.rows("DELETE FROM audit_events WHERE tenant_id = 'acme'")
    for row in rows:
        row["actor"] = "somebody else"
        columns, marks = ", ".join(row), ", ".join(f"${number + 1}" for number in range(len(row)))
        await keys.rows(f"INSERT INTO audit_events ({columns}) VALUES ({marks})", *row.values())
    assert await verify(keys) == []
    assert await verify(keys, kept) == ["event 20 is not the one that was the head"]


async def test_mutations_at_once_make_one_chain_for_each_tenant(keys: Keys) -> None:
    async def live(number: int) -> None:
        created = await keys.create(ROOT, tenant_id=("acme", "other")[number % 2], request_id=f"r{number}")
        await keys.service.revoke(ROOT, RevokeKey(key_id=created.key.key_id))

    await asyncio.gather(*map(live, range(60)))
    for caller in (ACME, OTHER):
        events = await every(keys, caller)
        assert [event.sequence for event in events] == list(range(60, 0, -1))
        times = [event.occurred_at for event in events]
        assert times == sorted(times, reverse=True)
        assert await verify(keys, caller=caller) == []


async def test_mutations_that_are_cut_off_in_the_middle_leave_neither_gap_nor_orphan(
    keys: Keys, postgres_url: str
) -> None:
    blocker = await connect(postgres_url, as_owner=True)
    end_those_who_wait = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event = 'relation'"
    )
    for number in range(5):
        await keys.create(name=f"before {number}")
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE audit_events IN EXCLUSIVE MODE")
            cut_off = [asyncio.create_task(keys.create(name=f"{number}")) for _ in range(5)]
            async with asyncio.timeout(10):
                while not all(task.done() for task in cut_off):
                    await keys.rows(end_those_who_wait)
                    await asyncio.sleep(0.005)
            faults = await asyncio.gather(*cut_off, return_exceptions=True)
            assert all(isinstance(fault, Unavailable) for fault in faults)
    await blocker.close()
    assert await verify(keys) == []
    assert await keys.rows(
        "SELECT (SELECT count(*) FROM keys) AS keys, (SELECT count(*) FROM audit_events) AS events,"
        " (SELECT count(*) FROM keys JOIN audit_events USING (key_id)) AS both"
    ) == [{"keys": 5, "events": 5, "both": 5}]


async def test_whatever_a_statement_says_the_log_gives_place_time_and_hash(keys: Keys) -> None:
    await lived(keys)
    await keys.rows(
        "INSERT INTO audit_events (tenant_id, sequence, occurred_at, actor, actor_ip, action, key_id, owner_id,"
        " request_id, revision, hash) SELECT 'acme', 7, '1999-01-01', 'a', '', 'Forged', '', '', '', 0, ''"
        " FROM generate_series(1, 3)"
    )
    events = await every(keys)
    assert [event.sequence for event in events] == list(range(23, 0, -1))
    assert events[0].occurred_at > datetime.now(UTC) - timedelta(minutes=1)
    assert await verify(keys) == []


async def test_each_filter_finds_its_events_and_all_of_them(keys: Keys) -> None:
    ids = await lived(keys)
    await keys.create(ROOT, owner_id="owner-0")
    events = await every(keys)

    async def expect(matches: Callable[[AuditEvent], bool], **query: Any) -> None:
        expected = [event for event in events if matches(event)]
        assert await every(keys, **query, page_size=3) == expected
        assert expected

    await expect(lambda _: True)
    await expect(lambda event: event.key_id == ids[4], key_id=ids[4])
    await expect(lambda event: event.owner_id == "owner-1", owner_id="owner-1")
    await expect(lambda event: event.actor == ACME.key_id, actor=ACME.key_id)
    await expect(lambda event: event.action == "RevokeKey", action="RevokeKey")
    await expect(
        lambda event: event.owner_id == "owner-1" and event.action == "CreateKey",
        owner_id="owner-1",
        action="CreateKey",
    )
    first, last = events[15].occurred_at, events[4].occurred_at
    for action in ("", "CreateKey"):

        def known(event: AuditEvent, *, action: str = action) -> bool:
            return action in ("", event.action)

        since = [event for event in events if event.occurred_at >= first and known(event)]
        until = [event for event in events if event.occurred_at < last and known(event)]
        assert await every(keys, action=action, start_time=first, page_size=3) == since
        assert await every(keys, action=action, end_time=last, page_size=3) == until
        both = [event for event in since if event in until]
        assert await every(keys, action=action, start_time=first, end_time=last) == both != []
    assert await every(keys, key_id="key_nobody") == []
    assert await every(keys, start_time=datetime.now(UTC) + timedelta(days=1)) == []
    assert await every(keys, end_time=events[-1].occurred_at) == []


async def test_events_that_are_added_meanwhile_shift_no_page(keys: Keys) -> None:
    await lived(keys)
    first = await page(keys, page_size=5)
    await lived(keys)
    second = await page(keys, page_size=5, page_token=first.next_page_token)
    assert [event.sequence for event in (*first.events, *second.events)] == list(range(20, 10, -1))


async def test_a_tenant_reads_its_own_log_and_root_the_one_it_names(keys: Keys) -> None:
    await lived(keys)
    assert {event.tenant_id for event in await every(keys)} == {"acme"}
    assert {event.tenant_id for event in await every(keys, ROOT, tenant_id="other")} == {"other"}
    assert await every(keys, ROOT) == []
    with pytest.raises(PermissionDenied):
        await page(keys, ACME, tenant_id="other")


async def test_a_page_token_is_good_for_its_own_filters_alone(keys: Keys) -> None:
    await lived(keys)
    token = (await page(keys, page_size=1)).next_page_token
    assert (await page(keys, page_token=token)).events
    for caller, query in [
        (ACME, {"actor": "a", "page_token": token}),
        (ACME, {"end_time": datetime.now(UTC), "page_token": token}),
        (OTHER, {"page_token": token}),
        (ACME, {"page_token": "nonsense"}),
        (ACME, {"page_token": token[:-1]}),
    ]:
        with pytest.raises(InvalidArgument):
            await page(keys, caller, **query)


MANY = 5_000
MANY_EVENTS = """
    INSERT INTO audit_events (tenant_id, sequence, occurred_at, actor, actor_ip, action, key_id, owner_id, request_id,
        revision, hash)
    SELECT $2, number, now() + number * interval '1 second', CASE WHEN number = 3 THEN 'rare' ELSE 'usual' END, '',
        CASE WHEN number % 1000 = 5 THEN 'RareAction' ELSE 'CreateKey' END, 'key_' || number % 500,
        'owner-' || number % 100, '', number, ''
    FROM generate_series(1, $1::int) AS number
"""


async def test_a_page_touches_little_more_than_its_rows(keys: Keys) -> None:
    await keys.owner.execute("ALTER TABLE audit_events DISABLE TRIGGER USER")
    for tenant_id in ("acme", "other"):
        await keys.rows(MANY_EVENTS, MANY, tenant_id)
    await keys.rows("ANALYZE audit_events")
    (row,) = await keys.rows("SELECT occurred_at FROM audit_events WHERE sequence = 1000 LIMIT 1")
    early: Any = row["occurred_at"]
    times: list[dict[str, Any]] = [
        {},
        {"end_time": early},
        {"start_time": early, "end_time": early + timedelta(hours=1)},
    ]
    filters: list[dict[str, Any]] = [{}, {"actor": "rare"}, {"actor": "usual"}, {"actor": "nobody"}]
    filters += [{"action": "RareAction"}, {"action": "CreateKey"}, {"key_id": "key_7"}, {"owner_id": "owner-7"}]
    for filter_, between, before in itertools.product(filters, times, (None, MANY // 2)):
        query = ListAuditEvents(**filter_, **between)
        text, values = page_statement(query, tenant_id="acme", before=before)
        async with keys.postgres.connection() as connection, acting_in("acme", connection):
            plan = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", *values)
        root = orjson.loads(plan)[0]["Plan"]
        assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] <= query.page_size + 25, plan


numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False).map(
    lambda number: int(number) if number.is_integer() and abs(number) <= 2**53 else number
)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
documents = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=12,
)


@given(batch=st.lists(documents, min_size=20, max_size=40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_canonical_form_is_what_postgres_writes(keys: Keys, batch: list[Any]) -> None:
    written = await keys.owner.fetch(
        "SELECT it::jsonb::text AS text FROM unnest($1::text[]) WITH ORDINALITY AS its(it, place) ORDER BY place",
        [orjson.dumps(document).decode() for document in batch],
    )
    for document, row in zip(batch, written, strict=True):
        assert canonical(document) == row["text"]
        on_the_wire = json.loads(json.dumps(document), parse_int=float)  # where every number is a double
        assert canonical(on_the_wire) == row["text"]
