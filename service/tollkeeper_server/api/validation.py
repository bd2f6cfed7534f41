"""What each request may contain: the bounds that the contract's comments promise, one table per message."""

from collections.abc import Sequence

from google.protobuf.field_mask_pb2 import FieldMask

from tollkeeper.v1 import (
    audit_service_pb2,
    key_pb2,
    key_service_pb2,
    limit_pb2,
    usage_service_pb2,
    verification_service_pb2,
)
from tollkeeper_server.api import fields
from tollkeeper_server.api.rules import (
    NONE,
    Problems,
    Rules,
    anything,
    between,
    each,
    exactly_one,
    matching,
    moment,
    nested,
    one_of,
    span,
    text,
)
from tollkeeper_server.core.credential import PREFIX_DEFAULT, length_bounds
from tollkeeper_server.core.limits import AMOUNT_MAX, LIMITS_MAX, WINDOW_SECONDS_MAX
from tollkeeper_server.keys.commands import UPDATABLE

BATCH_MAX = 1000
KEEP_MAX = 10_000
USES_MAX = 1000
CENTURY_SECONDS = 36_525 * 86_400
INT32_MAX = 2**31 - 1
PEPPER_VERSION_MAX = 65_535
INT64_MAX = 2**63 - 1


def _limit_window(limit: limit_pb2.Limit) -> Problems:
    """RATE takes a window alone, QUOTA and SPEND a window or a calendar."""
    is_rate = limit.kind == limit_pb2.LIMIT_KIND_RATE
    has_calendar = limit.calendar != limit_pb2.CALENDAR_WINDOW_UNSPECIFIED
    found: list[tuple[str, str]] = []
    if is_rate and not limit.HasField("window"):
        found.append(("window", "must be given for RATE"))
    if is_rate and has_calendar:
        found.append(("calendar", "must be unset for RATE"))
    if not is_rate and limit.HasField("window") == has_calendar:
        found.append(("window", "must be given, or calendar, and not both"))
    if limit.HasField("anchor") and (is_rate or has_calendar):
        found.append(("anchor", "must be unset but with the window of a QUOTA or SPEND limit"))
    if limit.time_zone and not has_calendar:
        found.append(("time_zone", "must be empty without calendar"))
    return found


LIMIT = Rules(
    limit_pb2.Limit,
    {
        "name": matching(
            r"[a-z0-9][a-z0-9_.-]{0,63}",
            'must be 1 to 64 of a-z, 0-9, "_", "-" and ".", starting with a letter or digit',
        ),
        "kind": one_of((1, 2, 3), "RATE, QUOTA or SPEND"),
        "unit": matching(fields.UNIT_PATTERN, fields.UNIT_ALLOWED, or_empty=True),
        "amount": fields.amount,
        "window": span(
            shortest_seconds=1,
            longest_seconds=WINDOW_SECONDS_MAX,
            whole_seconds=True,
            allowed="must be 1 second to 366 days, a whole number of seconds",
        ),
        "calendar": one_of(limit_pb2.CalendarWindow.values(), "DAY, WEEK or MONTH, or unset"),
        "time_zone": fields.time_zone,
        "anchor": moment,
        "shadow": anything,
    },
    across=[_limit_window],
)

_each_limit = each(nested(LIMIT), at_most=LIMITS_MAX)


def _limits(limits: Sequence[limit_pb2.Limit]) -> Problems:
    found = list(_each_limit(limits))
    first: dict[str, int] = {}
    for index, limit in enumerate(limits[:LIMITS_MAX]):
        if limit.name and first.setdefault(limit.name, index) != index:
            found.append((f"[{index}].name", f"must be unique, and is that of limits[{first[limit.name]}]"))
    return found


def _length(request: key_service_pb2.CreateKeyRequest) -> Problems:
    if not request.length or fields.prefix(request.prefix):
        return NONE
    shortest, longest = length_bounds(request.prefix or PREFIX_DEFAULT)
    if shortest <= request.length <= longest:
        return NONE
    return (("length", f"must be {shortest} to {longest} with this prefix, or 0"),)


