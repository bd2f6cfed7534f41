"""Audit events between the contract and the domain. All pure."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct

from tollkeeper.v1 import audit_service_pb2
from tollkeeper_server.api.convert import datetime_from, timestamp_from
from tollkeeper_server.audit.events import (
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    AuditEvent,
    AuditPage,
    ListAuditEvents,
)


def list_audit_events_from(request: audit_service_pb2.ListAuditEventsRequest) -> ListAuditEvents:
    """What a valid request asks for; a page size beyond the greatest means the greatest."""
    return ListAuditEvents(
        tenant_id=request.tenant_id,
        key_id=request.key_id,
        owner_id=request.owner_id,
        actor=request.actor,
        action=request.action,
        start_time=datetime_from(request.start_time) if request.HasField("start_time") else None,
        end_time=datetime_from(request.end_time) if request.HasField("end_time") else None,
        page_size=min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX),
        page_token=request.page_token,
    )


def audit_page_response(page: AuditPage) -> audit_service_pb2.ListAuditEventsResponse:
    """One page of events."""
    return audit_service_pb2.ListAuditEventsResponse(
        events=map(audit_event_message, page.events), next_page_token=page.next_page_token
    )


def audit_event_message(event: AuditEvent) -> audit_service_pb2.AuditEvent:
    """The event, with all that its hash covers."""
    return audit_service_pb2.AuditEvent(
        sequence=event.sequence,
        tenant_id=event.tenant_id,
        occurred_at=timestamp_from(event.occurred_at),
        actor=event.actor,
        actor_ip=event.actor_ip,
        action=event.action,
        key_id=event.key_id,
        owner_id=event.owner_id,
        request_id=event.request_id,
        revision=event.revision,
        before=_record(event.before),
        after=_record(event.after),
        hash=event.hash,
    )


def _record(fields: Mapping[str, Any] | None) -> Struct | None:
    """Unlike metadata, a record without fields is not the same as none."""
    if fields is None:
        return None
    struct = Struct()
    struct.update(fields)
    return struct
