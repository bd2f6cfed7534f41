"""Updating, disabling and enabling keys: what changes, who may, and who comes first."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from tests.integration.keys_support import ACME, OTHER, ROOT, Keys, keys_on
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.errors import (
    Aborted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    TollkeeperError,
)
from tollkeeper_server.core.key import KeyState
from tollkeeper_server.core.limits import Limit, LimitKind
from tollkeeper_server.keys.commands import (
    UPDATABLE,
    Mutation,
    NameKey,
    Propagation,
    RevokeKey,
    RotatedKey,
    RotateKey,
    UpdateKey,
)

HOUR = timedelta(hours=1)
MINUTE = Limit(name="minute", kind=LimitKind.RATE, unit="requests", amount=5, window_seconds=60)


@pytest.fixture
async def keys(postgres_url: str) -> AsyncIterator[Keys]:
    async with keys_on(postgres_url) as keys:
        yield keys


async def update(
    keys: Keys, key_id: str, caller: Caller = ACME, /, *, etag: str = "", request_id: str = "", **changes: Any
) -> Mutation:
    command = UpdateKey(key_id=key_id, changes=changes, etag=etag, request_id=request_id)
    return await keys.service.update(caller, command)


async def test_every_settable_field_can_be_changed_and_no_other_moves(keys: Keys) -> None:
    created = await keys.create(owner_id="o", environment="e", name="old", metadata={"a": 1}, limits=(MINUTE,))
    values: dict[str, Any] = {
        "name": "new",
        "description": "d",
        "permissions": ("read",),
        "resources": ("r",),
        "allowed_cidrs": (ip_network("10.0.0.0/8"),),
        "limits": (replace(MINUTE, amount=3),),
        "metadata": {"b": [1, None, "x"]},
        "expires_at": keys.clock.now + timedelta(days=1),
    }
    assert set(values) == set(UPDATABLE)
    expected = created.key
    for name, value in values.items():
        answer = await update(keys, created.key.key_id, **{name: value})
        expected = replace(
            expected,
            **{name: value},
            updated_at=answer.key.updated_at,
            updated_by=ACME.key_id,
            revision=expected.revision + 1,
        )
        assert answer.key == expected
        assert answer.propagation is Propagation.EVERYWHERE
    assert await keys.service.get(ACME, created.key.key_id) == expected
    emptied = await update(keys, created.key.key_id, permissions=(), limits=(), expires_at=None)
    assert (emptied.key.permissions, emptied.key.limits, emptied.key.expires_at) == ((), (), None)


async def test_an_old_etag_is_refused_and_changes_nothing(keys: Keys) -> None:
    created = await keys.create()
    changed = await update(keys, created.key.key_id, etag=created.key.etag, name="first")
    before = await keys.dump()
    with pytest.raises(Aborted) as refused:
        await update(keys, created.key.key_id, etag=created.key.etag, name="second")
    assert refused.value.reason == "ETAG_MISMATCH"
    assert await keys.dump() == before
    assert changed.key.etag != created.key.etag


async def test_of_many_updates_with_one_etag_one_wins(keys: Keys) -> None:
    created = await keys.create()
    outcomes = await asyncio.gather(
        *(update(keys, created.key.key_id, etag=created.key.etag, name=str(number)) for number in range(20)),
        return_exceptions=True,
    )
    winners = [outcome for outcome in outcomes if isinstance(outcome, Mutation)]
    assert len(winners) == 1
    assert all(isinstance(outcome, Aborted) for outcome in outcomes if outcome not in winners)
    assert await keys.service.get(ACME, created.key.key_id) == winners[0].key


async def test_a_repeated_update_gets_its_first_answer_and_does_not_undo_what_came_later(keys: Keys) -> None:
    created = await keys.create()
    first = await update(keys, created.key.key_id, name="first", request_id="r1")
    await update(keys, created.key.key_id, name="second")
    again = await update(keys, created.key.key_id, name="first", request_id="r1")
    assert (again.key, again.revision) == (first.key, first.revision)
    assert (await keys.service.get(ACME, created.key.key_id)).name == "second"


async def test_a_repeated_request_that_changed_nothing_changes_nothing_later_either(keys: Keys) -> None:
    created = await keys.create()
    naming = NameKey(key_id=created.key.key_id, request_id="r1")
    assert (await keys.service.enable(ACME, naming)).key == created.key
    await keys.service.disable(ACME, NameKey(key_id=created.key.key_id))
    assert (await keys.service.enable(ACME, naming)).key == created.key
    assert (await keys.service.get(ACME, created.key.key_id)).stored_state is KeyState.DISABLED


async def test_an_expiry_that_has_passed_or_is_too_far_away_is_refused_by_name(keys: Keys) -> None:
    created = await keys.create()
    for moment in (keys.clock.now, keys.clock.now + timedelta(days=40_000)):
        with pytest.raises(InvalidArgument) as refused:
            await update(keys, created.key.key_id, expires_at=moment)
        assert [violation.field for violation in refused.value.violations] == ["key.expires_at"]


@pytest.mark.parametrize(
    ("caller", "fault"),
    [(OTHER, NotFound), (replace(ACME, permissions=("tollkeeper:keys.write",)), PermissionDenied)],
)
async def test_nobody_changes_a_key_of_others_or_one_that_may_do_more_than_itself(
    keys: Keys, caller: Caller, fault: type[TollkeeperError]
) -> None:
    created = await keys.create(ROOT, permissions=("tollkeeper:verify",))
    naming = NameKey(key_id=created.key.key_id)
    await keys.service.disable(ROOT, naming)
    before = await keys.dump()
    for attempt in (
        update(keys, created.key.key_id, caller, name="mine"),
        update(keys, created.key.key_id, caller, permissions=()),
        keys.service.enable(caller, naming),
        keys.service.rotate(caller, RotateKey(key_id=created.key.key_id)),
    ):
        with pytest.raises(fault):
            await attempt
    assert await keys.dump() == before


async def test_nobody_gives_a_key_what_it_does_not_have_itself(keys: Keys) -> None:
    created = await keys.create()
    with pytest.raises(PermissionDenied):
        await update(keys, created.key.key_id, permissions=("tollkeeper:verify",))
    await update(keys, created.key.key_id, permissions=("tollkeeper:keys.write",))


async def test_the_audit_event_of_an_update_tells_before_and_after(keys: Keys) -> None:
    created = await keys.create(name="old")
    await update(keys, created.key.key_id, name="new", request_id="r1")
    assert await keys.rows(
        "SELECT actor, request_id, before->>'name' AS before, after->>'name' AS after FROM audit_events"
        " WHERE action = 'UpdateKey'"
    ) == [{"actor": ACME.key_id, "request_id": "r1", "before": "old", "after": "new"}]


async def test_mutations_of_two_servers_on_one_key_lose_nothing(keys: Keys, postgres_url: str) -> None:
    created = await keys.create()
    key_id = created.key.key_id
    naming = NameKey(key_id=key_id)
    async with keys_on(postgres_url) as other:
        outcomes = await asyncio.gather(
            *(update(each, key_id, metadata={"n": number}) for number in range(20) for each in (keys, other)),
            *(each.service.disable(ACME, naming) for each in (keys, other)),
            *(each.service.rotate(ACME, RotateKey(key_id=key_id, overlap=HOUR)) for each in (keys, other) * 5),
            *(each.service.revoke(ACME, RevokeKey(key_id=key_id)) for each in (keys, other)),
            return_exceptions=True,
        )
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(fault, FailedPrecondition) for fault in refused)
    key = await keys.service.get(ACME, key_id)
    assert key.stored_state is KeyState.REVOKED
    events = await keys.rows("SELECT before, after, revision FROM audit_events ORDER BY revision")
    assert [event["revision"] for event in events] == list(range(1, key.revision + 1))
    for earlier, later in itertools.pairwise(events):
        assert later["before"] == earlier["after"]
    done = {outcome.revision for outcome in outcomes if isinstance(outcome, Mutation | RotatedKey)}
    assert done <= set(range(2, key.revision + 1))
    current = await keys.rows("SELECT count(*) FROM secrets WHERE expires_at IS NULL")
    assert current == [{"count": 1}]
