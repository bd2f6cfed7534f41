"""UsageService: who uses what."""

from tollkeeper_server.api import not_yet
from tollkeeper_server.core.caller import CallerPermission


class UsageServicer:
    """Reads usage."""

    GetUsage = not_yet.unary_rpc(CallerPermission.USAGE_READ)
    ListFindings = not_yet.unary_rpc(CallerPermission.USAGE_READ)
