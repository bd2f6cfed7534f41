"""The states of a key: every operation in every state does what the documentation's table says, and nothing else."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tests.integration.keys_support import ROOT, Keys, keys_on
from tollkeeper_server.core.errors import FailedPrecondition
from tollkeeper_server.core.key import Key, KeyState
from tollkeeper_server.core.policy import Use, judge
from tollkeeper_server.keys.commands import NameKey, RevokeKey, RotateKey, UpdateKey
from tollkeeper_server.keys.import_commands import LeakedKey, ReportLeakedKeys
from tollkeeper_server.keys.owner_commands import RevokeKeys, SetOwner

TABLE = Path(__file__).parents[2] / "service" / "docs" / "key-life.md"
HOUR, YEAR = timedelta(hours=1), timedelta(days=365)


@dataclass
class Subject:
    """A key in a state, and an API key of it."""

    keys: Keys
    key_id: str
    api_key: str

    async def key(self) -> Key:
        return await self.keys.service.get(ROOT, self.key_id)

    async def state(self) -> KeyState:
        return (await self.key()).state_at(self.keys.clock())

    async def verify(self) -> str:
        record = await self.keys.record(self.api_key)
        assert record is not None
        return judge(record.key, Use(), now=self.keys.clock(), owner=record.owner)

    async def rotate(self, overlap: timedelta = timedelta()) -> None:
        rotated = await self.keys.service.rotate(ROOT, RotateKey(key_id=self.key_id, overlap=overlap))
        self.api_key = rotated.api_key

    async def update(self, **changes: object) -> None:
        await self.keys.service.update(ROOT, UpdateKey(key_id=self.key_id, changes=changes))


async def _enter(subject: Subject, state: KeyState) -> None:
    naming = NameKey(key_id=subject.key_id)
    if state is KeyState.DISABLED:
        await subject.keys.service.disable(ROOT, naming)
    elif state is KeyState.EXPIRED:
        subject.keys.clock.now += HOUR
    elif state is KeyState.REVOKED:
        await subject.keys.service.revoke(ROOT, RevokeKey(key_id=subject.key_id))


Operation = Callable[[Subject], Awaitable[object]]

OPERATIONS: dict[str, Operation] = {
    "Verify": lambda it: it.verify(),
    "UpdateKey name": lambda it: it.update(name="other"),
    "UpdateKey expires_at": lambda it: it.update(expires_at=it.keys.clock.now + YEAR),
    "UpdateKey, same values": lambda it: it.update(name="same", permissions=()),
    "DisableKey": lambda it: it.keys.service.disable(ROOT, NameKey(key_id=it.key_id)),
    "EnableKey": lambda it: it.keys.service.enable(ROOT, NameKey(key_id=it.key_id)),
    "RotateKey": lambda it: it.rotate(),
    "EndOverlap": lambda it: it.keys.service.end_overlap(ROOT, NameKey(key_id=it.key_id)),
    "EndOverlap without one": lambda it: it.keys.service.end_overlap(ROOT, NameKey(key_id=it.key_id)),
    "RevokeKey by key_id": lambda it: it.keys.service.revoke(ROOT, RevokeKey(key_id=it.key_id)),
    "RevokeKey by api_key": lambda it: it.keys.service.revoke(ROOT, RevokeKey(api_key=it.api_key)),
    "RevokeKeys": lambda it: it.keys.service.owners.revoke_keys(ROOT, RevokeKeys(tenant_id="acme", owner_id="o")),
    "ReportLeakedKeys": lambda it: it.keys.service.leaks.report(
        ROOT, ReportLeakedKeys(leaked_keys=(LeakedKey(api_key=it.api_key),))
    ),
}


def cells() -> list[tuple[str, KeyState, str]]:
    """Operation, state and outcome of every cell of the table."""
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in TABLE.read_text().splitlines()
        if line.startswith("|")
    ]
    head, _, *body = rows
    table = body[: len(OPERATIONS)]
    return [
        (row[0], KeyState(state), outcome) for row in table for state, outcome in zip(head[1:], row[1:], strict=True)
    ]


@pytest.fixture
async def keys(postgres_url: str) -> AsyncIterator[Keys]:
    async with keys_on(postgres_url) as keys:
        yield keys


async def prepared(keys: Keys, state: KeyState, *, with_overlap: bool = False) -> Subject:
    """A key of the owner "o" in ``state``."""
    created = await keys.create(name="same", owner_id="o", ttl=HOUR)
    subject = Subject(keys, created.key.key_id, created.api_key)
    if with_overlap:
        await subject.rotate(YEAR)
    await _enter(subject, state)
    assert await subject.state() is state
    return subject


def test_the_table_has_every_operation_in_every_state() -> None:
    assert {(operation, state) for operation, state, _ in cells()} == {
        (operation, state) for operation in OPERATIONS for state in KeyState
    }


@pytest.mark.parametrize(("operation", "state", "outcome"), cells())
async def test_every_operation_does_in_every_state_what_the_table_says(
    keys: Keys, operation: str, state: KeyState, outcome: str
) -> None:
    subject = await prepared(keys, state, with_overlap=operation == "EndOverlap")
    before, traces = await subject.key(), await keys.dump()
    if outcome.startswith("refused "):
        with pytest.raises(FailedPrecondition) as refused:
            await OPERATIONS[operation](subject)
        assert refused.value.reason == outcome.removeprefix("refused ")
    else:
        answer = await OPERATIONS[operation](subject)
        if operation == "Verify":
            assert answer == outcome
    if outcome in KeyState.__members__:
        after = await subject.key()
        assert after.state_at(keys.clock()) is KeyState[outcome]
        assert after.revision == before.revision + 1
        assert after.etag != before.etag
        events = await keys.rows("SELECT revision FROM audit_events ORDER BY revision DESC LIMIT 1")
        assert events == [{"revision": after.revision}]
    else:
        assert await subject.key() == before
        assert await keys.dump() == traces


async def test_a_disabled_key_that_expires_stays_disabled_until_it_is_switched_on(keys: Keys) -> None:
    subject = await prepared(keys, KeyState.DISABLED)
    keys.clock.now += HOUR
    assert await subject.state() is KeyState.DISABLED
    await OPERATIONS["EnableKey"](subject)
    assert await subject.state() is KeyState.EXPIRED


@pytest.mark.parametrize("state", KeyState)
async def test_a_suspended_owner_stops_its_keys_and_leaves_them_as_they_are(keys: Keys, state: KeyState) -> None:
    subject = await prepared(keys, state)
    before, verified = await subject.key(), await subject.verify()
    await keys.service.owners.set(ROOT, SetOwner(tenant_id="acme", owner_id="o", suspended=True))
    assert await subject.verify() == ("KEY_REVOKED" if state is KeyState.REVOKED else "KEY_DISABLED")
    await keys.service.owners.set(ROOT, SetOwner(tenant_id="acme", owner_id="o"))
    assert await subject.verify() == verified
    assert await subject.key() == before
