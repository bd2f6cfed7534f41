"""Decisions: the outcome of a verification, as a value."""

import enum
from datetime import timedelta

from tollkeeper_server.core.key import Key, Secret
from tollkeeper_server.core.limits import LimitState
from tollkeeper_server.core.value import value


class DecisionCode(enum.StrEnum):
    """The outcome of a verification. Everything but ALLOWED denies."""

    ALLOWED = "ALLOWED"
    KEY_MISSING = "KEY_MISSING"
    KEY_INVALID = "KEY_INVALID"
    KEY_REVOKED = "KEY_REVOKED"
    KEY_DISABLED = "KEY_DISABLED"
    KEY_EXPIRED = "KEY_EXPIRED"
    IP_DENIED = "IP_DENIED"
    RESOURCE_DENIED = "RESOURCE_DENIED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    SPEND_LIMIT_EXCEEDED = "SPEND_LIMIT_EXCEEDED"


MESSAGES: dict[DecisionCode, str] = {
    DecisionCode.ALLOWED: "The request is allowed.",
    DecisionCode.KEY_MISSING: "No API key was given.",
    DecisionCode.KEY_INVALID: "The API key is not valid.",
    DecisionCode.KEY_REVOKED: "The API key was revoked.",
    DecisionCode.KEY_DISABLED: "The API key is disabled.",
    DecisionCode.KEY_EXPIRED: "The API key has expired.",
    DecisionCode.IP_DENIED: "The API key may not be used from this address.",
    DecisionCode.RESOURCE_DENIED: "The API key may not be used for this resource.",
    DecisionCode.PERMISSION_DENIED: "The API key lacks a permission that the request needs.",
    DecisionCode.RATE_LIMITED: "A rate limit of the API key is reached.",
    DecisionCode.QUOTA_EXCEEDED: "A quota of the API key is used up.",
    DecisionCode.SPEND_LIMIT_EXCEEDED: "A spending limit of the API key is reached.",
}


class DegradationReason(enum.StrEnum):
    """What an answer had to do without."""

    RATE_LOCAL = "RATE_LOCAL"
    LEDGER_DIRECT = "LEDGER_DIRECT"
    FIGURES_APPROXIMATE = "FIGURES_APPROXIMATE"


@value
class Kept:
    """How far an answer may be given again, by who asked for it, to exactly the same question."""

    verifications: int
    """How often in all, the verification that asked included; 0 means that no limit counts."""
    usable_for: timedelta
    """How long, counted from when the question was sent."""


@value
class Decision:
    """The answer to a verification.

    ``key`` is set only if the API key itself was proven, and ``limits`` only once every check before the charge passed.
    """

    code: DecisionCode
    request_id: str
    key: Key | None = None
    secret: Secret | None = None
    """Which of the key's API keys was shown; set where ``key`` is."""
    limits: tuple[LimitState, ...] = ()
    retry_after: timedelta | None = None
    reservation_id: str = ""
    revision: int = 0
    degradations: tuple[DegradationReason, ...] = ()
    kept: Kept | None = None
    """Set if the answer may be kept."""

    @property
    def allowed(self) -> bool:
        """Whether the request may go ahead."""
        return self.code is DecisionCode.ALLOWED
