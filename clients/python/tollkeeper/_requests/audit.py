"""What the AuditService is asked."""

from datetime import datetime

from tollkeeper._requests import values
from tollkeeper.v1 import audit_service_pb2 as pb


def list_audit_events(
    *,
    key_id: str,
    owner_id: str,
    actor: str,
    action: str,
    start_time: datetime | None,
    end_time: datetime | None,
    page_size: int,
    page_token: str,
    tenant_id: str | None,
) -> pb.ListAuditEventsRequest:
    """Which events to list; empty filters match every event."""
    return pb.ListAuditEventsRequest(
        key_id=key_id,
        owner_id=owner_id,
        actor=actor,
        action=action,
        start_time=values.timestamp(start_time, "start_time"),
        end_time=values.timestamp(end_time, "end_time"),
        page_size=page_size,
        page_token=page_token,
        tenant_id=tenant_id or "",
    )
