"""The key directory over a real Postgres: what is answered from memory, and what never is."""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
import pytest

from tollkeeper_server.core.cache import RecordCache
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.credential import Keyring
from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.core.key import ROOT_TENANT, KeyState
from tollkeeper_server.keys.commands import CreatedKey, CreateKey, Propagation, RevokeKey
from tollkeeper_server.keys.import_commands import Credential, ImportKey, ImportKeys
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.keys.owner_commands import SetOwner
from tollkeeper_server.keys.propagation import LEASE_SECONDS_MAX, Confirmations
from tollkeeper_server.keys.service import KeyService
from tollkeeper_server.keys.upgrades import Upgrades
from tollkeeper_server.keys.workspace import Algorithm
from tollkeeper_server.storage.boottime import boottime
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.verify.directory import Found, KeyDirectory
from tollkeeper_server.verify.replica import LEASE_SECONDS, Replica

ROOT = Caller(key_id="root", tenant_id=ROOT_TENANT, permissions=("tollkeeper:*",))
KEYRING = Keyring(peppers={1: os.urandom(32)}, tag_keys={1: os.urandom(32)})


@dataclass
class Process:
    """What one server process has in memory, with a clock that can be set forward."""

    postgres: Postgres
    replica: Replica
    directory: KeyDirectory
    upgrades: Upgrades
    following: asyncio.Task[None]
    skew: list[float]

    async def state(self, created: CreatedKey) -> KeyState | None:
        """The state that a verification would see; None if the API key is unknown."""
        found = await self.directory.find(created.api_key)
        return found.record.key.stored_state if found and found.record else None

    async def stop(self) -> None:
        self.following.cancel()
        await asyncio.gather(self.following, return_exceptions=True)
        await self.replica.leave()


@contextlib.asynccontextmanager
async def process(url: str) -> AsyncIterator[Process]:
    skew = [0.0]

    def clock() -> float:
        return boottime() + skew[0]

    postgres = await Postgres.connect(url)
    cache = RecordCache[SecretRecord](entries_max=100, unknown_max=100, tombstones_max=100, age_max_seconds=60)
    replica = Replica(url, cache=cache, clock=clock)
    upgrades = Upgrades(postgres, pepper_version=KEYRING.current_pepper_version)
    directory = KeyDirectory(postgres, keyring=KEYRING, cache=cache, replica=replica, upgrades=upgrades, clock=clock)
    running = Process(postgres, replica, directory, upgrades, asyncio.create_task(replica.run()), skew)
    try:
        await until(lambda: replica.may_answer())
        yield running
    finally:
        await running.stop()
        await directory.close()
        await postgres.close()


@pytest.fixture
async def one(postgres_url: str) -> AsyncIterator[Process]:
    async with process(postgres_url) as running:
        yield running


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[Process]:
    async with process(postgres_url) as running:
        yield running


@pytest.fixture
async def confirmations(one: Process) -> AsyncIterator[Confirmations]:
    waiting = Confirmations(one.postgres, clock=now)
    yield waiting
    await waiting.close()


@pytest.fixture
def keys(one: Process, confirmations: Confirmations) -> KeyService:
    return KeyService(postgres=one.postgres, keyring=KEYRING, clock=now, confirmations=confirmations)


def now() -> datetime:
    return datetime.now(UTC)


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


async def behind_its_back(url: str, statement: str) -> None:
    """Changes the truth without telling anyone, so that an answer from memory can be told from a read."""
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


REVOKE_ALL = "UPDATE keys SET state = 'REVOKED', revoked_at = now()"


async def test_a_second_question_is_answered_from_memory(one: Process, keys: KeyService, postgres_url: str) -> None:
    created = await keys.create(ROOT, CreateKey(tenant_id="acme"))
    await until(lambda: one.replica.revision >= created.revision)
    assert await one.state(created) is KeyState.ACTIVE
    await behind_its_back(postgres_url, REVOKE_ALL)
    assert await one.state(created) is KeyState.ACTIVE