def _keep(request: verification_service_pb2.VerifyRequest) -> Problems:
    """What is held for an amount that comes later, or decided in vain, answers no other verification."""
    if request.keep and (request.reserve or request.dry_run):
        return [("keep", "must be 0 with reserve and with dry_run")]
    return NONE


VERIFY = Rules(
    verification_service_pb2.VerifyRequest,
    {
        "api_key": fields.api_key,
        "resource": fields.resource_or_empty,
        "required_permissions": each(fields.required_permission, at_most=32),
        "client_ip": fields.client_ip,
        "charges": fields.charges,
        "reserve": anything,
        "dry_run": anything,
        "min_revision": between(0, INT64_MAX),
        "request_id": fields.request_id,
        "tenant_id": fields.tenant_id,
        "keep": between(0, KEEP_MAX),
    },
    across=[_keep],
)

BATCH_VERIFY = Rules(
    verification_service_pb2.BatchVerifyRequest,
    # What is wrong with one question is the answer to that one alone.
    {"requests": each(anything, at_least=1, at_most=BATCH_MAX)},
)

VERIFY_STREAM = Rules(
    verification_service_pb2.VerifyStreamRequest,
    {"batch_id": anything, "requests": each(anything, at_least=1, at_most=BATCH_MAX)},
)

CHECK_QUOTA = Rules(
    verification_service_pb2.CheckQuotaRequest,
    {
        "key_id": fields.key_id,
        "api_key": fields.given_api_key,
        "owner_id": fields.owner_id,
        "charges": fields.charges,
        "tenant_id": fields.tenant_id,
    },
    across=[exactly_one("subject", "key_id, api_key and owner_id")],
)

SETTLE = Rules(
    verification_service_pb2.SettleRequest,
    {
        "reservation_id": matching(r"[A-Za-z0-9_-]{1,64}", "must be as VerifyResponse gave it"),
        "charges": fields.charges,
        "verifications": between(0, KEEP_MAX),
    },
)

_KEPT_USE = Rules(
    verification_service_pb2.KeptUse,
    {"key_id": fields.key_id, "verifications": between(1, AMOUNT_MAX), "charges": fields.charges},
)

WATCH_INVALIDATIONS = Rules(
    verification_service_pb2.WatchInvalidationsRequest,
    {
        "acknowledged_revision": between(0, INT64_MAX),
        "renewal": between(0, INT64_MAX),
        "uses": each(nested(_KEPT_USE), at_most=USES_MAX),
    },
)

CREATE_KEY = Rules(
    key_service_pb2.CreateKeyRequest,
    {
        "name": text(at_most=128),
        "description": text(at_most=1024),
        "owner_id": fields.owner_id_or_empty,
        "environment": fields.environment,
        "permissions": fields.words(characters_max=64),
        "resources": fields.words(characters_max=128),
        "allowed_cidrs": fields.allowed_cidrs,
        "limits": _limits,
        "metadata": fields.metadata,
        "expires_at": moment,
        "ttl": span(shortest_seconds=1, longest_seconds=CENTURY_SECONDS, allowed="must be 1 second to 100 years"),
        "prefix": fields.prefix,
        "length": anything,  # its bounds depend on `prefix`
        "request_id": fields.request_id,
        "tenant_id": fields.tenant_id,
    },
    across=[_length],
)

GET_KEY = Rules(key_service_pb2.GetKeyRequest, {"key_id": fields.key_id})

UPDATED_KEY = Rules(
    key_pb2.Key,
    {
        "name": text(at_most=128),
        "description": text(at_most=1024),
        "permissions": fields.words(characters_max=64),
        "resources": fields.words(characters_max=128),
        "allowed_cidrs": fields.allowed_cidrs,
        "limits": _limits,
        "metadata": fields.metadata,
        "expires_at": moment,
    },
)


