"""Conversions between the contract and the domain lose nothing that the contract promises to keep."""

import enum
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.v1 import key_pb2, key_service_pb2, limit_pb2, verification_service_pb2
from tollkeeper_server.api import convert, convert_keys, convert_limits, convert_verification
from tollkeeper_server.api.answers import Answers
from tollkeeper_server.core.decision import MESSAGES, Decision, DecisionCode, DegradationReason
from tollkeeper_server.core.key import Key, KeyState, RevokeReason
from tollkeeper_server.core.limits import CalendarWindow, Limit, LimitKind, LimitScope, LimitState
from tollkeeper_server.core.policy import Use
from tollkeeper_server.keys.commands import Propagation

NOW = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)

ENUM_MAPS: list[tuple[dict[Any, Any], type[enum.StrEnum], Any]] = [
    (convert_keys.KEY_STATES, KeyState, key_pb2.KeyState),
    (convert_keys.REVOKE_REASONS, RevokeReason, key_pb2.RevokeReason),
    (convert_keys.PROPAGATIONS, Propagation, key_service_pb2.Propagation),
    (convert_limits.LIMIT_KINDS, LimitKind, limit_pb2.LimitKind),
    (convert_limits.CALENDAR_WINDOWS, CalendarWindow, limit_pb2.CalendarWindow),
    (convert_limits.LIMIT_SCOPES, LimitScope, limit_pb2.LimitScope),
    (convert_verification.DECISION_CODES, DecisionCode, verification_service_pb2.DecisionCode),
    (convert_verification.DEGRADATION_REASONS, DegradationReason, verification_service_pb2.DegradationReason),
]

datetimes = st.datetimes(timezones=st.just(UTC))
timedeltas = st.timedeltas(timedelta(days=-36_525), timedelta(days=36_525))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(("mapping", "domain", "proto"), ENUM_MAPS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_enum_value_has_exactly_one_number_and_every_number_a_value(
    mapping: dict[Any, Any], domain: type[enum.StrEnum], proto: Any
) -> None:
    assert set(mapping) == set(domain)
    numbers = set(proto.values()) - (set() if 0 in mapping.values() else {0})
    assert set(mapping.values()) == numbers
    assert len(set(mapping.values())) == len(mapping)


def test_every_decision_and_every_degradation_has_words() -> None:
    assert set(MESSAGES) == set(DecisionCode)
    assert set(convert_verification.DEGRADATION_MESSAGES) == set(DegradationReason)


@given(datetimes)
def test_moments_are_exact_to_the_microsecond(moment: datetime) -> None:
    timestamp = convert.timestamp_from(moment)
    assert timestamp.ToDatetime(tzinfo=UTC) == moment
    assert convert.datetime_from(timestamp) == moment


@given(timedeltas)
def test_spans_are_exact_to_the_microsecond(span: timedelta) -> None:
    duration = convert.duration_from(span)
    assert duration.ToTimedelta() == span
    assert convert.timedelta_from(duration) == span


def test_what_is_finer_than_a_microsecond_is_cut_off() -> None:
    assert convert.datetime_from(Timestamp(seconds=1, nanos=999_999_999)).microsecond == 999_999
    assert convert.timedelta_from(Duration(seconds=-1, nanos=-1_999)) == timedelta(seconds=-1, microseconds=-1)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_metadata_comes_back_as_it_was_given(metadata: dict[str, Any]) -> None:
    assert convert.json_from(convert.struct_from(metadata) or Struct()) == metadata


def test_whole_numbers_come_back_as_integers() -> None:
    struct = convert.struct_from({"seats": 5})
    assert struct is not None
    seats = convert.json_from(struct)["seats"]
    assert seats == 5
    assert isinstance(seats, int)


def test_a_metadata_value_without_kind_is_null() -> None:
    struct = Struct()
    struct.fields["nothing"].Clear()
    assert convert.json_from(struct) == {"nothing": None}


@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        (limit_pb2.LIMIT_KIND_RATE, "requests"),
        (limit_pb2.LIMIT_KIND_QUOTA, "requests"),
        (limit_pb2.LIMIT_KIND_SPEND, "spend"),
    ],
)
def test_a_limit_without_unit_gets_that_of_its_kind(kind: limit_pb2.LimitKind.ValueType, unit: str) -> None:
    assert convert_limits.limit_from(limit_pb2.Limit(name="x", kind=kind, window=Duration(seconds=60))).unit == unit


@pytest.mark.parametrize(
    "limit",
    [
        Limit(name="burst", kind=LimitKind.RATE, unit="requests", amount=5, window_seconds=60),
        Limit(name="a", kind=LimitKind.QUOTA, unit="tokens", amount=0, window_seconds=86_400, anchor=NOW, shadow=True),
        Limit(
            name="b",
            kind=LimitKind.SPEND,
            unit="spend",
            amount=10**15,
            calendar=CalendarWindow.MONTH,
            time_zone="Europe/Berlin",
        ),
        Limit(name="c", kind=LimitKind.QUOTA, unit="requests", amount=1, calendar=CalendarWindow.DAY),
    ],
    ids=lambda limit: limit.name,
)
def test_a_limit_comes_back_as_it_was_given(limit: Limit) -> None:
    assert convert_limits.limit_from(convert_limits.limit_message(limit)) == limit


