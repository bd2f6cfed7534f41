"""What can be asked about usage, and what is answered.

Queries arrive with their shape checked: bounds, patterns and defaults are the contract's.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tollkeeper_server.core.decision import DecisionCode

BUCKETS_MAX = 1_500
PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1_000


class Granularity(enum.IntEnum):
    """Length of a bucket in seconds. Buckets start at whole minutes, hours and days in UTC."""

    MINUTE = 60
    HOUR = 3_600
    DAY = 86_400


class FindingKind(enum.StrEnum):
    """What is unusual about the use of a key; the contract gives the rules."""

    DENIED_BURST = "DENIED_BURST"
    NEW_NETWORK = "NEW_NETWORK"
    EARLIER_API_KEY_USED = "EARLIER_API_KEY_USED"
    ENDED_API_KEY_USED = "ENDED_API_KEY_USED"


@dataclass(frozen=True, slots=True, kw_only=True)
class GetUsage:
    """The usage of a key or, if no key is named, of an owner as a whole."""

    key_id: str = ""
    owner_id: str = ""
    tenant_id: str = ""
    """Whose; empty means the caller's own, or that of the key."""
    start_time: datetime | None = None
    end_time: datetime | None = None
    granularity: Granularity = Granularity.HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageBucket:
    """What happened in one bucket."""

    starts_at: datetime
    granularity: Granularity
    decisions: Mapping[DecisionCode, int]
    units: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFindings:
    """A page of what was unusual; filters that are empty match everything."""

    key_id: str = ""
    owner_id: str = ""
    tenant_id: str = ""
    start_time: datetime | None = None
    """Found at this moment or later."""
    end_time: datetime | None = None
    """Found before this moment."""
    page_size: int = PAGE_SIZE_DEFAULT
    page_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One kind of unusual use of one key on one day."""

    finding_id: int
    kind: FindingKind
    key_id: str
    owner_id: str
    first_at: datetime
    last_at: datetime
    denied: int
    """Most denials in one minute; 0 unless that is the kind."""
    network: str
    """In CIDR notation; empty unless that is the kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingPage:
    """Findings, newest first."""

    findings: tuple[Finding, ...]
    next_page_token: str
    """Empty on the last page."""
