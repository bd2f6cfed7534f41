"""What can be asked of owners, and what is answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tollkeeper_server.core.key import Owner, RevokeReason
from tollkeeper_server.core.limits import Limit
from tollkeeper_server.keys.commands import Propagation


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOwner:
    """All that is to be known of an owner; the fields mean what they mean in ``Owner``."""

    tenant_id: str = ""
    """Whose owner it is; empty means the caller's own tenant."""
    owner_id: str
    display_name: str = ""
    limits: tuple[Limit, ...] = ()
    suspended: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    etag: str = ""
    """Refuse to change the owner unless this is its etag; empty changes it whatever it is."""
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerChange:
    """An owner after a change, and from when on that holds everywhere."""

    owner: Owner
    revision: int
    propagation: Propagation
    effective_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeKeys:
    """The end of all keys of an owner."""

    tenant_id: str = ""
    """Whose owner it is; empty means the caller's own tenant."""
    owner_id: str
    reason: RevokeReason = RevokeReason.UNSPECIFIED
    comment: str = ""
    """For the audit log."""
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKeys:
    """The keys that were revoked, and from when on they are dead everywhere."""

    key_ids: tuple[str, ...]
    revision: int
    propagation: Propagation
    effective_at: datetime