async def test_memory_ends_with_the_lease_and_with_the_age_of_the_entry(
    one: Process, keys: KeyService, postgres_url: str
) -> None:
    created = await keys.create(ROOT, CreateKey(tenant_id="acme"))
    assert await one.state(created) is KeyState.ACTIVE
    await behind_its_back(postgres_url, REVOKE_ALL)
    one.skew[0] += LEASE_SECONDS
    assert not one.replica.may_answer()
    assert await one.state(created) is KeyState.REVOKED


async def test_a_revocation_that_returned_is_seen_by_every_process_at_once(
    one: Process, other: Process, keys: KeyService
) -> None:
    for _ in range(20):
        created = await keys.create(ROOT, CreateKey(tenant_id="acme"))
        assert await one.state(created) is KeyState.ACTIVE
        assert await other.state(created) is KeyState.ACTIVE
        revoked = await keys.revoke(ROOT, RevokeKey(key_id=created.key.key_id))
        assert revoked.propagation is Propagation.EVERYWHERE
        assert await other.state(created) is KeyState.REVOKED
        assert await one.state(created) is KeyState.REVOKED


async def test_a_revocation_waits_for_a_process_that_does_not_listen_until_its_lease_ends(
    one: Process, other: Process, keys: KeyService
) -> None:
    created = await keys.create(ROOT, CreateKey(tenant_id="acme"))
    other.following.cancel()  # as if it stood still: it neither renews nor acknowledges
    await asyncio.gather(other.following, return_exceptions=True)
    started = boottime()
    revoked = await keys.revoke(ROOT, RevokeKey(key_id=created.key.key_id))
    took = boottime() - started
    assert revoked.propagation is Propagation.EVERYWHERE
    assert not other.replica.may_answer()
    assert took <= LEASE_SECONDS_MAX + 0.2


async def test_a_revocation_does_not_wait_for_a_process_that_left(
    one: Process, other: Process, keys: KeyService, postgres_url: str
) -> None:
    created = await keys.create(ROOT, CreateKey(tenant_id="acme"))
    await other.stop()
    connection = await asyncpg.connect(postgres_url)
    assert await connection.fetchval("SELECT count(*) FROM replicas") == 1
    await connection.close()
    assert (await keys.revoke(ROOT, RevokeKey(key_id=created.key.key_id))).propagation is Propagation.EVERYWHERE


async def test_an_unknown_api_key_is_remembered_as_unknown_until_a_secret_is_added(
    one: Process, keys: KeyService, postgres_url: str
) -> None:
    seed = KEYRING.new_seed(os.urandom(32))
    api_key = KEYRING.mint(prefix="tk", length=43, seed=seed)
    assert await one.directory.find(api_key) == Found(record=None, revision=0)
    created = await keys.create(ROOT, CreateKey(tenant_id="acme"))
    await until(lambda: one.replica.revision >= created.revision)
    await behind_its_back(
        postgres_url,
        f"UPDATE secrets SET digest = '\\x{KEYRING.digest(api_key).hex()}' WHERE key_id = '{created.key.key_id}'",
    )
    found = await one.directory.find(api_key)
    assert found is not None
    assert found.record is not None
    assert found.record.key.key_id == created.key.key_id


async def test_min_revision_is_never_answered_from_older_memory(
    one: Process, keys: KeyService, postgres_url: str
) -> None:
    created = await keys.create(ROOT, CreateKey(tenant_id="acme"))
    assert await one.state(created) is KeyState.ACTIVE
    await behind_its_back(postgres_url, REVOKE_ALL)
    found = await one.directory.find(created.api_key, min_revision=one.replica.revision + 1)
    assert found is not None
    assert found.record is not None
    assert found.record.key.stored_state is KeyState.REVOKED


async def test_a_process_that_was_cut_off_catches_up_and_answers_from_memory_again(
    one: Process, keys: KeyService, postgres_url: str
) -> None:
    created = await keys.create(ROOT, CreateKey(tenant_id="acme"))
    assert await one.state(created) is KeyState.ACTIVE
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await admin.close()
    revoked = None
    while revoked is None:  # each connection of the pool notices at its next use
        with contextlib.suppress(Unavailable):
            revoked = await keys.revoke(ROOT, RevokeKey(key_id=created.key.key_id))
    assert revoked.propagation is Propagation.EVERYWHERE
    await until(lambda: one.replica.may_answer() and one.replica.revision >= revoked.revision)
    assert await one.state(created) is KeyState.REVOKED


