"""Arguments become requests: each can be repeated safely, and what the contract cannot say is refused."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper import (
    CalendarWindow,
    KeyState,
    Limit,
    RevokeReason,
    Verification,
    _channel,
    _requests,
    _results,
    micro_units,
)
from tollkeeper.v1 import key_pb2, key_service_pb2, limit_pb2


def create(**arguments: Any) -> key_service_pb2.CreateKeyRequest:
    nothing: dict[str, Any] = {
        "name": "",
        "description": "",
        "owner_id": "",
        "environment": "",
        "permissions": (),
        "resources": (),
        "allowed_cidrs": (),
        "limits": (),
        "metadata": None,
        "expires_at": None,
        "ttl": None,
        "prefix": "",
        "length": 0,
        "request_id": None,
        "tenant_id": None,
    }
    return _requests.create_key(**nothing | arguments)


def revoke(**arguments: Any) -> key_service_pb2.RevokeKeyRequest:
    nothing: dict[str, Any] = {
        "key_id": None,
        "api_key": None,
        "reason": RevokeReason.UNSPECIFIED,
        "comment": "",
        "request_id": None,
    }
    return _requests.revoke_key(**nothing | arguments)


def test_every_verification_and_mutation_has_a_request_id_of_its_own() -> None:
    requests: list[Any] = [
        *(_requests.verify(Verification("tk_1")) for _ in range(2)),
        *_requests.batch_verify([Verification("tk_1"), Verification("tk_1")]).requests,
        *(create() for _ in range(2)),
        *(revoke(key_id="key_1") for _ in range(2)),
    ]
    ids = {request.request_id for request in requests}
    assert len(ids) == len(requests)
    assert all(len(request_id) == 32 for request_id in ids)


def test_a_request_id_that_is_given_is_kept() -> None:
    assert _requests.verify(Verification("tk_1", request_id="mine")).request_id == "mine"
    assert create(request_id="mine").request_id == "mine"
    assert revoke(key_id="key_1", request_id="mine").request_id == "mine"


def test_only_calls_that_can_be_repeated_are_repeated() -> None:
    (service_config,) = (value for name, value in _channel.CHANNEL_OPTIONS if name == "grpc.service_config")
    (policy,) = json.loads(str(service_config))["methodConfig"]
    repeated = {name["method"] for name in policy["name"]}
    assert all("method" in name for name in policy["name"]), "a service as a whole is never repeated"
    assert repeated == {"CheckQuota", "CreateKey", "GetKey", "ListKeys", "RevokeKey"}


def test_a_verification_says_all_that_it_was_given() -> None:
    request = _requests.verify(
        Verification(
            "tk_1",
            resource="billing",
            permissions=("read", "write"),
            client_ip=ip_address("2001:db8::1"),
            charges={"tokens": 500},
            reserve=True,
            dry_run=True,
            min_revision=7,
            tenant_id="acme",
        )
    )
    assert (request.api_key, request.resource, request.client_ip) == ("tk_1", "billing", "2001:db8::1")
    assert list(request.required_permissions) == ["read", "write"]
    assert dict(request.charges) == {"tokens": 500}
    assert (request.reserve, request.dry_run, request.min_revision, request.tenant_id) == (True, True, 7, "acme")


def test_no_charges_means_one_request_and_empty_charges_mean_none() -> None:
    assert not _requests.verify(Verification("tk_1")).charges
    assert dict(_requests.verify(Verification("tk_1", charges={})).charges) == {"requests": 0}


def test_one_string_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(TypeError, match="permissions"):
        _requests.verify(Verification("tk_1", permissions="read"))
    with pytest.raises(TypeError, match="resources"):
        create(resources="billing")


@pytest.mark.parametrize("subjects", [{}, {"key_id": "key_1", "api_key": "tk_1"}])
def test_exactly_one_key_is_revoked(subjects: dict[str, str]) -> None:
    with pytest.raises(TypeError, match="exactly one"):
        revoke(**subjects)


def test_an_empty_key_id_is_sent_and_not_taken_for_none() -> None:
    assert revoke(key_id="").WhichOneof("subject") == "key_id"


def test_a_time_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        create(expires_at=datetime(2027, 1, 1))


def test_a_key_ends_at_a_moment_or_after_a_time_but_not_both() -> None:
    moment, ttl = datetime(2027, 1, 1, tzinfo=UTC), timedelta(days=30)
    assert create(expires_at=moment).expires_at.ToDatetime(tzinfo=UTC) == moment
    assert create(ttl=ttl).ttl.ToTimedelta() == ttl
    with pytest.raises(TypeError, match="not both"):
        create(expires_at=moment, ttl=ttl)


@pytest.mark.parametrize("reason", RevokeReason)
def test_every_reason_can_be_said(reason: RevokeReason) -> None:
    assert _results.REVOKE_REASONS[revoke(key_id="key_1", reason=reason).reason] is reason


@pytest.mark.parametrize("state", KeyState)
def test_every_state_can_be_listed(state: KeyState) -> None:
    request = _requests.list_keys(
        owner_id="", environment="", state=state, prefix="", page_size=0, page_token="", tenant_id=None
    )
    assert _results.KEY_STATES[request.state] is state


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=64)
amounts = st.integers(0, 10**15)
fixed_windows = st.integers(1, 366 * 86_400).map(lambda seconds: timedelta(seconds=seconds))
windows = fixed_windows | st.sampled_from(CalendarWindow)
anchors = st.none() | st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(
    st.builds(Limit.rate, names, amounts, fixed_windows, shadow=st.booleans())
    | st.builds(Limit.quota, names, amounts, windows, unit=names, anchor=anchors)
    | st.builds(Limit.spend, names, st.decimals(0, 10**9, places=6), windows, anchor=anchors)
)
def test_a_limit_comes_back_as_it_was_sent(limit: Limit) -> None:
    (sent,) = create(limits=[limit]).limits
    (returned,) = _results.key(key_pb2.Key(limits=[sent])).limits
    assert returned == limit


def test_a_limit_over_a_calendar_has_no_fixed_window() -> None:
    (sent,) = create(limits=[Limit.quota("monthly", 5, CalendarWindow.MONTH, time_zone="Europe/Berlin")]).limits
    assert not sent.HasField("window")
    assert (sent.calendar, sent.time_zone) == (limit_pb2.CALENDAR_WINDOW_MONTH, "Europe/Berlin")


@given(st.integers(0, 10**15))
def test_money_is_exact(micros: int) -> None:
    assert micro_units(Decimal(micros).scaleb(-6)) == micros
    assert micro_units(f"{micros // 10**6}.{micros % 10**6:06}") == micros


def test_money_is_counted_in_whole_currency() -> None:
    assert micro_units(5) == micro_units("5.00") == micro_units(Decimal("5.0")) == 5_000_000
    assert Limit.spend("daily", "5.00", CalendarWindow.DAY).amount == 5_000_000


@pytest.mark.parametrize("amount", ["0.0000001", "five", "", "NaN", "Infinity", "1e999999999"])
def test_money_that_cannot_be_counted_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match=r"amount of money|decimal places"):
        micro_units(amount)


@pytest.mark.parametrize("amount", [0.1, True])
def test_money_is_never_a_float(amount: Any) -> None:
    with pytest.raises(TypeError, match="float"):
        micro_units(amount)


@pytest.mark.parametrize("token", ["", "tk with space", "tk_newline\n", "tk_\x00", "tk_ü"])
def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as refusal:
        _channel.authorization(token)
    assert not token or token not in str(refusal.value)
