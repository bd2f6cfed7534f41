"""Keys and owners: the records about API keys."""

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from tollkeeper_server.core.limits import Limit

ROOT_TENANT = "tollkeeper"
"""The tenant of root keys: its callers may act in every tenant."""


class KeyState(enum.StrEnum):
    """Where a key is in its life. EXPIRED is never stored: it follows from ``expires_at``."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


class RevokeReason(enum.StrEnum):
    """Why a key was revoked."""

    UNSPECIFIED = "UNSPECIFIED"
    COMPROMISED = "COMPROMISED"
    SUPERSEDED = "SUPERSEDED"
    UNUSED = "UNUSED"
    OWNER_LEFT = "OWNER_LEFT"
    POLICY_VIOLATION = "POLICY_VIOLATION"


class Secret(enum.StrEnum):
    """Which of a key's API keys was shown."""

    CURRENT = "CURRENT"
    OLD = "OLD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A rotation whose earlier API key still works."""

    overlap_ends_at: datetime
    """From when on it is denied."""
    old_last_used_at: datetime | None
    """Last verification with it, to the minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The record about an API key; the contract gives each field's meaning and bounds."""

    key_id: str
    tenant_id: str
    owner_id: str = ""
    name: str = ""
    description: str = ""
    environment: str = ""
    prefix: str = ""
    length: int = 0
    """Characters of the API key; 0 if it was imported."""
    hint: str = ""
    """What to recognize the API key by: prefix and last four characters."""
    stored_state: KeyState = KeyState.ACTIVE
    """ACTIVE, DISABLED or REVOKED; see ``state_at``."""
    permissions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    allowed_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    limits: tuple[Limit, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime
    created_by: str = ""
    updated_at: datetime
    updated_by: str = ""
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoke_reason: RevokeReason = RevokeReason.UNSPECIFIED
    last_used_at: datetime | None = None
    api_key_created_at: datetime | None = None
    """When the current API key was made."""
    overlap_ends_at: datetime | None = None
    """When the API key before the current one ends, or has ended; see ``rotation_at``."""
    old_last_used_at: datetime | None = None
    revision: int = 0

    @property
    def etag(self) -> str:
        """Another one after every change."""
        return _etag(self.key_id, self.revision)

    def state_at(self, now: datetime) -> KeyState:
        """The state at ``now``: REVOKED and DISABLED come before EXPIRED."""
        if self.stored_state is KeyState.ACTIVE and self.expires_at is not None and now >= self.expires_at:
            return KeyState.EXPIRED
        return self.stored_state

    def rotation_at(self, now: datetime) -> Rotation | None:
        """The rotation whose overlap is not over at ``now``."""
        if self.overlap_ends_at is None or now >= self.overlap_ends_at or self.stored_state is KeyState.REVOKED:
            return None
        return Rotation(overlap_ends_at=self.overlap_ends_at, old_last_used_at=self.old_last_used_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A customer, user or organization inside a tenant; the contract gives each field's meaning and bounds."""

    owner_id: str
    tenant_id: str
    display_name: str = ""
    limits: tuple[Limit, ...] = ()
    """Shared by all of the owner's keys."""
    suspended: bool = False
    """All of the owner's keys are denied."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime
    updated_at: datetime
    revision: int = 0

    @property
    def etag(self) -> str:
        """Another one after every change."""
        return _etag(f"{self.tenant_id}/{self.owner_id}", self.revision)


def _etag(name: str, revision: int) -> str:
    return hashlib.sha256(f"{name} {revision}".encode()).hexdigest()[:16]
