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
    UNCHANGED,
    CalendarWindow,
    Granularity,
    ImportKey,
    KeyState,
    LeakedKey,
    Limit,
    RevokeReason,
    Verification,
    _channel,
    micro_units,
)
from tollkeeper._requests import key_changes, keys, owners, usage, verification
from tollkeeper._results.keys import KEY_STATES, REVOKE_REASONS
from tollkeeper._results.keys import key as key_result
from tollkeeper._results.usage import GRANULARITIES
from tollkeeper.v1 import (
    audit_service_pb2,
    key_pb2,
    key_service_pb2,
    limit_pb2,
    usage_service_pb2,
    verification_service_pb2,
)

CONTRACT = [
    service
    for module in (audit_service_pb2, key_service_pb2, usage_service_pb2, verification_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]


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
    return keys.create_key(**nothing | arguments)


def revoke(**arguments: Any) -> key_service_pb2.RevokeKeyRequest:
    nothing: dict[str, Any] = {
        "key_id": None,
        "api_key": None,
        "reason": RevokeReason.UNSPECIFIED,
        "comment": "",
        "request_id": None,
    }
    return key_changes.revoke_key(**nothing | arguments)


def listing(**arguments: Any) -> key_service_pb2.ListKeysRequest:
    nothing: dict[str, Any] = {
        "owner_id": "",
        "environment": "",
        "state": KeyState.UNSPECIFIED,
        "prefix": "",
        "expires_before": None,
        "created_before": None,
        "api_key_created_before": None,
        "page_size": 0,
        "page_token": "",
        "tenant_id": None,
    }
    return keys.list_keys(**nothing | arguments)


def mutations(request_id: str | None) -> list[Any]:
    """One of each, but for those that make a key or end one."""
    nothing: dict[str, Any] = {"display_name": "", "limits": (), "suspended": False, "metadata": None, "etag": ""}
    return [
        keys.update_key("key_1", {"name": "new"}, etag="", request_id=request_id),
        key_changes.disable_key("key_1", request_id=request_id),
        key_changes.enable_key("key_1", request_id=request_id),
        key_changes.rotate_key("key_1", overlap=timedelta(), request_id=request_id),
        key_changes.end_overlap("key_1", request_id=request_id),
        key_changes.report_leaked_keys([LeakedKey("tk_1")], request_id=request_id),
        owners.set_owner("acme", **nothing, request_id=request_id, tenant_id=None),
        owners.revoke_keys("acme", reason=RevokeReason.UNSPECIFIED, comment="", request_id=request_id, tenant_id=None),
    ]


def test_every_verification_and_mutation_has_a_request_id_of_its_own() -> None:
    requests: list[Any] = [
        *(verification.verify(Verification("tk_1")) for _ in range(2)),
        *verification.batch_verify([Verification("tk_1"), Verification("tk_1")]).requests,
        *(create() for _ in range(2)),
        *(revoke(key_id="key_1") for _ in range(2)),
        *mutations(None),
    ]
    ids = {request.request_id for request in requests}
    assert len(ids) == len(requests)
    assert all(len(request_id) == 32 for request_id in ids)


def test_a_request_id_that_is_given_is_kept() -> None:
    assert verification.verify(Verification("tk_1", request_id="mine")).request_id == "mine"
    assert create(request_id="mine").request_id == "mine"
    assert revoke(key_id="key_1", request_id="mine").request_id == "mine"
    assert {request.request_id for request in mutations("mine")} == {"mine"}


def test_only_calls_that_can_be_repeated_are_repeated() -> None:
    (service_config,) = (value for name, value in _channel.CHANNEL_OPTIONS if name == "grpc.service_config")
    (policy,) = json.loads(str(service_config))["methodConfig"]
    repeated = {name["method"] for name in policy["name"]}
    assert all("method" in name for name in policy["name"]), "a service as a whole is never repeated"
    calls = {method for service in CONTRACT for method in service.methods_by_name}
    assert repeated == calls - {"VerifyStream", "WatchInvalidations"}


def test_a_verification_says_all_that_it_was_given() -> None:
    request = verification.verify(
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
    assert not verification.verify(Verification("tk_1")).charges
    assert dict(verification.verify(Verification("tk_1", charges={})).charges) == {"requests": 0}


def test_one_string_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(TypeError, match="permissions"):
        verification.verify(Verification("tk_1", permissions="read"))
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
    assert REVOKE_REASONS[revoke(key_id="key_1", reason=reason).reason] is reason


@pytest.mark.parametrize("state", KeyState)
def test_every_state_can_be_listed(state: KeyState) -> None:
    request = listing(state=state)
    assert KEY_STATES[request.state] is state


def update(**fields: Any) -> key_service_pb2.UpdateKeyRequest:
    unchanged: dict[str, Any] = {
        "name": UNCHANGED,
        "permissions": UNCHANGED,
        "limits": UNCHANGED,
        "metadata": UNCHANGED,
        "expires_at": UNCHANGED,
    }
    return keys.update_key("key_1", unchanged | fields, etag="e1", request_id=None)


def test_only_the_fields_that_are_given_are_changed() -> None:
    moment = datetime(2027, 1, 1, tzinfo=UTC)
    request = update(permissions=["read"], expires_at=moment)
    assert (request.key.key_id, request.key.etag) == ("key_1", "e1")
    assert set(request.update_mask.paths) == {"permissions", "expires_at"}
    assert list(request.key.permissions) == ["read"]
    assert request.key.expires_at.ToDatetime(tzinfo=UTC) == moment
    assert not update().update_mask.paths


def test_a_field_that_is_emptied_is_named() -> None:
    request = update(name="", permissions=(), limits=(), metadata={}, expires_at=None)
    assert set(request.update_mask.paths) == {"name", "permissions", "limits", "metadata", "expires_at"}
    assert not request.key.HasField("expires_at")
    with pytest.raises(TypeError, match="permissions"):
        update(permissions="read")


def batches(imported: list[ImportKey], request_id: str | None = "mine") -> list[key_service_pb2.ImportKeysRequest]:
    return list(key_changes.import_batches(imported, request_id=request_id, tenant_id="acme"))


def test_keys_are_imported_in_order_in_batches_that_a_server_takes() -> None:
    sent = batches([ImportKey(sha256_hex="0" * 64, name=str(number)) for number in range(2_500)])
    assert [len(request.keys) for request in sent] == [1000, 1000, 500]
    assert [key.key.name for request in sent for key in request.keys] == [str(number) for number in range(2_500)]
    assert [request.request_id for request in sent] == ["mine.0", "mine.1", "mine.2"]
    assert {request.tenant_id for request in sent} == {"acme"}
    large = batches([ImportKey(raw_api_key="k" * 4096, metadata={"m": "x" * 4000})] * 1000)
    assert sum(len(request.keys) for request in large) == 1000
    assert max(request.ByteSize() for request in large) < _channel.MESSAGE_BYTES_MAX / 2 + 10_000
    assert batches([]) == []


def test_the_same_keys_make_the_same_batches() -> None:
    imported = [ImportKey(raw_api_key=f"key number {number}") for number in range(1_001)]
    assert batches(imported) == batches(imported)
    assert batches(imported, None)[0].request_id != batches(imported, None)[0].request_id


@pytest.mark.parametrize("way", ["raw_api_key", "sha256_hex", "sha256_base64url", "sha512_hex"])
def test_an_api_key_is_imported_as_it_is_known(way: str) -> None:
    arguments: dict[str, Any] = {way: "secret"}
    ((item,),) = (request.keys for request in batches([ImportKey(**arguments)]))
    assert (item.WhichOneof("credential"), getattr(item, way)) == (way, "secret")


def test_an_hmac_is_imported_with_the_version_of_its_pepper() -> None:
    ((item,),) = (request.keys for request in batches([ImportKey(hmac_sha256_hex="ab", pepper_version=3)]))
    assert (item.hmac_sha256.hex, item.hmac_sha256.pepper_version) == ("ab", 3)


@pytest.mark.parametrize("ways", [{}, {"raw_api_key": "a", "sha256_hex": "b"}])
def test_an_imported_api_key_is_known_in_exactly_one_way(ways: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="exactly one"):
        batches([ImportKey(**ways)])


@pytest.mark.parametrize("granularity", Granularity)
def test_every_granularity_can_be_asked_for(granularity: Granularity) -> None:
    request = usage.get_usage(
        key_id="key_1", owner_id=None, start_time=None, end_time=None, granularity=granularity, tenant_id=None
    )
    assert GRANULARITIES[request.granularity] is granularity


def test_findings_are_those_of_a_key_or_an_owner_or_everyone_but_not_two() -> None:
    ever: dict[str, Any] = {
        "start_time": None,
        "end_time": None,
        "page_size": 0,
        "page_token": "",
        "tenant_id": None,
    }
    assert usage.list_findings(key_id=None, owner_id=None, **ever).WhichOneof("subject") is None
    assert usage.list_findings(key_id=None, owner_id="acme", **ever).owner_id == "acme"
    with pytest.raises(TypeError, match="exactly one"):
        usage.list_findings(key_id="key_1", owner_id="acme", **ever)


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
    (returned,) = key_result(key_pb2.Key(limits=[sent])).limits
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
