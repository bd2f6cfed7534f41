"""Keys: the records about API keys, and what the calls that manage them answer."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

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


class LeakedKeyOutcome(enum.StrEnum):
    """What became of an API key that was found where it should not be."""

    UNSPECIFIED = "UNSPECIFIED"
    """Not known to this version of the client."""
    REVOKED = "REVOKED"
    """Its key is revoked, now or before."""
    NOT_OURS = "NOT_OURS"
    """It proves no key of this server."""


class Unchanged(enum.Enum):
    """The type of UNCHANGED."""

    UNCHANGED = "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""Leaves a field of a key as it is."""


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
    """Changes with every change of the record; ``update_key`` can refuse to change a key that has another by now."""
    api_key_created_at: datetime | None
    """When its current API key was made: at creation, import or the last rotation."""


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
class RotatedKey:
    """A key with a new API key, and the only copy of it."""

    key: Key
    api_key: str = field(repr=False)
    """The credential. Shown here and never again."""
    fingerprint: str
    """SHA-256 of the API key in hex, to recognize it by in other systems."""
    revision: int
    propagation: Propagation
    """Whether the end of the earlier API key has reached every cache, where there is no overlap."""
    effective_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """A key after a change, and from when on the change holds everywhere."""

    key: Key
    revision: int
    """Give it as ``min_revision`` to a verification that must see the change."""
    propagation: Propagation
    effective_at: datetime | None
    """No verification that starts from this moment on sees the key as it was before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnabledKey:
    """A key that was switched on again."""

    key: Key
    revision: int
    """Give it as ``min_revision`` to a verification that must see the change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPage:
    """One page of keys."""

    keys: tuple[Key, ...]
    next_page_token: str
    """Where the next page starts; empty on the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportKey:
    """A key of another system: how its API key is known, in exactly one way, and its record as in ``create_key``."""

    raw_api_key: str | None = field(default=None, repr=False)
    """The API key itself, 16 to 4096 bytes, of any shape."""
    sha256_hex: str | None = field(default=None, repr=False)
    """Its SHA-256, 64 hex digits."""
    sha256_base64url: str | None = field(default=None, repr=False)
    """Its SHA-256, base64url without padding."""
    sha512_hex: str | None = field(default=None, repr=False)
    """Its SHA-512, 128 hex digits."""
    hmac_sha256_hex: str | None = field(default=None, repr=False)
    """Its HMAC-SHA-256, 64 hex digits, under the server's pepper of ``pepper_version``."""
    pepper_version: int = 0
    name: str = ""
    description: str = ""
    owner_id: str = ""
    environment: str = ""
    permissions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    allowed_cidrs: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    metadata: Mapping[str, Any] | None = field(default=None, hash=False)
    expires_at: datetime | None = None
    ttl: timedelta | None = None


@dataclass(frozen=True, slots=True)
class LeakedKey:
    """An API key that was found where it should not be."""

    api_key: str = field(repr=False)
    url: str = field(default="", kw_only=True)
    """Where it was found, at most 1,024 characters; kept in the audit log."""
    source: str = field(default="", kw_only=True)
    """What found it, as ``github``, at most 64 characters; kept in the audit log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakReport:
    """What became of API keys that were reported as leaked."""

    outcomes: tuple[LeakedKeyOutcome, ...]
    """One for each, in order."""
    propagation: Propagation
    effective_at: datetime | None
    """From when on the keys are dead everywhere."""
