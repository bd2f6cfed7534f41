"""Answers become results: nothing is lost, and what is not known denies."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.rpc import status_pb2

from tollkeeper import (
    CalendarWindow,
    DecisionCode,
    Denied,
    Internal,
    KeyRevoked,
    LimitExceeded,
    LimitKind,
    LimitScope,
    RateLimited,
)
from tollkeeper._results.keys import key as key_result
from tollkeeper._results.verification import decision as decision_result
from tollkeeper._results.verification import decisions as decision_results
from tollkeeper.v1 import key_pb2, limit_pb2, verification_service_pb2

CODE_OF_A_LATER_VERSION = 99


def answer(code: int, **fields: object) -> verification_service_pb2.VerifyResponse:
    return verification_service_pb2.VerifyResponse(code=code, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [0, CODE_OF_A_LATER_VERSION])
def test_a_decision_code_that_is_not_known_denies(code: int) -> None:
    decision = decision_result(answer(code))
    assert decision.code is DecisionCode.UNSPECIFIED
    assert not decision.allowed
    with pytest.raises(Denied):
        decision.raise_if_denied()


@pytest.mark.parametrize("code", set(DecisionCode) - {DecisionCode.ALLOWED})
def test_only_allowed_is_allowed(code: DecisionCode) -> None:
    number = verification_service_pb2.DecisionCode.Value(f"DECISION_CODE_{code.name}")
    decision = decision_result(answer(number))
    assert decision.code is code
    assert not decision.allowed
    with pytest.raises(Denied) as denial:
        decision.raise_if_denied()
    assert denial.value.decision is decision


def test_a_decision_that_is_allowed_passes_through() -> None:
    decision = decision_result(answer(verification_service_pb2.DECISION_CODE_ALLOWED))
    assert decision.allowed
    assert decision.raise_if_denied() is decision


def test_a_decision_has_no_truth_value_that_a_denial_could_pass_by() -> None:
    for code in (verification_service_pb2.DECISION_CODE_ALLOWED, verification_service_pb2.DECISION_CODE_KEY_REVOKED):
        with pytest.raises(TypeError, match="allowed"):
            bool(decision_result(answer(code)))


def test_a_denial_says_what_it_is_and_nothing_of_the_caller() -> None:
    decision = decision_result(answer(4, message="The API key was revoked.", request_id="r1"))
    with pytest.raises(KeyRevoked, match=r"^\[Verify\] KEY_REVOKED The API key was revoked\. \[request-id: r1\]$"):
        decision.raise_if_denied()


def test_a_rate_limited_decision_tells_when_to_come_back() -> None:
    response = answer(verification_service_pb2.DECISION_CODE_RATE_LIMITED)
    response.retry_after.FromTimedelta(timedelta(seconds=41.25))
    with pytest.raises(RateLimited) as denial:
        decision_result(response).raise_if_denied()
    assert isinstance(denial.value, LimitExceeded)
    assert denial.value.decision.retry_after == timedelta(seconds=41.25)


def test_a_decision_without_retry_after_has_none() -> None:
    assert decision_result(answer(1)).retry_after is None


def test_a_limit_is_found_by_name_and_the_keys_own_comes_first() -> None:
    owners = limit_pb2.LimitState(name="per-minute", limit=100, scope=limit_pb2.LIMIT_SCOPE_OWNER)
    own = limit_pb2.LimitState(name="per-minute", limit=5, scope=limit_pb2.LIMIT_SCOPE_KEY)
    shared = limit_pb2.LimitState(name="shared", limit=7, scope=limit_pb2.LIMIT_SCOPE_OWNER)
    decision = decision_result(answer(1, limits=[owners, own, shared]))
    assert decision.limit("per-minute").limit == 5
    assert decision.limit("shared").scope is LimitScope.OWNER
    with pytest.raises(KeyError, match="per-day"):
        decision.limit("per-day")


def questions(*request_ids: str) -> verification_service_pb2.BatchVerifyRequest:
    asked = [verification_service_pb2.VerifyRequest(request_id=request_id) for request_id in request_ids]
    return verification_service_pb2.BatchVerifyRequest(requests=asked)


def test_a_batch_is_answered_item_by_item_and_no_answer_is_taken_for_another() -> None:
    results = verification_service_pb2.BatchVerifyResponse(
        results=[
            verification_service_pb2.VerifyResult(response=answer(1, request_id="r-1")),
            verification_service_pb2.VerifyResult(error=status_pb2.Status(code=14, message="Postgres is away")),
            verification_service_pb2.VerifyResult(),
            verification_service_pb2.VerifyResult(response=answer(1, request_id="r-1")),
        ]
    )
    allowed, unavailable, empty, another = decision_results(results, questions("r-1", "r-2", "r-3", "r-4"))
    assert getattr(allowed, "allowed", False)
    assert str(another) == "[Verify] INTERNAL the answer is to another question"
    assert str(unavailable) == "[Verify] UNAVAILABLE Postgres is away"
    assert isinstance(empty, Internal)


@pytest.mark.parametrize("expected", [0, 2])
def test_a_batch_that_is_not_answered_in_full_is_an_error_not_a_guess(expected: int) -> None:
    response = verification_service_pb2.BatchVerifyResponse(
        results=[verification_service_pb2.VerifyResult(response=answer(1))]
    )
    with pytest.raises(Internal, match="1 answers"):
        decision_results(response, questions(*map(str, range(expected))))


def test_every_field_of_a_key_arrives() -> None:
    record = key_pb2.Key(revoke_reason=key_pb2.REVOKE_REASON_UNUSED, state=key_pb2.KEY_STATE_REVOKED, revision=7)
    moments: dict[str, datetime] = {}
    for number, field in enumerate(key_pb2.Key.DESCRIPTOR.fields):
        value = getattr(record, field.name)
        if field.message_type is not None and field.message_type.name == "Timestamp":
            moments[field.name] = datetime(2026, 1, 1 + number, 12, tzinfo=UTC)
            value.FromDatetime(moments[field.name])
        elif field.type == FieldDescriptor.TYPE_STRING and isinstance(value, str):
            setattr(record, field.name, f"the {field.name}")
        elif field.type == FieldDescriptor.TYPE_STRING:
            value.extend(["a", "b"])
    record.limits.add(name="per-minute", kind=limit_pb2.LIMIT_KIND_RATE, unit="requests", amount=5).window.seconds = 60
    record.metadata.update({"plan": "pro"})
    record.rotation.overlap_ends_at.FromDatetime(datetime(2026, 2, 1, tzinfo=UTC))

    key = key_result(record)

    for field in key_pb2.Key.DESCRIPTOR.fields:
        value = getattr(key, field.name)
        assert value, field.name
        if isinstance(value, str) and field.type == FieldDescriptor.TYPE_STRING:
            assert value == f"the {field.name}"
        if isinstance(value, datetime):
            assert value == moments[field.name]
    assert (key.permissions, key.resources, key.allowed_cidrs) == (("a", "b"),) * 3
    assert key.limits[0].window == timedelta(minutes=1)


def test_what_a_key_does_not_have_is_none() -> None:
    key = key_result(key_pb2.Key(key_id="key_1"))
    assert key.expires_at is None
    assert key.revoked_at is None
    assert key.last_used_at is None
    assert key.rotation is None
    assert key.metadata == {}


def test_a_calendar_window_arrives_with_its_time_zone() -> None:
    record = key_pb2.Key()
    record.limits.add(
        name="spend", kind=limit_pb2.LIMIT_KIND_SPEND, calendar=limit_pb2.CALENDAR_WINDOW_MONTH, time_zone="Asia/Tokyo"
    )
    (limit,) = key_result(record).limits
    assert (limit.kind, limit.window, limit.time_zone) == (LimitKind.SPEND, CalendarWindow.MONTH, "Asia/Tokyo")


def test_metadata_keeps_whole_numbers_whole() -> None:
    metadata: dict[str, Any] = {
        "seats": 3,
        "share": 0.5,
        "huge": 1e300,
        "tags": ["a", None, True],
        "nested": {"deep": [1]},
    }
    struct = struct_pb2.Struct()
    struct.update(metadata)
    identity = decision_result(answer(1, key=key_pb2.KeyIdentity(metadata=struct))).key
    assert identity is not None
    assert identity.metadata == metadata
    assert type(identity.metadata["seats"]) is int
    assert type(identity.metadata["huge"]) is float
