"""Requests are bounded as the contract's comments say: every field, both sides of every bound, all faults at once."""

import re
from collections.abc import Callable
from typing import Any, cast

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.requests import (
    ALLOWED,
    FORBIDDEN,
    MONTH,
    QUOTA,
    RATE,
    Limit,
    check_quota,
    create,
    list_keys,
    revoke,
    verify,
    with_limit,
    with_metadata,
)
from tollkeeper.v1 import key_service_pb2, usage_service_pb2
from tollkeeper_server.api import (
    validate_imports,
    validate_keys,
    validate_limits,
    validate_owners,
    validate_reports,
    validate_verification,
)
from tollkeeper_server.api.convert_keys import create_key_from, list_keys_from, revoke_key_from
from tollkeeper_server.api.convert_usage import get_usage_from, list_findings_from
from tollkeeper_server.api.rules import Rules
from tollkeeper_server.core.errors import InvalidArgument

TABLES = [
    validate_verification.VERIFY,
    validate_verification.BATCH_VERIFY,
    validate_verification.CHECK_QUOTA,
    validate_verification.SETTLE,
    validate_verification.WATCH_INVALIDATIONS,
    validate_keys.CREATE_KEY,
    validate_keys.GET_KEY,
    validate_keys.LIST_KEYS,
    validate_keys.UPDATE_KEY,
    validate_keys.DISABLE_KEY,
    validate_keys.ENABLE_KEY,
    validate_keys.ROTATE_KEY,
    validate_keys.END_OVERLAP,
    validate_imports.IMPORT_KEYS,
    validate_imports.IMPORT_KEY,
    validate_imports.HMAC_DIGEST,
    validate_keys.REPORT_LEAKED_KEYS,
    validate_keys.LEAKED_KEY,
    validate_owners.REVOKE_KEYS,
    validate_owners.GET_OWNER,
    validate_owners.SET_OWNER,
    validate_keys.REVOKE_KEY,
    validate_reports.LIST_AUDIT_EVENTS,
    validate_limits.LIMIT,
    validate_reports.GET_USAGE,
    validate_reports.LIST_FINDINGS,
]

RULES: dict[str, Rules] = {rules.message.DESCRIPTOR.name: rules for rules in TABLES}


def faults(message: Message) -> list[str]:
    return [path for path, _ in RULES[message.DESCRIPTOR.name].problems(message)]


