"""The client package: what it offers, that both clients offer the same, and that it knows the whole contract."""

import ast
import dataclasses
import importlib.util
import inspect
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tollkeeper
from tollkeeper import (
    AsyncClient,
    CallError,
    Client,
    CreatedKey,
    DecisionCode,
    Denied,
    ImportKey,
    InvalidArgument,
    LeakedKey,
    Propagation,
    RotatedKey,
    TollkeeperError,
    Verification,
    _errors,
)
from tollkeeper._results import keys, usage, values, verification
from tollkeeper.v1 import (
    audit_service_pb2,
    key_pb2,
    key_service_pb2,
    limit_pb2,
    usage_service_pb2,
    verification_service_pb2,
)

CLIENT = Path(__file__).resolve().parents[2] / "clients" / "python"

CONTRACT_ENUMS = [
    (verification_service_pb2.DecisionCode.DESCRIPTOR, verification.DECISION_CODES),
    (verification_service_pb2.DegradationReason.DESCRIPTOR, verification.DEGRADATION_REASONS),
    (key_pb2.Secret.DESCRIPTOR, verification.SECRETS),
    (key_pb2.KeyState.DESCRIPTOR, keys.KEY_STATES),
    (key_pb2.RevokeReason.DESCRIPTOR, keys.REVOKE_REASONS),
    (key_service_pb2.LeakedKeyOutcome.DESCRIPTOR, keys.LEAKED_KEY_OUTCOMES),
    (key_service_pb2.Propagation.DESCRIPTOR, values.PROPAGATIONS),
    (limit_pb2.LimitKind.DESCRIPTOR, values.LIMIT_KINDS),
    (limit_pb2.LimitScope.DESCRIPTOR, values.LIMIT_SCOPES),
    (usage_service_pb2.UsageGranularity.DESCRIPTOR, usage.GRANULARITIES),
    (usage_service_pb2.FindingKind.DESCRIPTOR, usage.FINDING_KINDS),
]

CONTRACT_SERVICES = [audit_service_pb2, key_service_pb2, usage_service_pb2, verification_service_pb2]


def unasync_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unasync", CLIENT / "scripts" / "unasync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_methods(client: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(client, inspect.isroutine)
        if not name.startswith("_") or name == "__init__"
    }


def test_everything_that_is_imported_for_users_is_public_and_nothing_else() -> None:
    tree = ast.parse(Path(tollkeeper.__file__).read_text())
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(tollkeeper.__all__) == sorted(imported)


def test_the_synchronous_client_is_made_from_the_asynchronous_one() -> None:
    script = unasync_script()
    current = script.unasync(script.modules(script.SOURCE))
    assert current == script.modules(script.TARGET), "run clients/python/scripts/unasync.py"


def test_a_substitution_that_finds_nothing_fails_instead_of_going_stale() -> None:
    with pytest.raises(ValueError, match="find nothing"):
        unasync_script().unasync({"empty.py": '"""A module without a client."""\n'})


def test_every_call_of_the_contract_has_a_method() -> None:
    services = [module.DESCRIPTOR.services_by_name for module in CONTRACT_SERVICES]
    calls = {method.name for each in services for service in each.values() for method in service.methods}
    methods = {name.replace("_", "") for name in public_methods(AsyncClient)}
    below_verify = {"BatchVerify", "VerifyStream", "WatchInvalidations"}
    assert {call for call in calls if call.lower() not in methods} == below_verify
    assert "verifymany" in methods


def test_both_clients_take_the_same_arguments() -> None:
    asynchronous, synchronous = public_methods(AsyncClient), public_methods(Client)
    assert asynchronous.keys() == synchronous.keys()
    for name, signature in asynchronous.items():
        assert signature.parameters == synchronous[name].parameters, name


@pytest.mark.parametrize("enum", CONTRACT_ENUMS, ids=lambda enum: str(enum[0].name))
def test_every_value_of_the_contract_is_known(enum: tuple[object, dict[int, object]]) -> None:
    contract, members = enum
    numbers = {value.number for value in contract.values}  # type: ignore[attr-defined]
    assert members.keys() == numbers
    assert len(set(members.values())) == len(numbers)


def test_every_denial_has_an_error_of_its_own() -> None:
    assert _errors.DENIALS.keys() == set(DecisionCode) - {DecisionCode.ALLOWED, DecisionCode.UNSPECIFIED}
    assert len(set(_errors.DENIALS.values())) == len(_errors.DENIALS)


def test_the_tree_in_the_docstring_is_the_tree_of_the_errors() -> None:
    errors = {
        name
        for name, member in vars(_errors).items()
        if isinstance(member, type) and issubclass(member, TollkeeperError)
    }
    words = (_errors.__doc__ or "").replace("─", " ").split()
    assert errors <= set(words)
    assert errors <= set(tollkeeper.__all__)


def test_results_cannot_be_changed() -> None:
    results: list[Any] = [
        member for name in tollkeeper.__all__ if dataclasses.is_dataclass(member := getattr(tollkeeper, name))
    ]
    assert results
    for result in results:
        assert result.__dataclass_params__.frozen, result
        assert "__slots__" in vars(result), result


def test_an_api_key_is_in_no_repr() -> None:
    record = keys.key(key_pb2.Key(key_id="key_1"))
    created = CreatedKey(key=record, api_key="tk_secret", fingerprint="f", revision=1)
    rotated = RotatedKey(
        key=record, api_key="tk_secret", fingerprint="f", revision=1, propagation=Propagation.PENDING, effective_at=None
    )
    digests = ImportKey(sha256_hex="tk_secret", sha512_hex="tk_secret", hmac_sha256_hex="tk_secret")
    imported = ImportKey(raw_api_key="tk_secret", sha256_base64url="tk_secret")
    for holder in (created, rotated, digests, imported, Verification("tk_secret"), LeakedKey("tk_secret")):
        assert "tk_secret" not in repr(holder)


def test_errors_survive_a_pickle() -> None:
    fault = InvalidArgument("CreateKey", "INVALID_ARGUMENT", "name: too long", reason="INVALID_FIELDS", request_id="r1")
    revoked = verification_service_pb2.VerifyResponse(code=verification_service_pb2.DECISION_CODE_KEY_REVOKED)
    denial = Denied(verification.decision(revoked))
    for error in (fault, denial):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert isinstance(again, CallError | Denied)
