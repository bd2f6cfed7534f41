"""Errors: why a request is denied, or why a call failed.

    TollkeeperError
    ├── Denied                    raised by Decision.raise_if_denied alone; speaks of the API key
    │   ├── KeyMissing
    │   ├── KeyInvalid
    │   ├── KeyRevoked
    │   ├── KeyDisabled
    │   ├── KeyExpired
    │   ├── IpDenied
    │   ├── ResourceDenied
    │   ├── KeyPermissionDenied
    │   └── LimitExceeded
    │       ├── RateLimited
    │       ├── QuotaExceeded
    │       └── SpendLimitExceeded
    └── CallError                 no decision, or nothing done; speaks of this caller and the service
        ├── InvalidArgument       fields break their bounds: .violations
        ├── Unauthenticated       the caller's token is missing, unknown or dead
        ├── PermissionDenied      the caller may not do this
        ├── NotFound              what the call names does not exist for this caller
        ├── AlreadyExists         the request_id was used for something else
        ├── FailedPrecondition    the key's state does not allow the change
        ├── Aborted               someone else changed the record first
        ├── ResourceExhausted     the server sheds load: .retry_after
        ├── Unavailable           no server, or a store of it, answered: .retry_after
        ├── DeadlineExceeded      no answer within the timeout
        ├── Unimplemented         the server does not know this call yet
        └── Internal              a fault of the server; its log knows more under .request_id

No error carries an API key or a token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tollkeeper._decisions import Decision


class TollkeeperError(Exception):
    """Everything that this package raises, but for wrong use of it (TypeError, ValueError)."""


class Denied(TollkeeperError):
    """The verification said no; ``decision`` has the facts."""

    def __init__(self, decision: "Decision") -> None:
        super().__init__(decision)
        self.decision = decision

    def __str__(self) -> str:
        return _text("Verify", self.decision.code, self.decision.message, request_id=self.decision.request_id)


class KeyMissing(Denied):
    """No API key was given."""


class KeyInvalid(Denied):
    """The API key is unknown, malformed, or another tenant's."""


class KeyRevoked(Denied):
    """The key was revoked."""


class KeyDisabled(Denied):
    """The key, or its owner, is switched off."""


class KeyExpired(Denied):
    """The key's ``expires_at`` has passed."""


class IpDenied(Denied):
    """The key may not be used from this client IP."""


class ResourceDenied(Denied):
    """The key is not for this resource."""


class KeyPermissionDenied(Denied):
    """The key lacks a permission that was asked for. (PermissionDenied speaks of the caller.)"""


class LimitExceeded(Denied):
    """A limit has no room for the charge; ``decision.retry_after`` says whether waiting helps."""


class RateLimited(LimitExceeded):
    """A RATE limit has no room for the charge."""


class QuotaExceeded(LimitExceeded):
    """A QUOTA limit has no room for the charge."""


class SpendLimitExceeded(LimitExceeded):
    """A SPEND limit has no room for the charge."""


DENIALS: dict[str, type[Denied]] = {
    "KEY_MISSING": KeyMissing,
    "KEY_INVALID": KeyInvalid,
    "KEY_REVOKED": KeyRevoked,
    "KEY_DISABLED": KeyDisabled,
    "KEY_EXPIRED": KeyExpired,
    "IP_DENIED": IpDenied,
    "RESOURCE_DENIED": ResourceDenied,
    "PERMISSION_DENIED": KeyPermissionDenied,
    "RATE_LIMITED": RateLimited,
    "QUOTA_EXCEEDED": QuotaExceeded,
    "SPEND_LIMIT_EXCEEDED": SpendLimitExceeded,
}


def denied(decision: "Decision") -> Denied:
    """The error of a decision that is not ALLOWED; plain Denied for a code that this version does not know."""
    return DENIALS.get(decision.code, Denied)(decision)


@dataclass(frozen=True, slots=True)
class Violation:
    """One field at fault."""

    field: str
    """Path from the request, as ``limits[2].amount``."""
    description: str
    """What is allowed there."""


class CallError(TollkeeperError):
    """A call failed. ``reason`` is for programs, UPPER_SNAKE_CASE; it is empty if no server answered."""

    def __init__(
        self,
        method: str,
        status: str,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
        violations: Sequence[Violation] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(method, status, message)
        self.method = method
        """The RPC, as ``CreateKey``."""
        self.status = status
        """Name of the gRPC status, as ``INVALID_ARGUMENT``."""
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        """Every part of the message that varies."""
        self.request_id = request_id
        """What the server's log knows the call by; empty if no server answered."""
        self.violations = tuple(violations)
        """Every field at fault, of InvalidArgument."""
        self.retry_after = retry_after
        """When to come back, of ResourceExhausted and Unavailable; None if the server did not say."""

    def __str__(self) -> str:
        return _text(self.method, self.status, self.message, reason=self.reason, request_id=self.request_id)


class InvalidArgument(CallError):
    """Fields of the request break their bounds; ``violations`` has them all."""


class Unauthenticated(CallError):
    """The caller's token is missing, unknown or dead."""


class PermissionDenied(CallError):
    """The caller may not do this. (An API key without a permission is KeyPermissionDenied.)"""


class NotFound(CallError):
    """What the call names does not exist, or not for this caller."""


class AlreadyExists(CallError):
    """The request_id was used for something else."""


class FailedPrecondition(CallError):
    """The key's state does not allow the change."""


class Aborted(CallError):
    """Someone else changed the record first."""


class ResourceExhausted(CallError):
    """The server sheds load."""


class Unavailable(CallError):
    """No server answered, or one whose store did not. Nothing is known about the outcome."""


class DeadlineExceeded(CallError):
    """No answer within the timeout. Nothing is known about the outcome."""


class Unimplemented(CallError):
    """The server does not know this call yet."""


class Internal(CallError):
    """A fault of the server, or an answer that makes no sense."""


def _text(method: str, status: str, message: str, *, reason: str = "", request_id: str = "") -> str:
    text = f"[{method}] {status} {message}"
    if reason:
        text += f" ({reason})"
    if request_id:
        text += f" [request-id: {request_id}]"
    return text
