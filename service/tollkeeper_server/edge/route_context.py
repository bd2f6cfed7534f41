"""What Envoy's own route says of a request, in ``context_extensions``."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tollkeeper_server.core.errors import InvalidArgument, Violation

_PERMISSION = r"[A-Za-z0-9_./:-]{1,64}"
_AMOUNT = r"[0-9]{1,15}"
_CHARGE = rf"[a-z0-9_.-]{{1,32}}={_AMOUNT}"
_PATTERNS = {
    "profile": (r"[a-z0-9][a-z0-9-]{0,62}", "the name of a profile"),
    "resource": (r"[A-Za-z0-9_./:-]{1,128}", "a resource without *"),
    "permissions": (rf"{_PERMISSION}(?:,{_PERMISSION}){{0,31}}", "permissions, with commas between them"),
    "cost": (rf"{_AMOUNT}|{_CHARGE}(?:,{_CHARGE}){{0,15}}", "an amount, or unit=amount with commas between them"),
}
_MATCHERS = {name: re.compile(pattern).fullmatch for name, (pattern, _) in _PATTERNS.items()}


@dataclass(frozen=True, slots=True)
class RouteContext:
    """What the route says; what it leaves out (None) is told from the request by the profile's routes."""

    profile: str | None = None
    resource: str | None = None
    permissions: Sequence[str] | None = None
    charges: Mapping[str, int] | None = None


_NOTHING = RouteContext()


def read_context(extensions: Mapping[str, str]) -> RouteContext:
    """Raises InvalidArgument for anything unknown or malformed: a permission misspelled must not be none at all."""
    if not extensions:
        return _NOTHING
    violations = [
        Violation(f"context_extensions[{name}]", _problem(name))
        for name, value in extensions.items()
        if name not in _MATCHERS or not _MATCHERS[name](value)
    ]
    if violations:
        raise InvalidArgument(violations)
    permissions, cost = extensions.get("permissions"), extensions.get("cost")
    return RouteContext(
        profile=extensions.get("profile"),
        resource=extensions.get("resource"),
        permissions=None if permissions is None else permissions.split(","),
        charges=None if cost is None else _charges(cost),
    )


def _problem(name: str) -> str:
    if name in _PATTERNS:
        return f"must be {_PATTERNS[name][1]}"
    return f"is not known; known are {', '.join(_PATTERNS)}"


def _charges(cost: str) -> Mapping[str, int]:
    charges: dict[str, int] = {}
    for part in cost.split(","):
        unit, equals, amount = part.partition("=")
        charges[unit if equals else "requests"] = int(amount if equals else unit)
    return charges
