"""What the UsageService is asked."""

from datetime import datetime

from tollkeeper._requests import values
from tollkeeper._usage import Granularity
from tollkeeper.v1 import usage_service_pb2 as pb


def get_usage(
    *,
    key_id: str | None,
    owner_id: str | None,
    start_time: datetime | None,
    end_time: datetime | None,
    granularity: Granularity,
    tenant_id: str | None,
) -> pb.GetUsageRequest:
    """Whose usage, and when."""
    return pb.GetUsageRequest(
        **values.exactly_one(key_id=key_id, owner_id=owner_id),
        start_time=values.timestamp(start_time, "start_time"),
        end_time=values.timestamp(end_time, "end_time"),
        granularity=pb.UsageGranularity.Value(f"USAGE_GRANULARITY_{granularity.name}"),
        tenant_id=tenant_id or "",
    )


def list_findings(
    *,
    key_id: str | None,
    owner_id: str | None,
    start_time: datetime | None,
    end_time: datetime | None,
    page_size: int,
    page_token: str,
    tenant_id: str | None,
) -> pb.ListFindingsRequest:
    """Which findings; neither a key nor an owner means every key."""
    return pb.ListFindingsRequest(
        **values.at_most_one(key_id=key_id, owner_id=owner_id),
        start_time=values.timestamp(start_time, "start_time"),
        end_time=values.timestamp(end_time, "end_time"),
        page_size=page_size,
        page_token=page_token,
        tenant_id=tenant_id or "",
    )
