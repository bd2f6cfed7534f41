"""Decisions: what a verification asks, and what it answers."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Never, Self

from tollkeeper._errors import denied
from tollkeeper._limits import LimitScope, LimitState


class DecisionCode(enum.StrEnum):
    """The outcome of a verification. Everything but ALLOWED denies."""

    UNSPECIFIED = "UNSPECIFIED"
    """Not known to this version of the client."""
    ALLOWED = "ALLOWED"
    KEY_MISSING = "KEY_MISSING"
    KEY_INVALID = "KEY_INVALID"
    """Unknown, malformed, or another tenant's."""
    KEY_REVOKED = "KEY_REVOKED"
    KEY_DISABLED = "KEY_DISABLED"
    KEY_EXPIRED = "KEY_EXPIRED"
    IP_DENIED = "IP_DENIED"
    RESOURCE_DENIED = "RESOURCE_DENIED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    SPEND_LIMIT_EXCEEDED = "SPEND_LIMIT_EXCEEDED"


class DegradationReason(enum.StrEnum):
    """What an answer had to do without."""

    UNSPECIFIED = "UNSPECIFIED"
    """Not known to this version of the client."""
    RATE_LOCAL = "RATE_LOCAL"
    """RATE limits were held by one server's share of them."""
    LEDGER_DIRECT = "LEDGER_DIRECT"
    """QUOTA and SPEND limits were charged in the ledger directly."""
    FIGURES_APPROXIMATE = "FIGURES_APPROXIMATE"
    """Some ``used`` and ``remaining`` figures are approximate."""


class Secret(enum.StrEnum):
    """Which of a key's API keys was shown."""

    UNSPECIFIED = "UNSPECIFIED"
    """No API key was proven."""
    CURRENT = "CURRENT"
    """The one that the key was created with, or was last given by a rotation."""
    OLD = "OLD"
    """The one before it, during the overlap of a rotation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """Something that an answer had to do without."""

    reason: DegradationReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyIdentity:
    """What a verification tells about a key whose API key was proven."""

    key_id: str
    tenant_id: str
    owner_id: str
    name: str
    environment: str
    permissions: tuple[str, ...]
    resources: tuple[str, ...]
    metadata: Mapping[str, Any] = field(hash=False)
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Verification:
    """One question of ``verify_many``; the fields mean what they mean in ``verify``."""

    api_key: str = field(repr=False)
    resource: str = field(default="", kw_only=True)
    permissions: Sequence[str] = field(default=(), kw_only=True)
    client_ip: str | IPv4Address | IPv6Address | None = field(default=None, kw_only=True)
    charges: Mapping[str, int] | None = field(default=None, kw_only=True, hash=False)
    reserve: bool = field(default=False, kw_only=True)
    dry_run: bool = field(default=False, kw_only=True)
    min_revision: int = field(default=0, kw_only=True)
    request_id: str | None = field(default=None, kw_only=True)
    tenant_id: str | None = field(default=None, kw_only=True)


class _LimitsAnswer:
    """What a decision and a quota report have in common."""

    __slots__ = ()

    code: DecisionCode
    limits: tuple[LimitState, ...]

    @property
    def allowed(self) -> bool:
        """Whether the request may go ahead."""
        return self.code is DecisionCode.ALLOWED

    def limit(self, name: str) -> LimitState:
        """The state of the limit called ``name``: the key's own where its owner has one of that name too.

        Raises KeyError if there is none.
        """
        found = [state for state in self.limits if state.name == name]
        if not found:
            raise KeyError(f"no limit {name!r} among {[state.name for state in self.limits]}")
        return next((state for state in found if state.scope is LimitScope.KEY), found[0])

    def __bool__(self) -> Never:
        # A denial would be true, and `if decision:` would let it pass.
        raise TypeError(f"a {type(self).__name__} is neither true nor false: ask .allowed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(_LimitsAnswer):
    """The answer to a verification. Look at :attr:`allowed`, or call :meth:`raise_if_denied`."""

    code: DecisionCode
    message: str
    """The decision in words, for people."""
    key: KeyIdentity | None
    """Whose key it is. On a denial only if the API key itself was proven."""
    limits: tuple[LimitState, ...]
    """Every limit that applies, the owner's first."""
    retry_after: timedelta | None
    """How long to wait until the same charge fits; None if waiting does not help."""
    reservation_id: str
    """What to settle; empty unless ``reserve`` was asked for and the request is allowed."""
    revision: int
    """The revision that the answer reflects."""
    degradations: tuple[Degradation, ...]
    """What could not be done as promised; empty in good times."""
    request_id: str
    secret: Secret
    """Which of the key's API keys was shown: OLD is one whose holder has yet to change over."""

    def raise_if_denied(self) -> Self:
        """This decision if it is ALLOWED; raises the :class:`Denied` of its code if not."""
        if not self.allowed:
            raise denied(self)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaReport(_LimitsAnswer):
    """The limits as they stand. Nothing was consumed; :attr:`allowed` says whether the charges would fit."""

    code: DecisionCode
    limits: tuple[LimitState, ...]
    retry_after: timedelta | None
    degradations: tuple[Degradation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A reservation after it was settled."""

    limits: tuple[LimitState, ...]
    """Every limit that the reservation was charged to."""
    already_settled: bool
    """It was settled before, and this changed nothing. A repeated call whose first answer was lost says so too."""
