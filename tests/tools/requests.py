"""Requests at and beyond every bound of the contract."""

import math
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from tollkeeper.v1 import (
    audit_service_pb2,
    key_pb2,
    key_service_pb2,
    limit_pb2,
    usage_service_pb2,
    verification_service_pb2,
)

KEY_ID = "key_0123456789abcdefABCDEF"
DAY = 86_400
CENTURY = 36_525 * DAY

Limit = limit_pb2.Limit
RATE, QUOTA, SPEND = limit_pb2.LIMIT_KIND_RATE, limit_pb2.LIMIT_KIND_QUOTA, limit_pb2.LIMIT_KIND_SPEND
MONTH = limit_pb2.CALENDAR_WINDOW_MONTH


def verify(**fields: Any) -> Message:
    return verification_service_pb2.VerifyRequest(**fields)


def check_quota(**fields: Any) -> Message:
    return verification_service_pb2.CheckQuotaRequest(**fields)


def settle(**fields: Any) -> Message:
    return verification_service_pb2.SettleRequest(**fields)


def watch(**fields: Any) -> Message:
    return verification_service_pb2.WatchInvalidationsRequest(**fields)


def used(**fields: Any) -> Message:
    use = verification_service_pb2.KeptUse(**{"key_id": KEY_ID, "verifications": 1, **fields})
    return watch(uses=[use])


def create(**fields: Any) -> Message:
    return key_service_pb2.CreateKeyRequest(**fields)


def list_keys(**fields: Any) -> Message:
    return key_service_pb2.ListKeysRequest(**fields)


def update(paths: list[str], **fields: Any) -> Message:
    key = key_pb2.Key(**{"key_id": KEY_ID, **fields})
    return key_service_pb2.UpdateKeyRequest(key=key, update_mask=FieldMask(paths=paths))


def rotate(**fields: Any) -> Message:
    return key_service_pb2.RotateKeyRequest(**{"key_id": KEY_ID, **fields})


def revoke_keys(**fields: Any) -> Message:
    return key_service_pb2.RevokeKeysRequest(**fields)


def set_owner(**fields: Any) -> Message:
    return key_service_pb2.SetOwnerRequest(owner=key_service_pb2.Owner(**{"owner_id": "o", **fields}))


def import_key(**fields: Any) -> Message:
    return key_service_pb2.ImportKey(**fields)


def hmac(hex: str, pepper_version: int = 1) -> Message:  # noqa: A002
    return import_key(hmac_sha256=key_service_pb2.HmacDigest(hex=hex, pepper_version=pepper_version))


def imports(size: int, **fields: Any) -> Message:
    items = [key_service_pb2.ImportKey()] * size
    return key_service_pb2.ImportKeysRequest(keys=items, **fields)


def leaked(size: int = 1, **fields: Any) -> Message:
    items = [key_service_pb2.LeakedKey(**{"api_key": "x", **fields})] * size
    return key_service_pb2.ReportLeakedKeysRequest(leaked_keys=items)


def revoke(**fields: Any) -> Message:
    return key_service_pb2.RevokeKeyRequest(**fields)


def list_audit_events(**fields: Any) -> Message:
    return audit_service_pb2.ListAuditEventsRequest(**fields)


def get_usage(**fields: Any) -> Message:
    return usage_service_pb2.GetUsageRequest(**fields)


def list_findings(**fields: Any) -> Message:
    return usage_service_pb2.ListFindingsRequest(**fields)


def with_limit(**fields: Any) -> Message:
    minute = {} if "calendar" in fields else {"window": Duration(seconds=60)}
    return create(limits=[Limit(**{"name": "x", "kind": RATE, "amount": 1, **minute, **fields})])


def with_metadata(values: dict[str, Any]) -> Message:
    metadata = Struct()
    metadata.update(values)
    return create(metadata=metadata)


def batch(size: int) -> Message:
    items = [verification_service_pb2.VerifyRequest()] * size
    return verification_service_pb2.BatchVerifyRequest(requests=items)


