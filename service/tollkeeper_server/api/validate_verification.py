"""What requests of VerificationService may contain."""

from tollkeeper.v1 import verification_service_pb2
from tollkeeper_server.api import fields
from tollkeeper_server.api.rules import NONE, Problems, Rules, anything, between, each, exactly_one, matching, nested
from tollkeeper_server.core.limits import AMOUNT_MAX

KEEP_MAX = 10_000
USES_MAX = 1000
INT64_MAX = 2**63 - 1


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
    {"requests": each(anything, at_least=1, at_most=fields.BATCH_MAX)},
)

VERIFY_STREAM = Rules(
    verification_service_pb2.VerifyStreamRequest,
    {"batch_id": anything, "requests": each(anything, at_least=1, at_most=fields.BATCH_MAX)},
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
