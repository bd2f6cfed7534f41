"""The rest of a key's life as callers see it: changes, rotation, owners, imports, leaks, and what Verify says."""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.api_support import Api, api_on
from tests.tools.refusals import refused
from tollkeeper.v1 import key_pb2, limit_pb2
from tollkeeper.v1 import key_service_pb2 as pb
from tollkeeper.v1 import verification_service_pb2 as verification_pb

ALLOWED = verification_pb.DECISION_CODE_ALLOWED
JWT = "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxIn0" * 120 + ".c2lnbmF0dXJl"


@pytest.fixture
async def api(postgres_url: str, redis_url: str) -> AsyncIterator[Api]:
    async with api_on(postgres_url, redis_url) as api:
        yield api


async def verify(api: Api, api_key: str) -> verification_pb.VerifyResponse:
    answer: verification_pb.VerifyResponse = await api.verification.Verify(
        verification_pb.VerifyRequest(api_key=api_key), metadata=api.root
    )
    return answer


def a_minute(amount: int) -> limit_pb2.Limit:
    return limit_pb2.Limit(name="minute", kind=limit_pb2.LIMIT_KIND_RATE, amount=amount, window=Duration(seconds=60))


async def test_an_update_holds_from_its_answer_on_and_an_old_etag_is_refused(api: Api) -> None:
    created = await api.key("acme", permissions=("read",))
    request = verification_pb.VerifyRequest(api_key=created.api_key, required_permissions=["read"])
    assert (await api.verification.Verify(request, metadata=api.root)).code == ALLOWED
    key = (await api.keys.GetKey(pb.GetKeyRequest(key_id=created.key.key_id), metadata=api.root)).key
    update = pb.UpdateKeyRequest(
        key=key_pb2.Key(key_id=key.key_id, etag=key.etag, name="not named"),
        update_mask=FieldMask(paths=["permissions"]),
    )
    updated = await api.keys.UpdateKey(update, metadata=api.root)
    assert updated.propagation == pb.PROPAGATION_EVERYWHERE
    assert updated.key.name == ""
    assert updated.key.etag != key.etag
    denied = await api.verification.Verify(request, metadata=api.root)
    assert denied.code == verification_pb.DECISION_CODE_PERMISSION_DENIED
    with refused(grpc.StatusCode.ABORTED) as details:
        await api.keys.UpdateKey(update, metadata=api.root)
    assert details.reason == "ETAG_MISMATCH"


async def test_a_key_is_switched_off_and_on(api: Api) -> None:
    created = await api.key("acme")
    disabled = await api.keys.DisableKey(pb.DisableKeyRequest(key_id=created.key.key_id), metadata=api.root)
    assert disabled.key.state == key_pb2.KEY_STATE_DISABLED
    assert (await verify(api, created.api_key)).code == verification_pb.DECISION_CODE_KEY_DISABLED
    enabled = await api.keys.EnableKey(pb.EnableKeyRequest(key_id=created.key.key_id), metadata=api.root)
    request = verification_pb.VerifyRequest(api_key=created.api_key, min_revision=enabled.revision)
    assert (await api.verification.Verify(request, metadata=api.root)).code == ALLOWED


async def test_both_api_keys_of_a_rotation_spend_one_budget_and_verify_tells_them_apart(api: Api) -> None:
    request = pb.CreateKeyRequest(limits=[a_minute(3)], prefix="ila", length=76)
    created = await api.keys.CreateKey(request, metadata=api.root)
    old = await verify(api, created.api_key)
    assert (old.code, old.secret) == (ALLOWED, key_pb2.SECRET_CURRENT)
    rotated = await api.keys.RotateKey(
        pb.RotateKeyRequest(key_id=created.key.key_id, overlap=Duration(seconds=60)), metadata=api.root
    )
    assert rotated.key.rotation.HasField("overlap_ends_at")
    assert (len(rotated.api_key), rotated.api_key[:4]) == (76, "ila_")
    old, new = await verify(api, created.api_key), await verify(api, rotated.api_key)
    assert (old.code, old.secret, old.limits[0].used) == (ALLOWED, key_pb2.SECRET_OLD, 2)
    assert (new.code, new.secret, new.limits[0].used) == (ALLOWED, key_pb2.SECRET_CURRENT, 3)
    for api_key in (created.api_key, rotated.api_key):
        assert (await verify(api, api_key)).code == verification_pb.DECISION_CODE_RATE_LIMITED
    ended = await api.keys.EndOverlap(pb.EndOverlapRequest(key_id=created.key.key_id), metadata=api.root)
    assert not ended.key.HasField("rotation")
    unknown = await verify(api, "tk_made-up")
    dead = await verify(api, created.api_key)
    dead.request_id = unknown.request_id
    assert dead == unknown