def test_a_limit_of_fixed_length_carries_no_time_zone_so_that_it_may_be_sent_back() -> None:
    limit = Limit(name="burst", kind=LimitKind.RATE, unit="requests", amount=5, window_seconds=60)
    assert convert_limits.limit_message(limit).time_zone == ""


def test_a_limit_state_tells_what_remains() -> None:
    state = LimitState(
        name="burst",
        kind=LimitKind.RATE,
        unit="requests",
        limit=5,
        used=7,
        reset_at=NOW,
        exceeded=True,
        shadow=True,
        scope=LimitScope.OWNER,
    )
    assert convert_limits.limit_state_message(state) == limit_pb2.LimitState(
        name="burst",
        kind=limit_pb2.LIMIT_KIND_RATE,
        unit="requests",
        limit=5,
        used=7,
        remaining=0,
        reset_at=convert.timestamp_from(NOW),
        exceeded=True,
        shadow=True,
        scope=limit_pb2.LIMIT_SCOPE_OWNER,
    )


def key(**changes: Any) -> Key:
    return Key(**{"key_id": "key_1", "tenant_id": "acme", "created_at": NOW, "updated_at": NOW, **changes})


def test_every_field_of_a_key_is_told() -> None:
    full = key(
        owner_id="owner",
        name="name",
        description="description",
        environment="production",
        hint="tk_…7Gq2",
        stored_state=KeyState.REVOKED,
        permissions=("read",),
        resources=("api",),
        allowed_cidrs=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")),
        limits=(Limit(name="burst", kind=LimitKind.RATE, unit="requests", amount=5, window_seconds=60),),
        metadata={"plan": "pro"},
        created_by="key_2",
        updated_by="key_3",
        expires_at=NOW,
        revoked_at=NOW,
        revoke_reason=RevokeReason.COMPROMISED,
        last_used_at=NOW,
        api_key_created_at=NOW,
        overlap_ends_at=NOW + timedelta(seconds=1),
        revision=7,
    )
    message = convert_keys.key_message(full, now=NOW)
    told = {field.name for field, _ in message.ListFields()}
    assert told == set(key_pb2.Key.DESCRIPTOR.fields_by_name) - {"rotation"}  # a revoked key has none
    rotating = convert_keys.key_message(replace(full, stored_state=KeyState.ACTIVE, old_last_used_at=NOW), now=NOW)
    assert rotating.rotation.overlap_ends_at == convert.timestamp_from(NOW + timedelta(seconds=1))
    assert rotating.rotation.old_last_used_at == convert.timestamp_from(NOW)
    assert list(message.allowed_cidrs) == ["192.0.2.0/24", "2001:db8::/32"]
    assert message.state == key_pb2.KEY_STATE_REVOKED


def test_the_state_of_a_key_is_that_of_now() -> None:
    expiring = key(expires_at=NOW)
    before = convert_keys.key_message(expiring, now=NOW - timedelta(microseconds=1))
    assert before.state == key_pb2.KEY_STATE_ACTIVE
    assert convert_keys.key_message(expiring, now=NOW).state == key_pb2.KEY_STATE_EXPIRED


def test_what_is_absent_stays_absent() -> None:
    message = convert_keys.key_message(key(), now=NOW)
    assert not any(message.HasField(name) for name in ("expires_at", "revoked_at", "last_used_at", "rotation"))
    answer = Answers().of(Decision(code=DecisionCode.KEY_INVALID, request_id="r"))
    response = verification_service_pb2.VerifyResponse.FromString(answer)
    assert {field.name for field, _ in response.ListFields()} == {"code", "message", "request_id"}


def test_charges_that_are_absent_mean_one_request() -> None:
    request = verification_service_pb2.VerifyRequest(api_key="k")
    verification = convert_verification.verification_from(request, use=Use(), tenant_id=None, request_id="r")
    assert verification.charges == {"requests": 1}
    assert verification.consume


def test_a_page_size_beyond_the_greatest_means_the_greatest_and_none_the_default() -> None:
    sizes = [
        convert_keys.list_keys_from(key_service_pb2.ListKeysRequest(page_size=asked)).page_size
        for asked in (0, 1, 1000, 1001, 2**31 - 1)
    ]
    assert sizes == [50, 1, 1000, 1000, 1000]


@pytest.mark.parametrize("secret_holder", [key_service_pb2.RevokeKeyRequest(api_key="tk_secret")])
def test_commands_never_show_an_api_key(secret_holder: key_service_pb2.RevokeKeyRequest) -> None:
    assert "tk_secret" not in repr(convert_keys.revoke_key_from(secret_holder))
