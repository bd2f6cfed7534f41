"""What requests about keys may contain."""

from google.protobuf.field_mask_pb2 import FieldMask

from tollkeeper.v1 import key_pb2, key_service_pb2
from tollkeeper_server.api import fields
from tollkeeper_server.api.rules import (
    NONE,
    Problems,
    Rule,
    Rules,
    anything,
    each,
    exactly_one,
    moment,
    nested,
    one_of,
    span,
    text,
)
from tollkeeper_server.api.validate_limits import limits
from tollkeeper_server.core.credential import PREFIX_DEFAULT, length_bounds
from tollkeeper_server.core.limits import WINDOW_SECONDS_MAX
from tollkeeper_server.keys.commands import UPDATABLE

CENTURY_SECONDS = 36_525 * 86_400


def _length(request: key_service_pb2.CreateKeyRequest) -> Problems:
    if not request.length or fields.prefix(request.prefix):
        return NONE
    shortest, longest = length_bounds(request.prefix or PREFIX_DEFAULT)
    if shortest <= request.length <= longest:
        return NONE
    return (("length", f"must be {shortest} to {longest} with this prefix, or 0"),)


_CHANGEABLE: dict[str, Rule] = {
    "name": text(at_most=128),
    "description": text(at_most=1024),
    "permissions": fields.words(characters_max=64),
    "resources": fields.words(characters_max=128),
    "allowed_cidrs": fields.allowed_cidrs,
    "limits": limits,
    "metadata": fields.metadata,
    "expires_at": moment,
}
"""What a key is created with and may be changed later."""

CREATE_KEY = Rules(
    key_service_pb2.CreateKeyRequest,
    {
        **_CHANGEABLE,
        "owner_id": fields.owner_id_or_empty,
        "environment": fields.environment,
        "ttl": span(shortest_seconds=1, longest_seconds=CENTURY_SECONDS, allowed="must be 1 second to 100 years"),
        "prefix": fields.prefix,
        "length": anything,  # its bounds depend on `prefix`
        "request_id": fields.request_id,
        "tenant_id": fields.tenant_id,
    },
    across=[_length],
)

GET_KEY = Rules(key_service_pb2.GetKeyRequest, {"key_id": fields.key_id})

UPDATED_KEY = Rules(key_pb2.Key, _CHANGEABLE)


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
        **fields.PAGE,
        "tenant_id": fields.tenant_id,
        "expires_before": moment,
        "created_before": moment,
        "api_key_created_before": moment,
    },
)

revoke_reason = one_of(
    key_pb2.RevokeReason.values(), "COMPROMISED, SUPERSEDED, UNUSED, OWNER_LEFT or POLICY_VIOLATION, or unset"
)

REVOKE_KEY = Rules(
    key_service_pb2.RevokeKeyRequest,
    {
        "key_id": fields.key_id,
        "api_key": fields.given_api_key,
        "reason": revoke_reason,
        "comment": text(at_most=512),
        "request_id": fields.request_id,
    },
    across=[exactly_one("subject", "key_id and api_key")],
)

LEAKED_KEY = Rules(
    key_service_pb2.LeakedKey,
    {"api_key": fields.given_api_key, "url": text(at_most=1024), "source": text(at_most=64)},
)

REPORT_LEAKED_KEYS = Rules(
    key_service_pb2.ReportLeakedKeysRequest,
    {
        "leaked_keys": each(nested(LEAKED_KEY), at_least=1, at_most=fields.BATCH_MAX),
        "request_id": fields.request_id,
    },
)
