"""Client of the Tollkeeper API-key authorization service.

    from tollkeeper import AsyncClient

    async with AsyncClient.from_env() as client:
        decision = await client.verify(api_key, resource="billing", permissions=["read"])
        if not decision.allowed:
            ...  # decision.code, decision.retry_after

``Client`` is the same without ``async``. The generated messages and stubs of the contract are in ``tollkeeper.v1``.
"""

from tollkeeper._async_client import AsyncClient, AsyncStubs
from tollkeeper._decisions import (
    Decision,
    DecisionCode,
    Degradation,
    DegradationReason,
    KeyIdentity,
    QuotaReport,
    Verification,
)
from tollkeeper._errors import (
    Aborted,
    AlreadyExists,
    CallError,
    DeadlineExceeded,
    Denied,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    IpDenied,
    KeyDisabled,
    KeyExpired,
    KeyInvalid,
    KeyMissing,
    KeyPermissionDenied,
    KeyRevoked,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    ResourceDenied,
    ResourceExhausted,
    SpendLimitExceeded,
    TollkeeperError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Violation,
)
from tollkeeper._keys import (
    CreatedKey,
    Key,
    KeyPage,
    KeyState,
    Propagation,
    RevokedKey,
    RevokeReason,
    Rotation,
)
from tollkeeper._limits import (
    CalendarWindow,
    Limit,
    LimitKind,
    LimitScope,
    LimitState,
    micro_units,
)
from tollkeeper._sync_client import Client, Stubs
from tollkeeper._version import __version__

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "AsyncStubs",
    "CalendarWindow",
    "CallError",
    "Client",
    "CreatedKey",
    "DeadlineExceeded",
    "Decision",
    "DecisionCode",
    "Degradation",
    "DegradationReason",
    "Denied",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "IpDenied",
    "Key",
    "KeyDisabled",
    "KeyExpired",
    "KeyIdentity",
    "KeyInvalid",
    "KeyMissing",
    "KeyPage",
    "KeyPermissionDenied",
    "KeyRevoked",
    "KeyState",
    "Limit",
    "LimitExceeded",
    "LimitKind",
    "LimitScope",
    "LimitState",
    "NotFound",
    "PermissionDenied",
    "Propagation",
    "QuotaExceeded",
    "QuotaReport",
    "RateLimited",
    "ResourceDenied",
    "ResourceExhausted",
    "RevokeReason",
    "RevokedKey",
    "Rotation",
    "SpendLimitExceeded",
    "Stubs",
    "TollkeeperError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Verification",
    "Violation",
    "__version__",
    "micro_units",
]
