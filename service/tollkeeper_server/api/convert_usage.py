"""Usage and what is asked about it, between the contract and the domain. All pure."""

from collections.abc import Sequence

from tollkeeper.v1 import usage_service_pb2 as pb
from tollkeeper_server.api.convert import datetime_from, enum_map, timestamp_from
from tollkeeper_server.api.convert_verification import DECISION_CODES
from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.usage.queries import (
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    FindingKind,
    FindingPage,
    GetUsage,
    Granularity,
    ListFindings,
    UsageBucket,
)

FINDING_KINDS = enum_map(FindingKind, pb.FindingKind, prefix="FINDING_KIND_")
GRANULARITIES = {each: pb.UsageGranularity.Value(f"USAGE_GRANULARITY_{each.name}") for each in Granularity}

_GRANULARITIES_BY_NUMBER = {number: granularity for granularity, number in GRANULARITIES.items()}


def get_usage_from(request: pb.GetUsageRequest) -> GetUsage:
    """What a valid request asks for."""
    return GetUsage(
        key_id=request.key_id,
        owner_id=request.owner_id,
        tenant_id=request.tenant_id,
        start_time=datetime_from(request.start_time) if request.HasField("start_time") else None,
        end_time=datetime_from(request.end_time) if request.HasField("end_time") else None,
        granularity=_GRANULARITIES_BY_NUMBER.get(request.granularity, Granularity.HOUR),
    )


def usage_response(buckets: Sequence[UsageBucket]) -> pb.GetUsageResponse:
    """The buckets in which something happened."""
    return pb.GetUsageResponse(buckets=map(_bucket_message, buckets))


def list_findings_from(request: pb.ListFindingsRequest) -> ListFindings:
    """What a valid request asks for; a page size beyond the greatest means the greatest."""
    return ListFindings(
        key_id=request.key_id,
        owner_id=request.owner_id,
        tenant_id=request.tenant_id,
        start_time=datetime_from(request.start_time) if request.HasField("start_time") else None,
        end_time=datetime_from(request.end_time) if request.HasField("end_time") else None,
        page_size=min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX),
        page_token=request.page_token,
    )


def finding_page_response(page: FindingPage) -> pb.ListFindingsResponse:
    """One page of findings."""
    findings = [
        pb.Finding(
            kind=FINDING_KINDS[finding.kind],
            key_id=finding.key_id,
            owner_id=finding.owner_id,
            first_at=timestamp_from(finding.first_at),
            last_at=timestamp_from(finding.last_at),
            denied=finding.denied,
            network=finding.network,
        )
        for finding in page.findings
    ]
    return pb.ListFindingsResponse(findings=findings, next_page_token=page.next_page_token)


def _bucket_message(bucket: UsageBucket) -> pb.UsageBucket:
    return pb.UsageBucket(
        start_time=timestamp_from(bucket.starts_at),
        allowed=bucket.decisions.get(DecisionCode.ALLOWED, 0),
        denied=[
            pb.DenialCount(code=DECISION_CODES[code], count=count)
            for code, count in bucket.decisions.items()
            if code is not DecisionCode.ALLOWED
        ],
        units=bucket.units,
        granularity=GRANULARITIES[bucket.granularity],
    )
