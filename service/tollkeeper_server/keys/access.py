"""What callers may do to which keys, beyond reading and writing keys at all."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from tollkeeper_server.core.caller import Caller, CallerPermission
from tollkeeper_server.core.errors import InvalidArgument, NotFound, PermissionDenied, Violation
from tollkeeper_server.core.key import Key
from tollkeeper_server.core.policy import grants

LIFETIME_MAX = timedelta(days=36_525)
"""Furthest that an expiry may be away: 100 years."""

CALLER_PERMISSIONS = "tollkeeper:"
"""What the permissions of Tollkeeper's own callers start with."""

_READERS = (CallerPermission.KEYS_READ, CallerPermission.KEYS_WRITE)


def visible(key: Key | None, caller: Caller) -> Key:
    """The key; raises NotFound, the same for one that does not exist and for one of others."""
    if key is None or not caller.sees(key.tenant_id) or not caller.owns(key.owner_id):
        raise no_such_key()
    return key


def may_read(caller: Caller, key: Key) -> bool:
    """Whether the caller may see the key's record."""
    is_reader = bool(caller.subject) or any(grants(caller.permissions, it) for it in _READERS)
    return is_reader and caller.sees(key.tenant_id) and caller.owns(key.owner_id)


def no_such_key() -> NotFound:
    """What is told of a key that does not exist, or not for this caller."""
    return NotFound("there is no such key", reason="KEY_NOT_FOUND")


def check_gifts(caller: Caller, permissions: Iterable[str]) -> None:
    """Nobody gives away what it does not have: of the permissions of callers, that is; the others are the tenant's.

    So nobody makes, changes, revives or rotates a key that may do more here than itself. Raises PermissionDenied.
    """
    lacking = sorted(
        permission
        for permission in set(permissions)
        if permission.startswith(CALLER_PERMISSIONS) and not grants(caller.permissions, permission)
    )
    if lacking:
        raise PermissionDenied(
            f"the caller's key lacks permissions that the key has or would get: {', '.join(lacking)}",
            reason="CALLER_PERMISSION_MISSING",
            metadata={"permissions": ",".join(lacking)},
        )


def check_expiry(expires_at: datetime | None, *, now: datetime, field: str) -> None:
    """Raise InvalidArgument, naming ``field``, for an expiry that has passed or is too far away."""
    if expires_at is not None and not now < expires_at <= now + LIFETIME_MAX:
        raise InvalidArgument([Violation(field, "must be in the future, at most 100 years away")])
