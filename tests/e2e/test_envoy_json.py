"""Tollkeeper's own API as JSON over HTTP, through the transcoder of a real Envoy."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from tests.gateway.envoy import ROOT
from tests.gateway.http import Answer
from tests.gateway.stack import PublicApis
from tollkeeper_server.api.server import SERVICES

VERBS = ("get", "put", "post", "delete", "patch")


def bindings() -> Iterator[tuple[MethodDescriptor, str, str]]:
    """Every way in which the contract says that an RPC is called over HTTP: method and path."""
    for service in SERVICES:
        for method in service.methods:
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            for each in (rule, *rule.additional_bindings):
                verb = each.WhichOneof("pattern")
                assert verb in VERBS, f"{method.full_name} has no path"
                yield method, verb.upper(), getattr(each, verb)


BINDINGS = list(bindings())


def test_every_path_is_documented() -> None:
    written = (ROOT / "service" / "docs" / "envoy.md").read_text()
    missing = [
        row for method, verb, path in BINDINGS if (row := f"| `{verb} {path}` | `{method.name}` |") not in written
    ]
    assert not missing


@pytest.mark.parametrize(("method", "verb", "path"), BINDINGS, ids=[f"{verb} {path}" for _, verb, path in BINDINGS])
def test_every_rpc_is_found_at_its_path_and_answers_in_json(
    apis: PublicApis, method: MethodDescriptor, verb: str, path: str
) -> None:
    filled = re.sub(r"\{[a-z_.]+\}", "key_0000000000000000000000", path)
    body = b"" if verb == "GET" else b"[{}]" if method.client_streaming else b"{}"
    answer = apis.manage(verb, filled, body=body)
    assert answer.header("content-type") == "application/json"
    if answer.status != 200:
        assert "Could not resolve" not in answer.json["message"]
        assert answer.json["code"] != 0
    assert [name for name, _ in answer.headers if name.lower().startswith("grpc-")] == []


def post(apis: PublicApis, path: str, **fields: Any) -> Answer:
    return apis.manage("POST", path, body=json.dumps(fields).encode())


def test_a_key_lives_its_life_in_json(apis: PublicApis) -> None:
    limit = {"name": "per-minute", "kind": "LIMIT_KIND_RATE", "amount": "2", "window": "60s"}
    created = post(
        apis, "/v1/keys", tenant_id="json", ownerId="cust-1", ttl="3600s", permissions=["read"], limits=[limit]
    )
    assert created.status == 200
    api_key, key = created.json["apiKey"], created.json["key"]
    assert (key["tenantId"], key["ownerId"], key["state"]) == ("json", "cust-1", "KEY_STATE_ACTIVE")

    assert apis.manage("GET", f"/v1/keys/{key['keyId']}").json["key"] == key
    listed = apis.manage("GET", "/v1/keys?tenant_id=json&ownerId=cust-1&page_size=10").json
    assert [each["keyId"] for each in listed["keys"]] == [key["keyId"]]

    question = {"api_key": api_key, "requiredPermissions": ["read"]}
    codes = [post(apis, "/v1/keys:verify", **question).json["code"].removeprefix("DECISION_CODE_") for _ in range(3)]
    assert codes == ["ALLOWED", "ALLOWED", "RATE_LIMITED"]
    batch = post(apis, "/v1/keys:batchVerify", requests=[question, {"api_key": "x"}]).json["results"]
    assert [each["response"]["code"] for each in batch] == ["DECISION_CODE_RATE_LIMITED", "DECISION_CODE_KEY_INVALID"]
    (state,) = post(apis, "/v1/quota:check", key_id=key["keyId"]).json["limits"]
    assert (state["limit"], state["used"], state["remaining"]) == ("2", "2", "0")

    assert post(apis, f"/v1/keys/{key['keyId']}:revoke", reason="REVOKE_REASON_UNUSED").status == 200
    assert post(apis, "/v1/keys:verify", **question).json["code"] == "DECISION_CODE_KEY_REVOKED"


def test_a_key_is_revoked_by_possession(apis: PublicApis) -> None:
    api_key = post(apis, "/v1/keys", tenant_id="json").json["apiKey"]
    assert post(apis, "/v1/keys:revoke", apiKey=api_key).json["key"]["state"] == "KEY_STATE_REVOKED"


@pytest.mark.parametrize(
    ("answer", "status", "code", "reason"),
    [
        (lambda apis: post(apis, "/v1/keys", prefix="1", length=-1), 400, 3, "INVALID_FIELDS"),
        (lambda apis: apis.manage("GET", "/v1/keys/key_0000000000000000000000"), 404, 5, "KEY_NOT_FOUND"),
        (lambda apis: apis.manage("GET", "/v1/keys", headers=[("x", "y")]), 401, 16, "CALLER_CREDENTIALS_MISSING"),
        (lambda apis: apis.manage("GET", "/v1/nothing"), 404, 5, None),
        (lambda apis: apis.manage("DELETE", "/v1/keys"), 404, 5, None),
        (lambda apis: apis.manage("GET", "/"), 404, 5, None),
        (lambda apis: apis.manage("POST", "/v1/keys", body=b"{bad"), 400, 3, None),
        (lambda apis: apis.manage("GET", "/v1/keys?nobody=knows"), 400, 3, None),
    ],
)
def test_every_error_is_json_of_one_shape(
    apis: PublicApis, answer: Any, status: int, code: int, reason: str | None
) -> None:
    given = answer(apis)
    assert (given.status, given.json["code"]) == (status, code)
    assert given.header("content-type") == "application/json"
    assert given.json["message"]
    assert [each["reason"] for each in given.json["details"] if "reason" in each] == ([reason] if reason else [])


def test_all_violations_of_a_request_are_told(apis: PublicApis) -> None:
    details = post(apis, "/v1/keys", prefix="1", environment="a b", ttl="0s").json["details"]
    (bad_request,) = (each for each in details if each["@type"].endswith("BadRequest"))
    assert {each["field"] for each in bad_request["fieldViolations"]} == {"prefix", "environment", "ttl"}


def test_a_service_key_may_do_in_json_what_it_may_do_in_grpc(apis: PublicApis) -> None:
    headers = [("authorization", f"Bearer {apis.service_key_file.read_text()}")]
    assert apis.manage("POST", "/v1/keys:verify", headers=headers, body=b"{}").status == 200
    refused = apis.manage("POST", "/v1/keys", headers=headers, body=b"{}")
    assert (refused.status, refused.json["code"]) == (403, 7)
