"""What a gateway asks: about which request, in whose terms, for what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.edge.http_request import HttpRequest
from tollkeeper_server.edge.profile import EdgeCode, Profile
from tollkeeper_server.edge.route_context import RouteContext
from tollkeeper_server.edge.routes import ANY_ROUTE, KeyCreation, first_match, unambiguous


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request of an end client, and in whose terms to decide it."""

    request: HttpRequest
    profile: Profile
    context: RouteContext
    caller: Caller
    """The gateway."""
    request_id: str


class Wanted(NamedTuple):
    """What a request is for."""

    resource: str = ""
    permissions: Sequence[str] = ()
    charges: Mapping[str, int] = {}
    reserve: bool = False
    refusal: EdgeCode | None = None
    """Why it is refused whatever the key may do. Only who shows a good key is told."""
    creation: KeyCreation | None = None
    """The request is for a new key, and goes to no upstream."""


def wanted_by(asked: Asked) -> Wanted:
    """What the request is for: as Envoy's route says, and where that is silent as the profile's first match says."""
    path = unambiguous(asked.request.path)
    if path is None:
        return Wanted(refusal=EdgeCode.PATH_AMBIGUOUS)
    context, profile = asked.context, asked.profile
    match = first_match(profile.routes, method=asked.request.method, path=path)
    if match is None and profile.routes and context.resource is None:
        return Wanted(refusal=EdgeCode.ROUTE_UNKNOWN)
    route, names = match or (ANY_ROUTE, {})
    return Wanted(
        resource=route.resource.render(names) if context.resource is None else context.resource,
        permissions=route.permissions if context.permissions is None else context.permissions,
        charges=route.charges if context.charges is None else context.charges,
        reserve=route.reserve,
        creation=route.creation,
    )
