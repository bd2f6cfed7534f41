"""Faults: why no decision could be made, or why a call is refused. A denial is never one of these.

TollkeeperError
├── InvalidArgument      a field breaks its bounds
├── Unauthenticated      the caller did not prove who it is
├── PermissionDenied     the caller may not do this
├── NotFound             what the call names does not exist for this caller
├── AlreadyExists        the request_id was used for something else
├── FailedPrecondition   the key's state does not allow the change
├── Aborted              someone else changed the record first
├── ResourceExhausted    the server sheds load
└── Unavailable          a store did not answer, or not in time
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Violation:
    """One field at fault: where, and what is allowed."""

    field: str
    """Path from the request, as ``limits[2].amount``."""
    description: str


class TollkeeperError(Exception):
    """A fault with a text that may be shown, and a reason that programs can rely on.

    ``reason`` is UPPER_SNAKE_CASE, at most 63 characters. ``metadata`` repeats every part of the text that varies.
    Neither ever carries a secret.
    """

    def __init__(self, message: str, *, reason: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})


class InvalidArgument(TollkeeperError):
    """Fields break their bounds; carries every violation at once."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        text = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        super().__init__(text, reason="INVALID_FIELDS")
        self.violations = tuple(violations)


class Unauthenticated(TollkeeperError):
    """The caller did not prove who it is."""


class PermissionDenied(TollkeeperError):
    """The caller may not do this."""


class NotFound(TollkeeperError):
    """What the call names does not exist, or not for this caller."""


class AlreadyExists(TollkeeperError):
    """The request_id was used for something else."""


class FailedPrecondition(TollkeeperError):
    """The key's state does not allow the change."""


class Aborted(TollkeeperError):
    """Someone else changed the record first."""


class ResourceExhausted(TollkeeperError):
    """The server sheds load; ``retry_after`` says when to come back."""

    def __init__(self, message: str, *, reason: str, retry_after: timedelta) -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after


class Unavailable(TollkeeperError):
    """A store did not answer, or not in time; ``retry_after`` says when to come back."""

    def __init__(self, message: str, *, reason: str, retry_after: timedelta = timedelta(milliseconds=500)) -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after
