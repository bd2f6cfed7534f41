"""Profiles: how one public API speaks. Where its API key is, what its routes want, and how it answers."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.edge.credentials import HeaderSource, KeyShape, Source
from tollkeeper_server.edge.routes import Route
from tollkeeper_server.edge.templates import BodyTemplate, TextTemplate


class EdgeCode(enum.StrEnum):
    """What can become of a request at a gateway beside a decision."""

    CREDENTIALS_CONFLICT = "CREDENTIALS_CONFLICT"
    """It carries API keys that differ."""
    PATH_AMBIGUOUS = "PATH_AMBIGUOUS"
    """Its path may be read in more than one way."""
    ROUTE_UNKNOWN = "ROUTE_UNKNOWN"
    """No route of the profile is for its method and path."""
    REQUEST_INVALID = "REQUEST_INVALID"
    """It asks for a new key in a way that is not understood."""
    KEY_CREATED = "KEY_CREATED"
    """It asked for a new key and got it."""
    UNAVAILABLE = "UNAVAILABLE"
    """No decision could be made."""


OutcomeCode = DecisionCode | EdgeCode

EDGE_MESSAGES: dict[EdgeCode, str] = {
    EdgeCode.CREDENTIALS_CONFLICT: "The request carries API keys that differ.",
    EdgeCode.PATH_AMBIGUOUS: "The path of the request is ambiguous.",
    EdgeCode.ROUTE_UNKNOWN: "There is nothing at this method and path.",
    EdgeCode.REQUEST_INVALID: "The request is not understood.",
    EdgeCode.KEY_CREATED: "The key was created.",
    EdgeCode.UNAVAILABLE: "The request could not be checked. Try again.",
}

PLACEHOLDER_NUMBERS = frozenset({"limit", "remaining", "reset", "retry_after"})
PLACEHOLDERS = PLACEHOLDER_NUMBERS | {"key_id", "expired_at", "header", "message", "code", "request_id"}
"""What answers may speak of."""

CREATION_NUMBERS = frozenset({"created_at_ms", "expires_at_ms", "ttl_ms"})
CREATION_PLACEHOLDERS = CREATION_NUMBERS | {
    *("api_key", "fingerprint", "key_id", "owner_id", "name", "description", "created_at", "expires_at", "request_id")
}
"""What the answer with a new key may speak of."""

CREATION_CODES = frozenset({EdgeCode.KEY_CREATED, EdgeCode.REQUEST_INVALID})
"""Answered only where keys are created."""


class Figure(enum.StrEnum):
    """What a header can show of a limit."""

    LIMIT = "limit"
    USED = "used"
    REMAINING = "remaining"
    RESET = "reset"
    """Seconds until nothing is counted any more, rounded up."""
    RESET_AT = "reset_at"
    """The same as a moment: seconds since 1970."""


@dataclass(frozen=True, slots=True)
class LimitHeader:
    """A header that shows one figure of one limit."""

    name: str
    limit: str
    figure: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitHeaders:
    """Which limits are shown to clients, and when."""

    headers: Sequence[LimitHeader] = ()
    every_answer: bool = False
    """Also where nothing was charged; otherwise only on answers that looked at limits."""
    unknown: str = ""
    """Shown where there is no such limit, or no proven key; empty leaves the header out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client gets instead of what it asked for."""

    status: int
    headers: Sequence[tuple[str, TextTemplate]]
    """A header whose value comes out empty is left out."""
    body: BodyTemplate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one public API speaks."""

    name: str
    tenant_id: str
    """Only this tenant's keys are known; empty means the tenant of the calling gateway."""
    hosts: Sequence[str] = ()
    """Hosts that are this API's: names, ``*.`` and a domain, or ``*``."""
    sources: Sequence[Source]
    """Where the API key may be."""
    key_shape: KeyShape
    routes: Sequence[Route] = ()
    """The first that matches counts. Without any, every path is allowed and wants nothing."""
    limit_headers: LimitHeaders
    answers: Mapping[OutcomeCode, Answer] = field(repr=False)
    """One for each code but ALLOWED. UNAVAILABLE may be missing, and CREATION_CODES where no keys are created."""

    @property
    def credential_header(self) -> str:
        """The first header that may carry the API key, as the API's documents write it; empty if none may."""
        return next((source.shown_as for source in self.sources if isinstance(source, HeaderSource)), "")