async def test_keys_of_an_owner_share_its_limits_and_stop_with_it(api: Api) -> None:
    one, two = await api.key("acme", owner_id="o"), await api.key("acme", owner_id="o")
    acme = await api.caller("acme")
    owner = pb.Owner(owner_id="o", display_name="Customer", limits=[a_minute(2)])
    put = await api.keys.SetOwner(pb.SetOwnerRequest(owner=owner), metadata=acme)
    assert put.owner.tenant_id == "acme"
    codes = [(await verify(api, each.api_key)).code for each in (one, two, one, two)]
    assert codes == [ALLOWED, ALLOWED, *[verification_pb.DECISION_CODE_RATE_LIMITED] * 2]
    quota = await api.verification.CheckQuota(verification_pb.CheckQuotaRequest(owner_id="o"), metadata=acme)
    assert [(state.used, state.scope) for state in quota.limits] == [(2, limit_pb2.LIMIT_SCOPE_OWNER)]
    put.owner.suspended = True
    await api.keys.SetOwner(pb.SetOwnerRequest(owner=put.owner), metadata=acme)
    for each in (one, two):
        assert (await verify(api, each.api_key)).code == verification_pb.DECISION_CODE_KEY_DISABLED
    got = await api.keys.GetOwner(pb.GetOwnerRequest(owner_id="o"), metadata=acme)
    assert got.owner.suspended
    revoked = await api.keys.RevokeKeys(
        pb.RevokeKeysRequest(owner_id="o", reason=key_pb2.REVOKE_REASON_OWNER_LEFT), metadata=acme
    )
    assert sorted(revoked.key_ids) == sorted([one.key.key_id, two.key.key_id])
    assert (await verify(api, one.api_key)).code == verification_pb.DECISION_CODE_KEY_REVOKED


async def test_an_owner_that_nobody_set_is_not_there(api: Api) -> None:
    for method, request in (
        ("GetOwner", pb.GetOwnerRequest(owner_id="o")),
        ("CheckQuota", verification_pb.CheckQuotaRequest(owner_id="o")),
    ):
        with refused(grpc.StatusCode.NOT_FOUND) as details:
            await api.call(method, request, metadata=api.root)
        assert details.reason == "OWNER_NOT_FOUND"


