"""Signed-in users: each manages its own keys, and nothing else is there for it."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.duration_pb2 import Duration
from jwt.algorithms import ECAlgorithm

from tests.integration.api_support import METHODS, Api, Metadata, api_on
from tests.tools.refusals import refused
from tollkeeper.v1 import audit_service_pb2, verification_service_pb2
from tollkeeper.v1 import key_service_pb2 as pb

KEY = ec.generate_private_key(ec.SECP256R1())
FOR_USERS = {"CreateKey", "GetKey", "ListKeys", "RevokeKey"}
FOR_ALL_CALLERS = {"ReportLeakedKeys"}


def user(subject: str, **claims: Any) -> Metadata:
    """What a signed-in user shows."""
    content = {"iss": "https://login.example", "aud": "tollkeeper", "sub": subject, "exp": int(time.time()) + 60}
    token = jwt.encode({**content, "roles": ["self"], **claims}, KEY, algorithm="ES256", headers={"kid": "1"})
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
async def api(postgres_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    key_set = tmp_path / "jwks.json"
    jwk: Any = ECAlgorithm.to_jwk(KEY.public_key())
    key_set.write_text(json.dumps({"keys": [{**json.loads(jwk), "kid": "1"}]}))
    sign_in = {
        "sign_in_issuer": "https://login.example",
        "sign_in_audience": "tollkeeper",
        "sign_in_jwks": str(key_set),
        "sign_in_tenant": "acme",
    }
    async with api_on(postgres_url, redis_url, more=sign_in) as api:
        yield api


async def create(api: Api, who: Metadata, **fields: Any) -> pb.CreateKeyResponse:
    response: pb.CreateKeyResponse = await api.keys.CreateKey(pb.CreateKeyRequest(**fields), metadata=who)
    return response


async def test_a_user_creates_a_key_that_is_its_own_and_works(api: Api) -> None:
    created = await create(api, user("user-7"), description="my laptop", ttl=Duration(seconds=3600))
    key = created.key
    assert (key.owner_id, key.tenant_id, key.created_by, key.description) == ("user-7", "acme", "user-7", "my laptop")
    assert key.expires_at.seconds == key.created_at.seconds + 3600
    assert len(created.fingerprint) == 64
    request = verification_service_pb2.VerifyRequest(api_key=created.api_key)
    decision = await api.verification.Verify(request, metadata=await api.caller())
    assert decision.code == verification_service_pb2.DECISION_CODE_ALLOWED
    assert decision.key.owner_id == "user-7"


async def test_the_audit_log_names_the_user(api: Api) -> None:
    created = await create(api, user("user-7"), owner_id="user-7", tenant_id="acme")
    await api.keys.RevokeKey(pb.RevokeKeyRequest(key_id=created.key.key_id), metadata=user("user-7"))
    request = audit_service_pb2.ListAuditEventsRequest(actor="user-7", tenant_id="acme")
    found = await api.audit.ListAuditEvents(request, metadata=api.root)
    assert [(event.action, event.owner_id) for event in found.events] == [
        ("RevokeKey", "user-7"),
        ("CreateKey", "user-7"),
    ]
    assert found.events[0].actor_ip == "127.0.0.1"
    assert {line["caller"] for line in api.log.lines if line["method"] == "RevokeKey"} == {"user-7"}


async def test_only_its_own_keys_are_there_for_a_user(api: Api) -> None:
    mine = await create(api, user("user-7"))
    theirs = await create(api, user("user-8"))
    nobodys = await api.key("acme")
    elsewhere = await api.key("other", owner_id="user-7")
    for request in (pb.ListKeysRequest(), pb.ListKeysRequest(owner_id="user-7")):
        listed = await api.keys.ListKeys(request, metadata=user("user-7"))
        assert [key.key_id for key in listed.keys] == [mine.key.key_id]
    got = await api.keys.GetKey(pb.GetKeyRequest(key_id=mine.key.key_id), metadata=user("user-7"))
    assert got.key == mine.key
    for other in (theirs, nobodys, elsewhere):
        for method, asked in [
            ("GetKey", pb.GetKeyRequest(key_id=other.key.key_id)),
            ("RevokeKey", pb.RevokeKeyRequest(key_id=other.key.key_id)),
        ]:
            with refused(grpc.StatusCode.NOT_FOUND) as details:
                await api.call(method, asked, metadata=user("user-7"))
            assert details.reason == "KEY_NOT_FOUND"
    revoked = await api.keys.RevokeKey(pb.RevokeKeyRequest(api_key=mine.api_key), metadata=user("user-7"))
    assert revoked.key.key_id == mine.key.key_id


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    [
        ("CreateKey", pb.CreateKeyRequest(owner_id="user-8"), "FOREIGN_OWNER"),
        ("ListKeys", pb.ListKeysRequest(owner_id="user-8"), "FOREIGN_OWNER"),
        ("CreateKey", pb.CreateKeyRequest(tenant_id="other"), "FOREIGN_TENANT"),
        ("ListKeys", pb.ListKeysRequest(tenant_id="other"), "FOREIGN_TENANT"),
        ("CreateKey", pb.CreateKeyRequest(permissions=["tollkeeper:verify"]), "CALLER_PERMISSION_MISSING"),
        ("CreateKey", pb.CreateKeyRequest(permissions=["tollkeeper:keys.write"]), "CALLER_PERMISSION_MISSING"),
        ("CreateKey", pb.CreateKeyRequest(permissions=["tollkeeper:*"]), "CALLER_PERMISSION_MISSING"),
    ],
)
async def test_a_user_acts_for_nobody_else_and_makes_no_callers(
    api: Api, method: str, request_: Any, reason: str
) -> None:
    with refused(grpc.StatusCode.PERMISSION_DENIED) as details:
        await api.call(method, request_, metadata=user("user-7"))
    assert details.reason == reason


async def test_every_other_call_is_closed_to_users(api: Api) -> None:
    assert METHODS.keys() > FOR_USERS
    for method in METHODS.keys() - FOR_USERS - FOR_ALL_CALLERS:
        with refused(grpc.StatusCode.PERMISSION_DENIED) as details:
            await api.call(method, None, metadata=user("user-7"))
        assert details.reason == "CALLER_PERMISSION_MISSING"


async def test_a_request_id_of_one_user_means_nothing_to_another(api: Api) -> None:
    first = await create(api, user("user-7"), request_id="r")
    again = await create(api, user("user-7"), request_id="r")
    other = await create(api, user("user-8"), request_id="r")
    assert first == again
    assert other.key.key_id != first.key.key_id


async def test_a_token_that_proves_nobody_is_told_so_and_is_looked_up_nowhere(api: Api) -> None:
    refusals: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
        ({"exp": 1}, grpc.StatusCode.UNAUTHENTICATED, "CALLER_TOKEN_EXPIRED"),
        ({"aud": "another"}, grpc.StatusCode.UNAUTHENTICATED, "CALLER_TOKEN_AUDIENCE"),
        ({"roles": []}, grpc.StatusCode.PERMISSION_DENIED, "CALLER_ROLE_MISSING"),
    ]
    for claims, code, reason in refusals:
        with refused(code) as details:
            await api.call("ListKeys", None, metadata=user("user-7", **claims))
        assert details.reason == reason


async def test_without_an_issuer_a_token_is_an_api_key_that_nobody_knows(postgres_url: str, redis_url: str) -> None:
    async with api_on(postgres_url, redis_url) as api:
        with refused(grpc.StatusCode.UNAUTHENTICATED) as details:
            await api.call("ListKeys", None, metadata=user("user-7"))
        assert details.reason == "CALLER_KEY_INVALID"
