"""Usage: what keys were used for, and what was unusual about it."""

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from tollkeeper._decisions import DecisionCode

Name = TypeVar("Name", bound=str)


class Granularity(enum.StrEnum):
    """Length of a bucket, in UTC."""

    UNSPECIFIED = "UNSPECIFIED"
    """Not known to this version of the client; in a question, HOUR."""
    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"


class FindingKind(enum.StrEnum):
    """What is unusual about the use of a key."""

    UNSPECIFIED = "UNSPECIFIED"
    """Not known to this version of the client."""
    DENIED_BURST = "DENIED_BURST"
    """At least 50 denials in a minute, and 10 times as many as in the key's usual minute of the day before."""
    NEW_NETWORK = "NEW_NETWORK"
    """A client network that the key was not used from in 90 days or more."""
    EARLIER_API_KEY_USED = "EARLIER_API_KEY_USED"
    """During the overlap of a rotation: someone has not changed over yet."""
    ENDED_API_KEY_USED = "ENDED_API_KEY_USED"
    """After the overlap of a rotation, and denied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageBucket:
    """What happened in one stretch of time. Dry runs and unproven API keys count nowhere."""

    start_time: datetime
    granularity: Granularity
    """How long it is: longer than was asked for where shorter ones are not kept any more."""
    allowed: int
    denied: Mapping[DecisionCode, int] = field(hash=False)
    """How often each code was answered; codes that this version does not know add up under UNSPECIFIED."""
    units: Mapping[str, int] = field(hash=False)
    """Units charged, by unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Buckets in which something happened, oldest first, and what they add up to."""

    buckets: tuple[UsageBucket, ...]

    @property
    def allowed(self) -> int:
        """Verifications that were ALLOWED."""
        return sum(bucket.allowed for bucket in self.buckets)

    @property
    def denied(self) -> Mapping[DecisionCode, int]:
        """Verifications that were denied, by code."""
        return _sums(bucket.denied for bucket in self.buckets)

    @property
    def units(self) -> Mapping[str, int]:
        """Units charged, by unit."""
        return _sums(bucket.units for bucket in self.buckets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One kind of unusual use of one key on one day, in UTC."""

    kind: FindingKind
    key_id: str
    owner_id: str
    """The key's owner; empty if it has none."""
    first_at: datetime
    """The first minute in which it was found."""
    last_at: datetime
    """The last minute in which it was found, on the same day."""
    denied: int
    """The most denials in one minute; of DENIED_BURST."""
    network: str
    """The network in CIDR notation; of NEW_NETWORK."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingPage:
    """One page of findings, newest first."""

    findings: tuple[Finding, ...]
    next_page_token: str
    """Where the next page starts; empty on the last one."""


def _sums(counts: Iterable[Mapping[Name, int]]) -> dict[Name, int]:
    sums: Counter[Name] = Counter()
    for each in counts:
        sums.update(each)
    return dict(sums)