async def test_imported_keys_work_as_they_are_and_what_is_wrong_with_one_is_its_own(api: Api) -> None:
    sha256, sha512 = (hashlib.new(name, f"{name} {JWT}".encode()) for name in ("sha256", "sha512"))
    base64 = urlsafe_b64encode(hashlib.sha256(b"base64 of a key").digest()).rstrip(b"=").decode()
    keys = [
        pb.ImportKey(key=pb.CreateKeyRequest(name="raw"), raw_api_key=JWT),
        pb.ImportKey(sha256_hex=sha256.hexdigest()),
        pb.ImportKey(sha256_base64url=base64),
        pb.ImportKey(sha512_hex=sha512.hexdigest().upper()),
        pb.ImportKey(key=pb.CreateKeyRequest(allowed_cidrs=["10.0.0.0/8", "10.1.0.0/16"]), raw_api_key="x" * 16),
        pb.ImportKey(key=pb.CreateKeyRequest(expires_at=Timestamp(seconds=1)), raw_api_key="y" * 16),
        pb.ImportKey(raw_api_key=JWT),
    ]
    assert len(JWT) > 1800
    before = await verify(api, JWT)
    assert before.code == verification_pb.DECISION_CODE_KEY_INVALID
    answer = await api.keys.ImportKeys(pb.ImportKeysRequest(keys=keys, tenant_id="acme"), metadata=api.root)
    assert answer.propagation == pb.PROPAGATION_EVERYWHERE
    assert [result.WhichOneof("result") for result in answer.results] == ["key"] * 4 + ["error"] * 3
    texts = [result.error.message for result in answer.results[4:]]
    assert texts[0].startswith("keys[4].key.allowed_cidrs[1]: ")
    assert texts[1].startswith("keys[5].key.expires_at: ")
    assert answer.results[6].error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]
    assert JWT not in str(answer)
    for number, api_key in enumerate((JWT, f"sha256 {JWT}", "base64 of a key", f"sha512 {JWT}")):
        for _ in range(2):
            verified = await verify(api, api_key)
            assert (verified.code, verified.key.key_id) == (ALLOWED, answer.results[number].key.key_id)


async def test_too_many_imports_are_refused_by_name(api: Api) -> None:
    request = pb.ImportKeysRequest(keys=[pb.ImportKey(raw_api_key="x" * 16)] * 1001)
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
        await api.keys.ImportKeys(request, metadata=api.root)
    assert details.fields == ["keys"]


async def test_a_thousand_long_keys_fit_into_one_call(api: Api) -> None:
    keys = [pb.ImportKey(raw_api_key=f"{number:04}" + "k" * 2044) for number in range(1000)]
    answer = await api.keys.ImportKeys(pb.ImportKeysRequest(keys=keys, tenant_id="acme"), metadata=api.root, timeout=9)
    assert all(result.WhichOneof("result") == "key" for result in answer.results)
    assert (await verify(api, keys[999].raw_api_key)).code == ALLOWED


async def test_whoever_reports_leaked_keys_ends_them_and_learns_nothing_of_others(api: Api) -> None:
    scanner = await api.caller("partner", permissions=[])
    leaked = await api.key("acme", name="secret plans")
    found = [leaked.api_key, "AKIA0000000000000000", leaked.api_key]
    request = pb.ReportLeakedKeysRequest(
        leaked_keys=[pb.LeakedKey(api_key=api_key, url="https://example.com", source="scan") for api_key in found]
    )
    reported = await api.keys.ReportLeakedKeys(request, metadata=scanner)
    assert [result.outcome for result in reported.results] == [
        pb.LEAKED_KEY_OUTCOME_REVOKED,
        pb.LEAKED_KEY_OUTCOME_NOT_OURS,
        pb.LEAKED_KEY_OUTCOME_REVOKED,
    ]
    assert reported.propagation == pb.PROPAGATION_EVERYWHERE
    assert (await verify(api, leaked.api_key)).code == verification_pb.DECISION_CODE_KEY_REVOKED
    key = (await api.keys.GetKey(pb.GetKeyRequest(key_id=leaked.key.key_id), metadata=api.root)).key
    assert key.revoke_reason == key_pb2.REVOKE_REASON_COMPROMISED


async def test_keys_that_end_soon_are_listed_in_their_order(api: Api) -> None:
    for days in (40, 3, 1):
        request = pb.CreateKeyRequest(tenant_id="acme", name=str(days), ttl=Duration(seconds=days * 86_400))
        await api.keys.CreateKey(request, metadata=api.root)
    soon = Timestamp()
    soon.GetCurrentTime()
    soon.seconds += 30 * 86_400
    listing = pb.ListKeysRequest(tenant_id="acme", expires_before=soon, page_size=1)
    first = await api.keys.ListKeys(listing, metadata=api.root)
    listing.page_token = first.next_page_token
    second = await api.keys.ListKeys(listing, metadata=api.root)
    assert [key.name for key in (*first.keys, *second.keys)] == ["1", "3"]
    assert not second.next_page_token