def _updated_key(request: key_service_pb2.UpdateKeyRequest) -> Problems:
    """The fields of the key that are to change, its key_id and its etag; the others are not looked at."""
    named, values = key_pb2.Key(), request.key
    FieldMask(paths=[path for path in request.update_mask.paths if path in UPDATABLE]).MergeMessage(values, named)
    found = [(f"key.{path}", allowed) for path, allowed in UPDATED_KEY.problems(named)]
    found += [(f"key.key_id{path}", allowed) for path, allowed in fields.key_id(request.key.key_id)]
    found += [(f"key.etag{path}", allowed) for path, allowed in fields.etag(request.key.etag)]
    return found


UPDATE_KEY = Rules(
    key_service_pb2.UpdateKeyRequest,
    {"key": anything, "update_mask": fields.field_mask(UPDATABLE), "request_id": fields.request_id},
    across=[_updated_key],
)

_NAMED_KEY = {"key_id": fields.key_id, "request_id": fields.request_id}

DISABLE_KEY = Rules(key_service_pb2.DisableKeyRequest, _NAMED_KEY)
ENABLE_KEY = Rules(key_service_pb2.EnableKeyRequest, _NAMED_KEY)
END_OVERLAP = Rules(key_service_pb2.EndOverlapRequest, _NAMED_KEY)

ROTATE_KEY = Rules(
    key_service_pb2.RotateKeyRequest,
    {
        **_NAMED_KEY,
        "overlap": span(shortest_seconds=0, longest_seconds=WINDOW_SECONDS_MAX, allowed="must be 0 to 366 days"),
    },
)

LIST_KEYS = Rules(
    key_service_pb2.ListKeysRequest,
    {
        "owner_id": fields.owner_id_or_empty,
        "environment": fields.environment,
        "state": one_of(key_pb2.KeyState.values(), "ACTIVE, DISABLED, EXPIRED or REVOKED, or unset"),
        "prefix": fields.prefix,
        "page_size": between(0, INT32_MAX),
        "page_token": matching(r"[A-Za-z0-9_=-]{0,512}", "must be empty, or the next_page_token of the page before"),
        "tenant_id": fields.tenant_id,
        "expires_before": moment,
        "created_before": moment,
        "api_key_created_before": moment,
    },
)

_revoke_reason = one_of(
    key_pb2.RevokeReason.values(), "COMPROMISED, SUPERSEDED, UNUSED, OWNER_LEFT or POLICY_VIOLATION, or unset"
)

REVOKE_KEY = Rules(
    key_service_pb2.RevokeKeyRequest,
    {
        "key_id": fields.key_id,
        "api_key": fields.given_api_key,
        "reason": _revoke_reason,
        "comment": text(at_most=512),
        "request_id": fields.request_id,
    },
    across=[exactly_one("subject", "key_id and api_key")],
)

GET_USAGE = Rules(
    usage_service_pb2.GetUsageRequest,
    {
        "key_id": fields.key_id,
        "owner_id": fields.owner_id,
        "start_time": moment,
        "end_time": moment,  # how far behind `start_time` depends on the clock where either is absent
        "granularity": one_of(usage_service_pb2.UsageGranularity.values(), "MINUTE, HOUR or DAY, or unset"),
        "tenant_id": fields.tenant_id,
    },
    across=[exactly_one("subject", "key_id and owner_id")],
)

LIST_FINDINGS = Rules(
    usage_service_pb2.ListFindingsRequest,
    {
        "key_id": fields.key_id,
        "owner_id": fields.owner_id,
        "start_time": moment,
        "end_time": moment,
        "page_size": between(0, INT32_MAX),
        "page_token": matching(r"[A-Za-z0-9_=-]{0,512}", "must be empty, or the next_page_token of the page before"),
        "tenant_id": fields.tenant_id,
    },
)

