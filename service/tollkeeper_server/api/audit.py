"""AuditService: who did what to which key."""

from tollkeeper_server.api import not_yet
from tollkeeper_server.core.caller import CallerPermission


class AuditServicer:
    """Reads the audit log."""

    ListAuditEvents = not_yet.unary_rpc(CallerPermission.AUDIT_READ)
