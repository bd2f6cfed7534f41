"""The rules of a verification that need neither I/O nor a clock."""

from collections.abc import Collection, Sequence
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.core.key import Key, KeyState, Owner
from tollkeeper_server.core.value import value

_STATE_DENIALS = {
    KeyState.REVOKED: DecisionCode.KEY_REVOKED,
    KeyState.DISABLED: DecisionCode.KEY_DISABLED,
    KeyState.EXPIRED: DecisionCode.KEY_EXPIRED,
}


@value
class Use:
    """What a request wants to use a key for."""

    resource: str = ""
    required_permissions: Sequence[str] = ()
    client_ip: IPv4Address | IPv6Address | None = None


def judge(key: Key, use: Use, *, now: datetime, owner: Owner | None = None) -> DecisionCode:
    """Everything about a proven key but its limits; ALLOWED means that only the charge is left to decide.

    Looks at the state first, then expiry, client IP, resource and permissions; the first rule that denies answers. A
    key whose owner is suspended is as good as disabled.
    """
    state = key.state_at(now)
    if owner is not None and owner.suspended and state is not KeyState.REVOKED:
        state = KeyState.DISABLED
    denial = _STATE_DENIALS.get(state)
    if denial is not None:
        return denial
    if key.allowed_cidrs and not _inside(key, use.client_ip):
        return DecisionCode.IP_DENIED
    if key.resources and not grants(key.resources, use.resource):
        return DecisionCode.RESOURCE_DENIED
    if not all(grants(key.permissions, permission) for permission in use.required_permissions):
        return DecisionCode.PERMISSION_DENIED
    return DecisionCode.ALLOWED


def grants(held: Collection[str], wanted: str) -> bool:
    """Whether ``held`` covers ``wanted``: literally, by ``*``, or by a word that ends in ``:*`` and starts it.

    ``*`` does not cover the ``tollkeeper:`` permissions of callers, so that a customer's key that may do everything
    in the tenant's own API still may not call Tollkeeper.
    """
    if wanted in held:
        return True
    if not wanted:
        return False
    return any(_covers(pattern, wanted) for pattern in held if pattern.endswith("*"))


def _covers(pattern: str, wanted: str) -> bool:
    if pattern == "*":
        return not wanted.startswith("tollkeeper:")
    return pattern.endswith(":*") and wanted.startswith(pattern[:-1])


def _inside(key: Key, client_ip: IPv4Address | IPv6Address | None) -> bool:
    if client_ip is None:
        return False
    if isinstance(client_ip, IPv6Address) and client_ip.ipv4_mapped is not None:
        client_ip = client_ip.ipv4_mapped
    return any(client_ip in network for network in key.allowed_cidrs)
