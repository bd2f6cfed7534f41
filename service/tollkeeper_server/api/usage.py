"""UsageService: who uses what."""

from tollkeeper.v1 import usage_service_pb2 as pb
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.convert_usage import (
    finding_page_response,
    get_usage_from,
    list_findings_from,
    usage_response,
)
from tollkeeper_server.api.handler import rpc
from tollkeeper_server.api.validate_reports import GET_USAGE, LIST_FINDINGS
from tollkeeper_server.core.caller import CallerPermission
from tollkeeper_server.usage.service import UsageService


class UsageServicer:
    """Checks and converts what is asked about usage; the UsageService reads it."""

    def __init__(self, *, usage: UsageService) -> None:
        self._usage = usage

    @rpc(CallerPermission.USAGE_READ)
    async def GetUsage(self, request: pb.GetUsageRequest, call: Call) -> pb.GetUsageResponse:
        """Read the usage of a key or an owner."""
        GET_USAGE.check(request)
        return usage_response(await self._usage.get_usage(call.caller, get_usage_from(request)))

    @rpc(CallerPermission.USAGE_READ)
    async def ListFindings(self, request: pb.ListFindingsRequest, call: Call) -> pb.ListFindingsResponse:
        """Read a page of what was unusual."""
        LIST_FINDINGS.check(request)
        return finding_page_response(await self._usage.list_findings(call.caller, list_findings_from(request)))