LIST_AUDIT_EVENTS = Rules(
    audit_service_pb2.ListAuditEventsRequest,
    {
        "key_id": fields.key_id_or_empty,
        "owner_id": fields.owner_id_or_empty,
        "actor": text(at_most=128),
        "action": matching(r"[A-Za-z]{0,64}", 'must be the name of a call, as "CreateKey", or empty'),
        "start_time": moment,
        "end_time": moment,
        "page_size": between(0, INT32_MAX),
        "page_token": matching(r"[A-Za-z0-9_=-]{0,512}", "must be empty, or the next_page_token of the page before"),
        "tenant_id": fields.tenant_id,
    },
)

REVOKE_KEYS = Rules(
    key_service_pb2.RevokeKeysRequest,
    {
        "owner_id": fields.owner_id,
        "reason": _revoke_reason,
        "comment": text(at_most=512),
        "request_id": fields.request_id,
        "tenant_id": fields.tenant_id,
    },
)

GET_OWNER = Rules(key_service_pb2.GetOwnerRequest, {"owner_id": fields.owner_id, "tenant_id": fields.tenant_id})

_OWNER = Rules(
    key_service_pb2.Owner,
    {
        "owner_id": fields.owner_id,
        "display_name": text(at_most=128),
        "limits": _limits,
        "metadata": fields.metadata,
        "etag": fields.etag,
        **dict.fromkeys(("tenant_id", "suspended", "created_at", "updated_at", "revision"), anything),
    },
)

SET_OWNER = Rules(
    key_service_pb2.SetOwnerRequest,
    {"owner": anything, "request_id": fields.request_id, "tenant_id": fields.tenant_id},
    across=[lambda request: [(f"owner.{path}", allowed) for path, allowed in _OWNER.problems(request.owner)]],
)


def _left_empty(request: key_service_pb2.CreateKeyRequest) -> Problems:
    """What an imported key has not, or what is said once for all of them."""
    named = ("prefix", "length", "request_id", "tenant_id")
    return [(f"key.{name}", "must be empty") for name in named if getattr(request, name)]


def _imported_key(item: key_service_pb2.ImportKey) -> Problems:
    return [
        *((f"key.{path}", allowed) for path, allowed in CREATE_KEY.problems(item.key)),
        *_left_empty(item.key),
    ]


HMAC_DIGEST = Rules(
    key_service_pb2.HmacDigest, {"hex": fields.hex_digest(64), "pepper_version": between(1, PEPPER_VERSION_MAX)}
)

IMPORT_KEY = Rules(
    key_service_pb2.ImportKey,
    {
        "key": anything,  # looked at below, also where it is left out
        "raw_api_key": fields.raw_api_key,
        "sha256_hex": fields.hex_digest(64),
        "sha256_base64url": fields.sha256_base64url,
        "sha512_hex": fields.hex_digest(128),
        "hmac_sha256": nested(HMAC_DIGEST),
    },
    across=[
        _imported_key,
        exactly_one("credential", "raw_api_key, sha256_hex, sha256_base64url, sha512_hex and hmac_sha256"),
    ],
)

IMPORT_KEYS = Rules(
    key_service_pb2.ImportKeysRequest,
    {
        # What is wrong with one key is the answer to that one alone.
        "keys": each(anything, at_least=1, at_most=BATCH_MAX),
        "request_id": fields.request_id,
        "tenant_id": fields.tenant_id,
    },
)

LEAKED_KEY = Rules(
    key_service_pb2.LeakedKey,
    {"api_key": fields.given_api_key, "url": text(at_most=1024), "source": text(at_most=64)},
)

REPORT_LEAKED_KEYS = Rules(
    key_service_pb2.ReportLeakedKeysRequest,
    {
        "leaked_keys": each(nested(LEAKED_KEY), at_least=1, at_most=BATCH_MAX),
        "request_id": fields.request_id,
    },
)
