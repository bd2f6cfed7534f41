"""What the UsageService answers."""

from collections import Counter

from tollkeeper._decisions import DecisionCode
from tollkeeper._results import values
from tollkeeper._results.verification import DECISION_CODES
from tollkeeper._usage import Finding, FindingKind, FindingPage, Granularity, Usage, UsageBucket
from tollkeeper.v1 import usage_service_pb2 as pb

GRANULARITIES = values.members(pb.UsageGranularity.DESCRIPTOR, Granularity.__members__)
FINDING_KINDS = values.members(pb.FindingKind.DESCRIPTOR, FindingKind.__members__)


def usage(response: pb.GetUsageResponse) -> Usage:
    """Usage in buckets of time."""
    return Usage(buckets=tuple(map(_bucket, response.buckets)))


def finding_page(response: pb.ListFindingsResponse) -> FindingPage:
    """One page of findings."""
    return FindingPage(findings=tuple(map(_finding, response.findings)), next_page_token=response.next_page_token)


def _bucket(bucket: pb.UsageBucket) -> UsageBucket:
    denied: Counter[DecisionCode] = Counter()
    for denial in bucket.denied:
        denied[DECISION_CODES.get(denial.code, DecisionCode.UNSPECIFIED)] += denial.count
    return UsageBucket(
        start_time=values.time(bucket.start_time),
        granularity=GRANULARITIES.get(bucket.granularity, Granularity.UNSPECIFIED),
        allowed=bucket.allowed,
        denied=dict(denied),
        units=dict(bucket.units),
    )


def _finding(finding: pb.Finding) -> Finding:
    return Finding(
        kind=FINDING_KINDS.get(finding.kind, FindingKind.UNSPECIFIED),
        key_id=finding.key_id,
        owner_id=finding.owner_id,
        first_at=values.time(finding.first_at),
        last_at=values.time(finding.last_at),
        denied=finding.denied,
        network=finding.network,
    )
