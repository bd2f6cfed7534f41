"""What the AuditService answers."""

from tollkeeper._audit import AuditEvent, AuditPage
from tollkeeper._results import values
from tollkeeper.v1 import audit_service_pb2 as pb


def audit_page(response: pb.ListAuditEventsResponse) -> AuditPage:
    """One page of the audit log."""
    return AuditPage(events=tuple(map(audit_event, response.events)), next_page_token=response.next_page_token)


def audit_event(event: pb.AuditEvent) -> AuditEvent:
    """One event."""
    return AuditEvent(
        tenant_id=event.tenant_id,
        sequence=event.sequence,
        occurred_at=values.time(event.occurred_at),
        actor=event.actor,
        actor_ip=event.actor_ip,
        action=event.action,
        key_id=event.key_id,
        owner_id=event.owner_id,
        request_id=event.request_id,
        revision=event.revision,
        before=values.plain(event.before) if event.HasField("before") else None,
        after=values.plain(event.after) if event.HasField("after") else None,
        hash=event.hash,
    )
