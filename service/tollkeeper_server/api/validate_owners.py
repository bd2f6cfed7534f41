"""What requests about owners, and all keys of one, may contain."""

from tollkeeper.v1 import key_service_pb2
from tollkeeper_server.api import fields
from tollkeeper_server.api.rules import Rules, anything, text
from tollkeeper_server.api.validate_keys import revoke_reason
from tollkeeper_server.api.validate_limits import limits

REVOKE_KEYS = Rules(
    key_service_pb2.RevokeKeysRequest,
    {
        "owner_id": fields.owner_id,
        "reason": revoke_reason,
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
        "limits": limits,
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