async def test_a_process_that_missed_changes_which_are_forgotten_begins_anew(
    one: Process, keys: KeyService, postgres_url: str
) -> None:
    created = await keys.create(ROOT, CreateKey(tenant_id="acme"))
    assert await one.state(created) is KeyState.ACTIVE
    one.following.cancel()
    await asyncio.wait([one.following])
    await behind_its_back(
        postgres_url,
        f"{REVOKE_ALL}; UPDATE changes SET revision = revision + 5, key_id = 'another'",
    )
    one.following = asyncio.create_task(one.replica.run())
    await until(lambda: one.replica.revision == created.key.revision + 5)
    assert await one.state(created) is KeyState.REVOKED


async def test_a_made_up_api_key_reaches_no_store(one: Process) -> None:
    await one.postgres.close()
    assert await one.directory.find("tk_" + 40 * "x") is None


async def test_a_change_of_an_owner_reaches_every_memory_before_it_is_answered(
    one: Process, other: Process, keys: KeyService
) -> None:
    mine = [await keys.create(ROOT, CreateKey(tenant_id="acme", owner_id="o")) for _ in range(3)]
    for created in mine:
        assert await other.state(created) is KeyState.ACTIVE
    change = await keys.owners.set(ROOT, SetOwner(tenant_id="acme", owner_id="o", suspended=True))
    assert change.propagation is Propagation.EVERYWHERE
    for process_ in (one, other):
        for created in mine:
            found = await process_.directory.find(created.api_key)
            assert found is not None
            assert found.record is not None
            assert found.record.owner == change.owner


async def test_an_imported_key_is_known_everywhere_although_it_was_unknown_before(
    one: Process, other: Process, keys: KeyService
) -> None:
    first, second = "of another system", "of another system, too"
    assert await other.directory.find(first) is None  # no store is asked as long as nothing was imported
    digest = hashlib.sha256(second.encode()).digest()
    for api_key, credential in (
        (first, Credential(raw_api_key=first)),
        (second, Credential(digest=digest, algorithm=Algorithm.SHA256)),
    ):
        item = ImportKey(key=CreateKey(), credential=credential)
        imported = await keys.imports.run(ROOT, ImportKeys(tenant_id="acme", items=(item,)))
        assert imported.propagation is Propagation.EVERYWHERE
        for process_ in (one, other):
            found = await process_.directory.find(api_key)
            assert found is not None
            assert found.record is not None
            assert found.record.key == imported.results[0]
        assert await other.directory.find(second) != await one.directory.find(first)  # remembered as unknown at first


async def test_garbage_is_remembered_as_unknown_once_keys_were_imported(
    one: Process, keys: KeyService, postgres_url: str
) -> None:
    item = ImportKey(key=CreateKey(), credential=Credential(raw_api_key="of another system"))
    await keys.imports.run(ROOT, ImportKeys(tenant_id="acme", items=(item,)))
    assert await one.directory.find("garbage") == Found(record=None, revision=one.replica.revision)
    await behind_its_back(postgres_url, "DELETE FROM secrets")
    assert await one.directory.find("garbage") == Found(record=None, revision=one.replica.revision)
    await one.postgres.close()
    assert await one.directory.find("garbage") == Found(record=None, revision=one.replica.revision)


async def test_a_digest_of_another_system_is_replaced_once_its_api_key_was_seen(
    one: Process, keys: KeyService, postgres_url: str
) -> None:
    api_key = "of another system"
    digest = hashlib.sha512(api_key.encode()).digest()
    item = ImportKey(key=CreateKey(), credential=Credential(digest=digest, algorithm=Algorithm.SHA512))
    await keys.imports.run(ROOT, ImportKeys(tenant_id="acme", items=(item,)))
    found = await one.directory.find(api_key)
    assert found is not None
    upgrading = asyncio.create_task(one.upgrades.run())
    connection = await asyncpg.connect(postgres_url)
    async with asyncio.timeout(5):
        while await connection.fetchval("SELECT digest FROM secrets") != KEYRING.digest(api_key):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    upgrading.cancel()
    await connection.close()
    again = await one.directory.find(api_key)
    assert again is not None
    assert again.record is not None
    assert found.record is not None
    assert again.record.key == found.record.key
