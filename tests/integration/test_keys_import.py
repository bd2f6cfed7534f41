"""Importing keys of other systems: in every form, each on its own, once, and found by API keys of any shape."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.integration.keys_support import ACME, OTHER, ROOT, Keys, keys_on
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.errors import AlreadyExists, InvalidArgument, PermissionDenied, TollkeeperError
from tollkeeper_server.core.key import Key, KeyState, RevokeReason
from tollkeeper_server.keys.commands import CreateKey, Propagation, RevokeKey, RotateKey
from tollkeeper_server.keys.import_commands import (
    Credential,
    ImportedKeys,
    ImportKey,
    ImportKeys,
    LeakedKey,
    ReportLeakedKeys,
)
from tollkeeper_server.keys.upgrades import Upgrades
from tollkeeper_server.keys.workspace import Algorithm

JWT = "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxIn0" * 40 + ".c2lnbmF0dXJl"
LONG = "k" * 2048


def raw(api_key: str) -> Credential:
    return Credential(raw_api_key=api_key)


def sha256(api_key: str) -> Credential:
    return Credential(digest=hashlib.sha256(api_key.encode()).digest(), algorithm=Algorithm.SHA256)


def sha512(api_key: str) -> Credential:
    return Credential(digest=hashlib.sha512(api_key.encode()).digest(), algorithm=Algorithm.SHA512)


def peppered(api_key: str) -> Credential:
    return Credential(digest=hmac.digest(b"p" * 32, api_key.encode(), "sha256"), pepper_version=1)


FORMS = (raw, sha256, sha512, peppered)


@pytest.fixture
async def keys(postgres_url: str) -> AsyncIterator[Keys]:
    async with keys_on(postgres_url) as keys:
        yield keys


async def take(
    keys: Keys, *credentials: Credential, caller: Caller = ACME, request_id: str = "", **fields: Any
) -> ImportedKeys:
    items = tuple(ImportKey(key=CreateKey(**fields), credential=credential) for credential in credentials)
    return await keys.service.imports.run(caller, ImportKeys(items=items, request_id=request_id))


def imported(result: Key | TollkeeperError) -> Key:
    assert isinstance(result, Key), result
    return result


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("api_key", [JWT, LONG, "sk-live-0123456789abcdef", "pässwörter mit Umlauten"])
async def test_an_imported_key_is_proven_by_its_own_api_key(keys: Keys, form: Any, api_key: str) -> None:
    answer = await take(keys, form(api_key), name="old", owner_id="o", permissions=("read",))
    key = imported(answer.results[0])
    assert (key.tenant_id, key.name, key.owner_id, key.permissions) == ("acme", "old", "o", ("read",))
    assert answer.propagation is Propagation.EVERYWHERE
    found = await keys.record(api_key)
    assert found is not None
    assert found.key == key == await keys.service.get(ACME, key.key_id)
    assert await keys.record(api_key + "x") is None


async def test_no_imported_api_key_is_in_any_table(keys: Keys) -> None:
    await take(keys, raw(JWT), sha256(LONG), request_id="r1")
    dump = await keys.dump()
    for trace in (JWT, JWT[:32], JWT[-12:], LONG[:32], JWT.encode().hex(), hashlib.sha256(JWT.encode()).hexdigest()):
        assert trace not in dump


async def test_each_key_has_a_result_of_its_own(keys: Keys) -> None:
    await take(keys, raw("taken-" * 4))
    good = CreateKey(name="good")
    items = (
        ImportKey(key=good, credential=raw("first-" * 4)),
        InvalidArgument([]),
        ImportKey(key=CreateKey(expires_at=datetime(2020, 1, 1, tzinfo=UTC)), credential=raw("second-" * 4)),
        ImportKey(key=CreateKey(permissions=("tollkeeper:verify",)), credential=raw("third-" * 4)),
        ImportKey(key=good, credential=Credential(digest=b"d" * 32, pepper_version=7)),
        ImportKey(key=good, credential=sha256("taken-" * 4)),
        ImportKey(key=good, credential=sha512("first-" * 4)),
        ImportKey(key=good, credential=sha256("fourth-" * 4)),
    )
    answer = await keys.service.imports.run(ACME, ImportKeys(items=items, request_id="r1"))
    assert [type(result).__name__ for result in answer.results] == [
        "Key",
        "InvalidArgument",
        "InvalidArgument",
        "PermissionDenied",
        "InvalidArgument",
        "Key",  # a digest of ours does not tell of which SHA-256; the API key goes on proving the key that had it first
        "AlreadyExists",
        "Key",
    ]
    faults = [result for result in answer.results if isinstance(result, InvalidArgument)]
    assert [violation.field for fault in faults for violation in fault.violations] == [
        "keys[2].key.expires_at",
        "keys[4].hmac_sha256.pepper_version",
    ]
    again = await keys.service.imports.run(ACME, ImportKeys(items=items, request_id="r1"))
    assert [str(result) for result in again.results] == [str(result) for result in answer.results]
    first = await keys.record("taken-" * 4)
    assert first is not None
    assert first.key.name == ""


async def test_an_api_key_is_imported_once(keys: Keys) -> None:
    await take(keys, *(form(f"api-key-{form.__name__}") for form in FORMS))
    for form in FORMS:
        for again in (form, raw):
            answer = await take(keys, again(f"api-key-{form.__name__}"), caller=OTHER)
            (result,) = answer.results
            assert isinstance(result, AlreadyExists)
            assert result.reason == "API_KEY_TAKEN"


async def test_two_imports_of_one_api_key_at_once_make_one_key(keys: Keys, postgres_url: str) -> None:
    async with keys_on(postgres_url) as other:
        answers = await asyncio.gather(*(take(each, raw(JWT)) for each in (keys, other) * 5))
    assert sum(isinstance(answer.results[0], Key) for answer in answers) == 1


async def test_a_thousand_keys_are_imported_in_one_call(keys: Keys) -> None:
    answer = await take(keys, *(raw(f"{number}-{LONG}") for number in range(1000)), request_id="r1")
    assert len({imported(result).key_id for result in answer.results}) == 1000
    found = await keys.record(f"999-{LONG}")
    assert found is not None
    assert found.key == answer.results[999]
    assert (await keys.rows("SELECT count(*) FROM audit_events"))[0]["count"] == 1000


async def test_imports_into_a_foreign_tenant_are_refused(keys: Keys) -> None:
    with pytest.raises(PermissionDenied):
        await keys.service.imports.run(ACME, ImportKeys(tenant_id="other", items=()))


@pytest.mark.parametrize("form", [sha256, sha512])
async def test_a_digest_of_another_system_becomes_ours(keys: Keys, form: Any) -> None:
    await take(keys, form(JWT))
    found = await keys.record(JWT)
    assert found is not None
    assert found.algorithm is not Algorithm.PEPPERED
    upgrades = Upgrades(keys.postgres, pepper_version=1)
    upgrades.note(old=found.digest, new=peppered(JWT).digest)
    running = asyncio.create_task(upgrades.run())
    await keys.until("SELECT EXISTS (SELECT FROM secrets WHERE algorithm = 'PEPPERED') AS done")
    running.cancel()
    upgraded = await keys.record(JWT)
    assert upgraded is not None
    assert (upgraded.key, upgraded.algorithm) == (found.key, Algorithm.PEPPERED)
    assert found.digest.hex() not in await keys.dump()


async def test_an_imported_key_lives_like_any_other(keys: Keys) -> None:
    answer = await take(keys, sha256(JWT))
    key_id = imported(answer.results[0]).key_id
    rotated = await keys.service.rotate(ACME, RotateKey(key_id=key_id))
    assert rotated.api_key.startswith("tk_")
    assert await keys.record(JWT) is None
    other = await take(keys, sha512(LONG))
    revoked = await keys.service.revoke(ACME, RevokeKey(api_key=LONG))
    assert revoked.key.key_id == imported(other.results[0]).key_id


async def test_leaked_keys_are_revoked_whatever_their_shape_and_tenant_and_nothing_is_told_of_others(
    keys: Keys,
) -> None:
    await take(keys, sha256(JWT))
    mine, foreign = await keys.create(), await keys.create(ROOT, tenant_id="other")
    ended = await keys.create()
    await keys.service.rotate(ACME, RotateKey(key_id=ended.key.key_id))
    found = (JWT, mine.api_key, "made up", foreign.api_key, ended.api_key, mine.api_key)
    leaked = tuple(LeakedKey(api_key=it, url="https://example.com/gist", source="scanner") for it in found)
    report = ReportLeakedKeys(leaked_keys=leaked, request_id="r1")
    answer = await keys.service.leaks.report(OTHER, report)
    assert answer.ours == (True, True, False, True, False, True)
    assert answer.propagation is Propagation.EVERYWHERE
    key = await keys.service.get(ACME, mine.key.key_id)
    assert (key.stored_state, key.revoke_reason) == (KeyState.REVOKED, RevokeReason.COMPROMISED)
    assert (await keys.service.get(ACME, ended.key.key_id)).stored_state is KeyState.ACTIVE
    events = await keys.rows(
        "SELECT actor, after->>'leak_url' AS url FROM audit_events WHERE action = 'ReportLeakedKeys'"
    )
    assert events == [{"actor": OTHER.key_id, "url": "https://example.com/gist"}] * 3
    before = await keys.dump()
    assert (await keys.service.leaks.report(OTHER, report)).ours == answer.ours
    assert await keys.dump() == before
    for api_key in found:
        assert api_key == "made up" or api_key not in before
