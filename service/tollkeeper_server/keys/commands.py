"""What can be asked of the KeyService, and what it answers.

Commands arrive with their shape checked: bounds, patterns and defaults are the contract's.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from tollkeeper_server.core.credential import PREFIX_DEFAULT
from tollkeeper_server.core.key import Key, KeyState, RevokeReason
from tollkeeper_server.core.limits import Limit

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000


class Propagation(enum.StrEnum):
    """Whether a change has reached every cache."""

    EVERYWHERE = "EVERYWHERE"
    PENDING = "PENDING"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateKey:
    """A new key; the fields mean what they mean in ``Key``."""

    tenant_id: str = ""
    """Whose key it becomes; empty means the caller's own tenant."""
    owner_id: str = ""
    name: str = ""
    description: str = ""
    environment: str = ""
    prefix: str = PREFIX_DEFAULT
    length: int = 0
    """Characters of the whole API key; 0 means the default for its prefix."""
    permissions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    allowed_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    limits: tuple[Limit, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None
    ttl: timedelta | None = None
    """Alternative to ``expires_at``, counted from the creation."""
    request_id: str = ""
    """Makes the command safe to repeat; empty means no such promise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey:
    """A new key and, this once, its API key."""

    key: Key
    api_key: str = field(repr=False)
    fingerprint: str
    """SHA-256 of the API key in hex; not stored."""
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListKeys:
    """Which keys to list, newest first; filters that are left empty match every key."""

    tenant_id: str = ""
    """Whose keys; empty means the caller's own tenant."""
    owner_id: str = ""
    environment: str = ""
    state: KeyState | None = None
    prefix: str = ""
    page_size: int = PAGE_SIZE_DEFAULT
    """1 to 1,000."""
    page_token: str = ""
    """``next_page_token`` of the page before."""
    expires_before: datetime | None = None
    """Keys that end before this moment, and those that end first first."""
    created_before: datetime | None = None
    api_key_created_before: datetime | None = None
    """Keys whose current API key was made before this moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPage:
    """One page; ``next_page_token`` is empty on the last."""

    keys: tuple[Key, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeKey:
    """The end of a key, named by ``key_id`` or by possession of its ``api_key``; exactly one is given."""

    key_id: str = ""
    api_key: str = field(default="", repr=False)
    reason: RevokeReason = RevokeReason.UNSPECIFIED
    comment: str = ""
    """For the audit log."""
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateKey:
    """New values for some of a key's fields; a field that is not in ``changes`` stays as it is."""

    key_id: str
    changes: Mapping[str, Any]
    """By the name of the attribute of ``Key``; see ``UPDATABLE``."""
    etag: str = ""
    """Refuse to change the key unless this is its etag; empty changes it whatever it is."""
    request_id: str = ""


UPDATABLE = (
    "name",
    "description",
    "permissions",
    "resources",
    "allowed_cidrs",
    "limits",
    "metadata",
    "expires_at",
)
"""What UpdateKey can change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameKey:
    """A key to switch off or on, or whose overlap is to end."""

    key_id: str
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateKey:
    """A new API key for a key; the one it has works on for ``overlap``, and an earlier one ends at once."""

    key_id: str
    overlap: timedelta = timedelta()
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedKey:
    """A key and, this once, its new API key."""

    key: Key
    api_key: str = field(repr=False)
    fingerprint: str
    """SHA-256 of the API key in hex; not stored."""
    revision: int
    propagation: Propagation
    effective_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A change that narrowed what a key may do, and from when on that holds everywhere."""

    key: Key
    revision: int
    propagation: Propagation
    effective_at: datetime
    """At this moment at the latest no verification that starts sees the key as it was before."""
