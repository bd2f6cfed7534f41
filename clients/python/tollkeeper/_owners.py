"""Owners: the customers, users or organizations that keys act for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tollkeeper._keys import Propagation
from tollkeeper._limits import Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What is known of an owner. Times are in UTC."""

    owner_id: str
    tenant_id: str
    display_name: str
    limits: tuple[Limit, ...]
    """Shared by all of the owner's keys."""
    suspended: bool
    """All of its keys are denied with KEY_DISABLED."""
    metadata: Mapping[str, Any] = field(hash=False)
    created_at: datetime | None
    updated_at: datetime | None
    revision: int
    etag: str
    """Changes with every change; ``set_owner`` can refuse to replace an owner that has another by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerChange:
    """An owner after a change, and from when on the change holds everywhere."""

    owner: Owner
    revision: int
    """Give it as ``min_revision`` to a verification that must see the change."""
    propagation: Propagation
    effective_at: datetime | None
    """No verification that starts from this moment on sees the owner as it was before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKeys:
    """The keys of an owner that were ended for good."""

    key_ids: tuple[str, ...]
    """Those that this call revoked."""
    revision: int
    propagation: Propagation
    effective_at: datetime | None
    """From when on the keys are dead everywhere."""
