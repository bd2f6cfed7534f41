"""The states of a key, pure: what each operation makes of a key in each. ``docs/key-life.md`` has them as a table.

A function gives the key as it is after the operation: the very same object where nothing changes. It raises
FailedPrecondition where the state does not allow the operation.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tollkeeper_server.core.errors import FailedPrecondition
from tollkeeper_server.core.key import Key, KeyState, RevokeReason


def updated(key: Key, changes: Mapping[str, Any], *, now: datetime) -> Key:
    """The key with new values for some of its fields."""
    _refuse_revoked(key)
    changed = replace(key, **changes)
    return key if changed == key else replace(changed, updated_at=now)


def disabled(key: Key, *, now: datetime) -> Key:
    """The key, switched off."""
    _refuse_revoked(key)
    return _in_state(key, KeyState.DISABLED, now=now)


def enabled(key: Key, *, now: datetime) -> Key:
    """The key, switched on; one whose expiry has passed is EXPIRED then."""
    _refuse_revoked(key)
    return _in_state(key, KeyState.ACTIVE, now=now)


def rotated(
    key: Key,
    *,
    prefix: str,
    length: int,
    hint: str,
    overlap: timedelta,
    old_last_used_at: datetime | None,
    now: datetime,
) -> Key:
    """The key with a new API key, beside which the earlier one works for ``overlap``."""
    _refuse_revoked(key)
    if key.state_at(now) is KeyState.EXPIRED:
        raise FailedPrecondition("the key has expired: give it another expires_at first", reason="KEY_EXPIRED")
    return replace(
        key,
        prefix=prefix,
        length=length,
        hint=hint,
        api_key_created_at=now,
        overlap_ends_at=now + overlap if overlap else None,
        old_last_used_at=old_last_used_at if overlap else None,
        updated_at=now,
    )


def without_overlap(key: Key, *, now: datetime) -> Key:
    """The key with its current API key alone."""
    if key.rotation_at(now) is None:
        return key
    return replace(key, overlap_ends_at=None, old_last_used_at=None, updated_at=now)


def revoked(key: Key, *, reason: RevokeReason, now: datetime) -> Key:
    """The key, ended for good."""
    if key.stored_state is KeyState.REVOKED:
        return key
    return replace(key, stored_state=KeyState.REVOKED, revoked_at=now, revoke_reason=reason, updated_at=now)


def _in_state(key: Key, state: KeyState, *, now: datetime) -> Key:
    return key if key.stored_state is state else replace(key, stored_state=state, updated_at=now)


def _refuse_revoked(key: Key) -> None:
    if key.stored_state is KeyState.REVOKED:
        raise FailedPrecondition("the key is revoked for good", reason="KEY_REVOKED")
