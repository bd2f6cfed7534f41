"""Audit events, and what can be asked of them. Queries arrive with their shape checked, as the contract bounds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One mutation; the contract gives each field's meaning."""

    tenant_id: str
    sequence: int
    """Position in the tenant's log, from 1 without gaps."""
    occurred_at: datetime
    """By the clock of the database; never before the event before it."""
    actor: str
    actor_ip: str
    action: str
    key_id: str
    owner_id: str
    request_id: str
    revision: int
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    hash: bytes
    """SHA-256 over the event before it and this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListAuditEvents:
    """Which events to list, newest first; filters that are left empty match every event."""

    tenant_id: str = ""
    """Whose log; empty means that of the caller's own tenant."""
    key_id: str = ""
    owner_id: str = ""
    actor: str = ""
    action: str = ""
    start_time: datetime | None = None
    """Events from then on."""
    end_time: datetime | None = None
    """Events before then."""
    page_size: int = PAGE_SIZE_DEFAULT
    """1 to 1,000."""
    page_token: str = ""
    """``next_page_token`` of the page before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """One page; ``next_page_token`` is empty on the last."""

    events: tuple[AuditEvent, ...]
    next_page_token: str