@pytest.mark.parametrize("rules", TABLES, ids=lambda rules: rules.message.DESCRIPTOR.name)
def test_every_field_of_every_request_has_a_rule(rules: Rules) -> None:
    assert rules.names == set(rules.message.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("message", ALLOWED)
def test_what_the_contract_allows_passes(message: Message) -> None:
    assert faults(message) == []


@pytest.mark.parametrize(("message", "path"), FORBIDDEN)
def test_what_the_contract_forbids_is_refused_by_the_name_of_its_field(message: Message, path: str) -> None:
    assert faults(message) == [path]


def test_the_tables_cover_every_bounded_field_on_both_sides() -> None:
    unbounded = {"key", "owner", "reserve", "dry_run", "shadow"}
    refused = {name for _, path in FORBIDDEN for name in re.split(r"[.\[]", path)}
    bounded = {name for rules in TABLES for name in rules.names} - unbounded
    assert bounded <= refused


def test_all_faults_are_told_at_once() -> None:
    request = create(
        name="n" * 129,
        permissions=["", "ok", " "],
        limits=[Limit(name="ok", kind=RATE, amount=-1), Limit(kind=cast("Any", 99), window=Duration(seconds=1))],
        prefix="-",
        tenant_id="!",
    )
    assert sorted(faults(request)) == [
        "limits[0].amount",
        "limits[0].window",
        "limits[1].kind",
        "limits[1].name",
        "name",
        "permissions[0]",
        "permissions[2]",
        "prefix",
        "tenant_id",
    ]


def test_a_violation_says_what_is_allowed_and_where() -> None:
    with pytest.raises(InvalidArgument) as caught:
        validate_verification.VERIFY.check(verify(charges={"tokens": -1}), at="requests[7].")
    (violation,) = caught.value.violations
    assert violation.field == 'requests[7].charges["tokens"]'
    assert violation.description == f"must be 0 to {10**15}"


def test_no_violation_repeats_what_was_sent() -> None:
    secret = "tk_S3cr3tS3cr3t!" + "x" * 5000
    requests = [
        verify(api_key=secret, resource=secret, required_permissions=[secret], client_ip=secret, request_id=secret),
        verify(charges={secret: 1}, tenant_id=secret),
        create(name=secret, owner_id=secret, permissions=[secret], allowed_cidrs=[secret], prefix=secret),
        create(limits=[Limit(name=secret, kind=QUOTA, unit=secret, time_zone=secret, calendar=MONTH)]),
        with_metadata({secret: secret}),
        revoke(key_id=secret, comment=secret),
        list_keys(page_token=secret, prefix=secret, environment=secret),
        check_quota(owner_id=secret),
    ]
    for request in requests:
        problems = RULES[request.DESCRIPTOR.name].problems(request)
        assert problems
        assert "S3cr3t" not in str(problems)


def test_the_time_zone_database_is_there() -> None:
    for zone in ("UTC", "Europe/Berlin", "Asia/Kolkata", "Pacific/Apia"):
        assert faults(with_limit(kind=QUOTA, calendar=MONTH, time_zone=zone)) == []


texts = st.text(max_size=140) | st.from_regex(r"[a-z][a-z0-9_.:*/-]{0,70}", fullmatch=True)
numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 400)
durations = st.builds(Duration, seconds=numbers, nanos=st.integers(-(2**31), 2**31 - 1))
timestamps = st.builds(Timestamp, seconds=numbers, nanos=st.integers(-(2**31), 2**31 - 1))
enums = st.integers(-1, 6)
limits = st.builds(
    Limit,
    name=texts,
    kind=enums,
    unit=texts,
    amount=numbers,
    window=st.none() | durations,
    calendar=enums,
    time_zone=texts | st.sampled_from(["UTC", "Europe/Berlin", "Europe"]),
    anchor=st.none() | timestamps,
)
values = st.recursive(
    st.builds(Value, string_value=texts) | st.builds(Value, number_value=st.floats()) | st.just(Value()),
    lambda inner: st.builds(lambda fields: Value(struct_value=Struct(fields=fields)), st.dictionaries(texts, inner)),
    max_leaves=5,
)
creations = st.builds(
    key_service_pb2.CreateKeyRequest,
    name=texts,
    owner_id=texts,
    environment=texts,
    permissions=st.lists(texts, max_size=3),
    allowed_cidrs=st.lists(
        texts | st.ip_addresses().map(lambda ip: f"{ip}/{ip.max_prefixlen}") | st.just("10.0.0.0/8"), max_size=4
    ),
    limits=st.lists(limits, max_size=2),
    metadata=st.builds(Struct, fields=st.dictionaries(texts, values, max_size=3)),
    ttl=st.none() | durations,
    prefix=texts,
    length=st.integers(-(2**31), 2**31 - 1) | st.integers(30, 130),
)
listings = st.builds(
    key_service_pb2.ListKeysRequest, state=enums, page_size=st.integers(-(2**31), 2**31 - 1), page_token=texts
)
revocations = st.builds(key_service_pb2.RevokeKeyRequest, api_key=texts, reason=enums, comment=texts)

usages = st.builds(
    usage_service_pb2.GetUsageRequest,
    owner_id=texts,
    start_time=st.none() | timestamps,
    end_time=st.none() | timestamps,
    granularity=enums,
)
searches = st.builds(
    usage_service_pb2.ListFindingsRequest,
    start_time=st.none() | timestamps,
    page_size=st.integers(-(2**31), 2**31 - 1),
    page_token=texts,
)

CONVERSIONS: dict[str, Callable[[Any], object]] = {
    "CreateKeyRequest": create_key_from,
    "ListKeysRequest": list_keys_from,
    "RevokeKeyRequest": revoke_key_from,
    "GetUsageRequest": get_usage_from,
    "ListFindingsRequest": list_findings_from,
}


@given(creations | listings | revocations | usages | searches)
def test_any_request_is_either_refused_or_converted_and_never_breaks_the_server(request: Message) -> None:
    if not faults(request):
        CONVERSIONS[request.DESCRIPTOR.name](request)
