"""What may be asked of usage, findings and the audit log."""

from tollkeeper.v1 import audit_service_pb2, usage_service_pb2
from tollkeeper_server.api import fields
from tollkeeper_server.api.rules import Rules, exactly_one, matching, moment, one_of, text

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
        **fields.PAGE,
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
        **fields.PAGE,
        "tenant_id": fields.tenant_id,
    },
)
