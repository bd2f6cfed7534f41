"""Keys: the records about API keys, and what the calls that manage them answer."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tollkeeper._limits import Limit


class KeyState(enum.StrEnum):
    """Where a key is in its life."""

    UNSPECIFIED = "UNSPECIFIED"
    """Not known to this version of the client; as a filter, every state."""
    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


class RevokeReason(enum.StrEnum):
    """Why a key was revoked."""

    UNSPECIFIED = "UNSPECIFIED"
    COMPROMISED = "COMPROMISED"
    """The API key became known to someone who should not have it."""
    SUPERSEDED = "SUPERSEDED"
    """Another key took its place."""
    UNUSED = "UNUSED"
    OWNER_LEFT = "OWNER_LEFT"
    POLICY_VIOLATION = "POLICY_VIOLATION"


class Propagation(enum.StrEnum):
    """Whether a change has reached every cache."""

    UNSPECIFIED = "UNSPECIFIED"
    """Not known to this version of the client."""
    EVERYWHERE = "EVERYWHERE"
    """No verification that starts from now on sees the key as it was before."""
    PENDING = "PENDING"
    """Not confirmed in time; it holds from ``effective_at`` on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A rotation whose earlier API key still works."""

    overlap_ends_at: datetime | None
    """From when on the earlier API key is denied."""
    old_last_used_at: datetime | None
    """Last verification with the earlier API key, to the minute; None if none is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The record about an API key. Never holds the API key itself. Times are in UTC."""

    key_id: str
    tenant_id: str
    owner_id: str
    """Whom the key acts for inside its tenant; empty if nobody."""
    name: str
    description: str
    environment: str
    api_key_hint: str
    """What to recognize the API key by, as ``tk_…7Gq2``."""
    state: KeyState
    permissions: tuple[str, ...]
    resources: tuple[str, ...]
    """What the key may be used for; empty means everything."""
    allowed_cidrs: tuple[str, ...]
    """Networks the key may be used from; empty means everywhere."""
    limits: tuple[Limit, ...]
    metadata: Mapping[str, Any] = field(hash=False)
    created_at: datetime | None
    created_by: str
    updated_at: datetime | None
    updated_by: str
    expires_at: datetime | None
    """From when on the key is denied; None means never."""
    revoked_at: datetime | None
    revoke_reason: RevokeReason
    last_used_at: datetime | None
    """To the minute; None if no use is known."""
    rotation: Rotation | None
    revision: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey:
    """A new key, with the only copy of its API key."""

    key: Key
    api_key: str = field(repr=False)
    """The credential. Shown here and never again."""
    fingerprint: str
    """SHA-256 of the API key in hex, to recognize it by in other systems."""
    revision: int
    """Give it as ``min_revision`` to a verification that must know the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPage:
    """One page of keys, newest first."""

    keys: tuple[Key, ...]
    next_page_token: str
    """Where the next page starts; empty on the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKey:
    """A key that was ended for good."""

    key: Key
    revision: int
    propagation: Propagation
    effective_at: datetime | None
    """From when on the key is dead everywhere."""
