"""AuditService: who did what to which key."""

from tollkeeper.v1 import audit_service_pb2 as pb
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.convert_audit import audit_page_response, list_audit_events_from
from tollkeeper_server.api.handler import rpc
from tollkeeper_server.api.validate_reports import LIST_AUDIT_EVENTS
from tollkeeper_server.audit.service import AuditService
from tollkeeper_server.core.caller import CallerPermission


class AuditServicer:
    """Checks and converts what is asked of the audit log; the AuditService reads it."""

    def __init__(self, *, audit: AuditService) -> None:
        self._audit = audit

    @rpc(CallerPermission.AUDIT_READ)
    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, call: Call) -> pb.ListAuditEventsResponse:
        """Read a page of events."""
        LIST_AUDIT_EVENTS.check(request)
        return audit_page_response(await self._audit.list(call.caller, list_audit_events_from(request)))