ALLOWED: list[Message] = [
    verify(),
    verify(api_key="x" * 4096),
    verify(api_key="ü" * 2048),
    verify(api_key="any \0 garbage"),
    verify(resource="a" * 128),
    verify(resource="Az09_-.*/:"),
    verify(required_permissions=["a" * 64] * 32),
    verify(client_ip="192.0.2.1"),
    verify(client_ip="2001:db8::1"),
    verify(client_ip="::ffff:192.0.2.1"),
    verify(charges={f"unit_{index}.-": 10**15 for index in range(16)}),
    verify(charges={"u" * 32: 0}),
    verify(min_revision=2**63 - 1),
    verify(request_id="Az09_-.:" * 8),
    verify(tenant_id="a" * 64),
    verify(tenant_id="0_-"),
    verify(keep=10_000),
    batch(1),
    batch(1000),
    check_quota(key_id=KEY_ID),
    check_quota(api_key="x" * 4096),
    check_quota(owner_id="A-z0@/:._", charges={"tokens": 5}, tenant_id="acme"),
    create(),
    create(name="ü" * 128, description="line\n" * 204, owner_id="o" * 128, environment="e" * 64),
    create(permissions=["a:*", "*"] * 50, resources=["r" * 128] * 100),
    create(permissions=["p" * 64]),
    create(allowed_cidrs=["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "0.0.0.0/32"]),
    create(allowed_cidrs=[f"10.0.{index}.0/24" for index in range(100)]),
    create(allowed_cidrs=["0.0.0.0/0", "::/0"]),
    create(expires_at=Timestamp(seconds=253_402_300_799, nanos=999_999_999)),
    create(ttl=Duration(seconds=1)),
    create(ttl=Duration(seconds=CENTURY)),
    create(prefix="a"),
    create(prefix="ila"),
    create(prefix="a-b_c-1234567890abcd"),
    create(prefix="tk", length=37),
    create(length=37),
    create(prefix="ila", length=128),
    create(request_id="r", tenant_id="acme"),
    create(limits=[Limit(name=f"l{index}", kind=RATE, amount=1, window=Duration(seconds=1)) for index in range(16)]),
    with_metadata({"plan": "pro", "nested": {"list": [1, None, True, "x"]}}),
    with_metadata({"x": "y" * 4088}),
    with_limit(name="0-_.a", unit="u" * 32, amount=0),
    with_limit(amount=10**15, window=Duration(seconds=366 * DAY), shadow=True),
    with_limit(kind=QUOTA, anchor=Timestamp(seconds=0)),
    with_limit(kind=QUOTA, calendar=MONTH),
    with_limit(kind=SPEND, calendar=MONTH, time_zone="America/Argentina/Buenos_Aires"),
    key_service_pb2.GetKeyRequest(key_id=KEY_ID),
    list_keys(),
    list_keys(owner_id="o" * 128, environment="e" * 64, state=4, prefix="ila", page_size=2**31 - 1),
    list_keys(page_token="a-_Z" * 128, tenant_id="acme"),
    list_keys(expires_before=Timestamp(), created_before=Timestamp(), api_key_created_before=Timestamp()),
    update(["name"]),
    update(["name", "expires_at"], name="n" * 128, etag="0" * 16, allowed_cidrs=["not looked at"]),
    update(["limits"], limits=[Limit(name="x", kind=RATE, amount=1, window=Duration(seconds=1))]),
    key_service_pb2.DisableKeyRequest(key_id=KEY_ID, request_id="r"),
    key_service_pb2.EnableKeyRequest(key_id=KEY_ID, request_id="r"),
    key_service_pb2.EndOverlapRequest(key_id=KEY_ID, request_id="r"),
    rotate(),
    rotate(overlap=Duration(seconds=0)),
    rotate(overlap=Duration(seconds=366 * DAY), request_id="r"),
    revoke(key_id=KEY_ID, reason=5, comment="c" * 512, request_id="r"),
    imports(1),
    imports(1000, request_id="r", tenant_id="acme"),
    import_key(raw_api_key="x" * 16),
    import_key(raw_api_key="ü" * 2048, key=create(name="old", ttl=Duration(seconds=1))),
    import_key(sha256_hex="0aA" * 21 + "f"),
    import_key(sha256_base64url="-_" * 21 + "A"),
    import_key(sha512_hex="0" * 128),
    hmac("f" * 64, 65_535),
    leaked(1000),
    leaked(api_key="x" * 4096, url="u" * 1024, source="s" * 64),
    revoke(api_key="x"),
    get_usage(key_id=KEY_ID),
    get_usage(owner_id="o" * 128, start_time=Timestamp(), end_time=Timestamp(seconds=1), granularity=3, tenant_id="a"),
    list_findings(),
    list_findings(key_id=KEY_ID, start_time=Timestamp(seconds=1), end_time=Timestamp(), page_size=2**31 - 1),
    list_findings(owner_id="o", page_token="a-_Z" * 128, tenant_id="a"),
    list_audit_events(),
    list_audit_events(key_id=KEY_ID, owner_id="o" * 128, actor="a|" * 64, action="CreateKey", page_size=2**31 - 1),
    list_audit_events(start_time=Timestamp(seconds=0), end_time=Timestamp(seconds=0), tenant_id="acme"),
    list_audit_events(page_token="a-_Z" * 128),
    settle(reservation_id="res_Az09-"),
    settle(reservation_id="r" * 64, charges={"tokens": 10**15}),
    settle(reservation_id="res", verifications=10_000),
    watch(),
    watch(acknowledged_revision=2**63 - 1, renewal=2**63 - 1),
    watch(uses=[verification_service_pb2.KeptUse(key_id=KEY_ID, verifications=1)] * 1000),
    used(verifications=10**15, charges={"tokens": 10**15}),
]

FORBIDDEN: list[tuple[Message, str]] = [
    (settle(), "reservation_id"),
    (settle(reservation_id="r" * 65), "reservation_id"),
    (settle(reservation_id="a b"), "reservation_id"),
    (settle(reservation_id="res", charges={"tokens": -1}), 'charges["tokens"]'),
    (settle(reservation_id="res", verifications=10_001), "verifications"),
    (settle(reservation_id="res", verifications=-1), "verifications"),
    (watch(acknowledged_revision=-1), "acknowledged_revision"),
    (watch(renewal=-1), "renewal"),
    (watch(uses=[verification_service_pb2.KeptUse(key_id=KEY_ID, verifications=1)] * 1001), "uses"),
    (used(key_id="key"), "uses[0].key_id"),
    (used(verifications=0), "uses[0].verifications"),
    (used(verifications=10**15 + 1), "uses[0].verifications"),
    (used(charges={"Tokens": 1}), "uses[0].charges"),
    (used(charges={"tokens": -1}), 'uses[0].charges["tokens"]'),
    (verify(keep=10_001), "keep"),
    (verify(keep=-1), "keep"),
    (verify(keep=1, reserve=True), "keep"),
    (verify(keep=1, dry_run=True), "keep"),
    (verify(api_key="x" * 4097), "api_key"),
    (verify(api_key="ü" * 2049), "api_key"),
    (verify(resource="a" * 129), "resource"),
    (verify(resource="a b"), "resource"),
    (verify(resource="a\n"), "resource"),
    (verify(required_permissions=["read"] * 33), "required_permissions"),
    (verify(required_permissions=["read", ""]), "required_permissions[1]"),
    (verify(required_permissions=["a" * 65]), "required_permissions[0]"),
    (verify(required_permissions=["a:*"]), "required_permissions[0]"),
    (verify(client_ip="192.0.2.1:80"), "client_ip"),
    (verify(client_ip="192.0.2.256"), "client_ip"),
    (verify(client_ip="[2001:db8::1]"), "client_ip"),
    (verify(client_ip="fe80::1%eth0"), "client_ip"),
    (verify(client_ip="192.0.2.0/24"), "client_ip"),
    (verify(client_ip="1" * 10_000), "client_ip"),
    (verify(charges={f"unit{index}": 1 for index in range(17)}), "charges"),
    (verify(charges={"tokens": -1}), 'charges["tokens"]'),
    (verify(charges={"tokens": 10**15 + 1}), 'charges["tokens"]'),
    (verify(charges={"": 1}), "charges"),
    (verify(charges={"Tokens": 1}), "charges"),
    (verify(charges={"u" * 33: 1}), "charges"),
    (verify(min_revision=-1), "min_revision"),
    (verify(request_id="r" * 65), "request_id"),
    (verify(request_id="a b"), "request_id"),
    (verify(tenant_id="Acme"), "tenant_id"),
    (verify(tenant_id="-acme"), "tenant_id"),
    (verify(tenant_id="a" * 65), "tenant_id"),
    (batch(0), "requests"),
    (batch(1001), "requests"),
    (check_quota(), "subject"),
    (check_quota(key_id=""), "key_id"),
    (check_quota(key_id="key_1"), "key_id"),
    (check_quota(api_key=""), "api_key"),
    (check_quota(api_key="x" * 4097), "api_key"),
    (check_quota(owner_id=""), "owner_id"),
    (check_quota(owner_id="o" * 129), "owner_id"),
    (check_quota(key_id=KEY_ID, charges={"tokens": -1}), 'charges["tokens"]'),
    (check_quota(key_id=KEY_ID, tenant_id="_"), "tenant_id"),
    (create(name="n" * 129), "name"),
    (create(name="a\0b"), "name"),
    (create(description="d" * 1025), "description"),
    (create(owner_id="o" * 129), "owner_id"),
    (create(owner_id="a b"), "owner_id"),
    (create(environment="e" * 65), "environment"),
    (create(environment="a/b"), "environment"),
    (create(permissions=["p"] * 101), "permissions"),
    (create(permissions=["read", "p" * 65]), "permissions[1]"),
    (create(permissions=["ü"]), "permissions[0]"),
    (create(resources=["r"] * 101), "resources"),
    (create(resources=["", "ok"]), "resources[0]"),
    (create(resources=["r" * 129]), "resources[0]"),
    (create(allowed_cidrs=[f"10.0.{index}.0/24" for index in range(101)]), "allowed_cidrs"),
    (create(allowed_cidrs=["10.0.0.1/8"]), "allowed_cidrs[0]"),
    (create(allowed_cidrs=["10.0.0.0"]), "allowed_cidrs[0]"),
    (create(allowed_cidrs=["10.0.0.0/33"]), "allowed_cidrs[0]"),
    (create(allowed_cidrs=["10.0.0.0/255.0.0.0"]), "allowed_cidrs[0]"),
    (create(allowed_cidrs=["10.0.0.0/8", "2001:db8::/129"]), "allowed_cidrs[1]"),
    (create(allowed_cidrs=["::ffff:10.0.0.0/104"]), "allowed_cidrs[0]"),
    (create(allowed_cidrs=["fe80::%eth0/64"]), "allowed_cidrs[0]"),
    (create(allowed_cidrs=["10.0.0.0/8", "10.1.0.0/16"]), "allowed_cidrs[1]"),
    (create(allowed_cidrs=["10.1.0.0/16", "192.0.2.0/24", "10.0.0.0/8"]), "allowed_cidrs[0]"),
    (create(allowed_cidrs=["10.0.0.0/8", "10.0.0.0/8"]), "allowed_cidrs[1]"),
    (create(allowed_cidrs=["2001:db8::/32", "2001:db8:1::/48"]), "allowed_cidrs[1]"),
    (create(expires_at=Timestamp(seconds=253_402_300_800)), "expires_at"),
    (create(expires_at=Timestamp(nanos=-1)), "expires_at"),
    (create(expires_at=Timestamp(nanos=10**9)), "expires_at"),
    (create(ttl=Duration()), "ttl"),
    (create(ttl=Duration(seconds=0, nanos=999_999_999)), "ttl"),
    (create(ttl=Duration(seconds=CENTURY, nanos=1)), "ttl"),
    (create(ttl=Duration(seconds=2, nanos=-1)), "ttl"),
    (create(ttl=Duration(seconds=2, nanos=10**9)), "ttl"),
    (create(prefix="1a"), "prefix"),
    (create(prefix="a__b"), "prefix"),
    (create(prefix="a_"), "prefix"),
    (create(prefix="p" * 21), "prefix"),
    (create(prefix="1a", length=1), "prefix"),
    (create(prefix="tk", length=36), "length"),
    (create(length=129), "length"),
    (create(length=-1), "length"),
    (create(prefix="tkx", length=37), "length"),
    (create(request_id="a/b"), "request_id"),
    (create(tenant_id="a b"), "tenant_id"),
    (with_metadata({"x": "y" * 4089}), "metadata"),
    (with_metadata({"x": math.nan}), "metadata"),
    (with_metadata({"x": [-math.inf]}), "metadata"),
    (with_metadata({"x": "a\0b"}), "metadata"),
    (with_metadata({"a\0b": 1}), "metadata"),
    (with_limit(name=""), "limits[0].name"),
    (with_limit(name="A"), "limits[0].name"),
    (with_limit(name="_a"), "limits[0].name"),
    (with_limit(name="n" * 65), "limits[0].name"),
    (with_limit(kind=0), "limits[0].kind"),
    (with_limit(kind=17), "limits[0].kind"),
    (with_limit(unit="u" * 33), "limits[0].unit"),
    (with_limit(unit="Tokens"), "limits[0].unit"),
    (with_limit(amount=-1), "limits[0].amount"),
    (with_limit(amount=10**15 + 1), "limits[0].amount"),
    (with_limit(window=Duration(seconds=0)), "limits[0].window"),
    (with_limit(window=Duration(seconds=1, nanos=1)), "limits[0].window"),
    (with_limit(window=Duration(seconds=366 * DAY + 1)), "limits[0].window"),
    (with_limit(window=None), "limits[0].window"),
    (with_limit(kind=QUOTA, window=None), "limits[0].window"),
    (with_limit(kind=QUOTA, calendar=MONTH, window=Duration(seconds=1)), "limits[0].window"),
    (with_limit(calendar=MONTH, window=Duration(seconds=1)), "limits[0].calendar"),
    (with_limit(kind=QUOTA, calendar=9), "limits[0].calendar"),
    (with_limit(kind=QUOTA, calendar=MONTH, time_zone="Europe/Nowhere"), "limits[0].time_zone"),
    (with_limit(kind=QUOTA, calendar=MONTH, time_zone="../etc/passwd"), "limits[0].time_zone"),
    (with_limit(kind=QUOTA, calendar=MONTH, time_zone="/etc/localtime"), "limits[0].time_zone"),
    (with_limit(kind=QUOTA, calendar=MONTH, time_zone="Europe"), "limits[0].time_zone"),
    (with_limit(kind=QUOTA, calendar=MONTH, time_zone="localtime"), "limits[0].time_zone"),
    (with_limit(kind=QUOTA, calendar=MONTH, time_zone="a\0b"), "limits[0].time_zone"),
    (with_limit(kind=QUOTA, calendar=MONTH, time_zone="x" * 5000), "limits[0].time_zone"),
    (with_limit(kind=QUOTA, time_zone="Europe/Berlin"), "limits[0].time_zone"),
    (with_limit(anchor=Timestamp()), "limits[0].anchor"),
    (with_limit(kind=QUOTA, calendar=MONTH, anchor=Timestamp()), "limits[0].anchor"),
    (with_limit(kind=QUOTA, anchor=Timestamp(nanos=-1)), "limits[0].anchor"),
    (
        create(limits=[Limit(name=name, kind=RATE, amount=1, window=Duration(seconds=1)) for name in ("a", "b", "a")]),
        "limits[2].name",
    ),
    (
        create(limits=[Limit(name=f"l{i}", kind=RATE, amount=1, window=Duration(seconds=1)) for i in range(17)]),
        "limits",
    ),
    (key_service_pb2.GetKeyRequest(), "key_id"),
    (key_service_pb2.GetKeyRequest(key_id="key_" + "!" * 22), "key_id"),
    (key_service_pb2.GetKeyRequest(key_id=KEY_ID + "0"), "key_id"),
    (list_keys(owner_id="o" * 129), "owner_id"),
    (list_keys(environment="e" * 65), "environment"),
    (list_keys(state=5), "state"),
    (list_keys(state=-1), "state"),
    (list_keys(prefix="_"), "prefix"),
    (list_keys(page_size=-1), "page_size"),
    (list_keys(page_token="not one of ours"), "page_token"),
    (list_keys(page_token="a" * 513), "page_token"),
    (list_keys(tenant_id="ACME"), "tenant_id"),
    (list_keys(expires_before=Timestamp(nanos=-1)), "expires_before"),
    (list_keys(created_before=Timestamp(nanos=-1)), "created_before"),
    (list_keys(api_key_created_before=Timestamp(nanos=-1)), "api_key_created_before"),
    (update([]), "update_mask"),
    (update(["owner_id"]), "update_mask"),
    (update(["name", "name"]), "update_mask"),
    (update(["key.name"]), "update_mask"),
    (update(["name"], key_id=""), "key.key_id"),
    (update(["name"], etag="W/1"), "key.etag"),
    (update(["name"], name="n" * 129), "key.name"),
    (update(["description"], description="d" * 1025), "key.description"),
    (update(["permissions"], permissions=["ok", "not ok"]), "key.permissions[1]"),
    (update(["resources"], resources=["r" * 129]), "key.resources[0]"),
    (update(["allowed_cidrs"], allowed_cidrs=["10.0.0.0/8", "10.1.0.0/16"]), "key.allowed_cidrs[1]"),
    (update(["limits"], limits=[Limit(name="x", kind=RATE, amount=1)]), "key.limits[0].window"),
    (update(["metadata"], metadata={"x": "y" * 4089}), "key.metadata"),
    (update(["expires_at"], expires_at=Timestamp(nanos=-1)), "key.expires_at"),
    (key_service_pb2.UpdateKeyRequest(update_mask=FieldMask(paths=["name"])), "key.key_id"),
    (key_service_pb2.DisableKeyRequest(), "key_id"),
    (key_service_pb2.EnableKeyRequest(key_id="x"), "key_id"),
    (key_service_pb2.EndOverlapRequest(key_id=KEY_ID, request_id=" "), "request_id"),
    (rotate(key_id=""), "key_id"),
    (rotate(overlap=Duration(nanos=-1)), "overlap"),
    (rotate(overlap=Duration(seconds=366 * DAY, nanos=1)), "overlap"),
    (revoke(), "subject"),
    (revoke(key_id="tk_x"), "key_id"),
    (revoke(api_key=""), "api_key"),
    (revoke(api_key="x" * 4097), "api_key"),
    (revoke(key_id=KEY_ID, reason=6), "reason"),
    (revoke(key_id=KEY_ID, comment="c" * 513), "comment"),
    (revoke(key_id=KEY_ID, comment="\0"), "comment"),
    (revoke(key_id=KEY_ID, request_id=" "), "request_id"),
    (get_usage(), "subject"),
    (get_usage(key_id="key_1"), "key_id"),
    (get_usage(owner_id=""), "owner_id"),
    (get_usage(key_id=KEY_ID, start_time=Timestamp(nanos=-1)), "start_time"),
    (get_usage(key_id=KEY_ID, end_time=Timestamp(seconds=253_402_300_800)), "end_time"),
    (get_usage(key_id=KEY_ID, granularity=4), "granularity"),
    (get_usage(key_id=KEY_ID, granularity=-1), "granularity"),
    (get_usage(owner_id="o", tenant_id="ACME"), "tenant_id"),
    (list_findings(key_id=""), "key_id"),
    (list_findings(owner_id="o" * 129), "owner_id"),
    (list_findings(start_time=Timestamp(nanos=10**9)), "start_time"),
    (list_findings(end_time=Timestamp(nanos=-1)), "end_time"),
    (list_findings(page_size=-1), "page_size"),
    (list_findings(page_token=" "), "page_token"),
    (list_findings(tenant_id="-"), "tenant_id"),
    (list_audit_events(key_id="key_1"), "key_id"),
    (list_audit_events(owner_id="o" * 129), "owner_id"),
    (list_audit_events(actor="a" * 129), "actor"),
    (list_audit_events(actor="a\0"), "actor"),
    (list_audit_events(action="Create Key"), "action"),
    (list_audit_events(action="A" * 65), "action"),
    (list_audit_events(start_time=Timestamp(nanos=-1)), "start_time"),
    (list_audit_events(end_time=Timestamp(seconds=2**40)), "end_time"),
    (list_audit_events(page_size=-1), "page_size"),
    (list_audit_events(page_token="+"), "page_token"),
    (list_audit_events(tenant_id="A"), "tenant_id"),
    (revoke_keys(), "owner_id"),
    (revoke_keys(owner_id="a b"), "owner_id"),
    (revoke_keys(owner_id="o", reason=6), "reason"),
    (revoke_keys(owner_id="o", comment="c" * 513), "comment"),
    (revoke_keys(owner_id="o", request_id="r" * 65), "request_id"),
    (revoke_keys(owner_id="o", tenant_id="A"), "tenant_id"),
    (key_service_pb2.GetOwnerRequest(), "owner_id"),
    (key_service_pb2.GetOwnerRequest(owner_id="o", tenant_id="A"), "tenant_id"),
    (set_owner(owner_id=""), "owner.owner_id"),
    (key_service_pb2.SetOwnerRequest(), "owner.owner_id"),
    (set_owner(display_name="n" * 129), "owner.display_name"),
    (set_owner(limits=[Limit(name="x", kind=RATE, amount=1)]), "owner.limits[0].window"),
    (set_owner(metadata={"x": "y" * 4089}), "owner.metadata"),
    (set_owner(etag="W/1"), "owner.etag"),
    (imports(0), "keys"),
    (imports(1001), "keys"),
    (imports(1, request_id=" "), "request_id"),
    (imports(1, tenant_id="A"), "tenant_id"),
    (import_key(), "credential"),
    (import_key(raw_api_key="x" * 15), "raw_api_key"),
    (import_key(raw_api_key="x" * 4097), "raw_api_key"),
    (import_key(sha256_hex="0" * 63), "sha256_hex"),
    (import_key(sha256_hex="g" * 64), "sha256_hex"),
    (import_key(sha256_base64url="A" * 44), "sha256_base64url"),
    (import_key(sha256_base64url="A" * 42 + "B"), "sha256_base64url"),
    (import_key(sha512_hex="0" * 64), "sha512_hex"),
    (hmac("0" * 63), "hmac_sha256.hex"),
    (hmac("0" * 64, 0), "hmac_sha256.pepper_version"),
    (hmac("0" * 64, 65_536), "hmac_sha256.pepper_version"),
    (import_key(raw_api_key="x" * 16, key=create(name="n" * 129)), "key.name"),
    (import_key(raw_api_key="x" * 16, key=create(prefix="tk")), "key.prefix"),
    (import_key(raw_api_key="x" * 16, key=create(length=64)), "key.length"),
    (import_key(raw_api_key="x" * 16, key=create(request_id="r")), "key.request_id"),
    (import_key(raw_api_key="x" * 16, key=create(tenant_id="acme")), "key.tenant_id"),
    (leaked(0), "leaked_keys"),
    (leaked(1001), "leaked_keys"),
    (leaked(api_key=""), "leaked_keys[0].api_key"),
    (leaked(api_key="x" * 4097), "leaked_keys[0].api_key"),
    (leaked(url="u" * 1025), "leaked_keys[0].url"),
    (leaked(source="s" * 65), "leaked_keys[0].source"),
    (
        key_service_pb2.ReportLeakedKeysRequest(leaked_keys=[key_service_pb2.LeakedKey(api_key="x")], request_id=" "),
        "request_id",
    ),
]
