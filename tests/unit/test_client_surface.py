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
    InvalidArgument,
    TollkeeperError,
    Verification,
    _errors,
    _results,
)
from tollkeeper.v1 import key_pb2, key_service_pb2, limit_pb2, verification_service_pb2

CLIENT = Path(__file__).resolve().parents[2] / "clients" / "python"

CONTRACT_ENUMS = [
    (verification_service_pb2.DecisionCode.DESCRIPTOR, _results.DECISION_CODES),
    (verification_service_pb2.DegradationReason.DESCRIPTOR, _results.DEGRADATION_REASONS),
    (key_pb2.KeyState.DESCRIPTOR, _results.KEY_STATES),
    (key_pb2.RevokeReason.DESCRIPTOR, _results.REVOKE_REASONS),
    (key_service_pb2.Propagation.DESCRIPTOR, _results.PROPAGATIONS),
    (limit_pb2.LimitKind.DESCRIPTOR, _results.LIMIT_KINDS),
    (limit_pb2.LimitScope.DESCRIPTOR, _results.LIMIT_SCOPES),
]


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
    assert tollkeeper.__all__ == sorted(imported)


def test_the_synchronous_client_is_made_from_the_asynchronous_one() -> None:
    script = unasync_script()
    current = script.unasync(script.SOURCE.read_text())
    assert current == script.TARGET.read_text(), "run clients/python/scripts/unasync.py"


def test_a_substitution_that_finds_nothing_fails_instead_of_going_stale() -> None:
    with pytest.raises(ValueError, match="finds nothing"):
        unasync_script().unasync('"""A module without a client."""\n')


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
    record = _results.key(key_pb2.Key(key_id="key_1"))
    created = CreatedKey(key=record, api_key="tk_secret", fingerprint="f", revision=1)
    assert "tk_secret" not in repr(created)
    assert "tk_secret" not in repr(Verification("tk_secret"))


def test_errors_survive_a_pickle() -> None:
    fault = InvalidArgument("CreateKey", "INVALID_ARGUMENT", "name: too long", reason="INVALID_FIELDS", request_id="r1")
    revoked = verification_service_pb2.VerifyResponse(code=verification_service_pb2.DECISION_CODE_KEY_REVOKED)
    denial = Denied(_results.decision(revoked))
    for error in (fault, denial):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert isinstance(again, CallError | Denied)
