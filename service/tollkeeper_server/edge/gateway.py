"""Decides requests of end clients in the terms of a profile, by the one Verifier.

path ─ API key ─ route ─ verification ─ limits that the profile shows besides
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tollkeeper_server.api.metadata import new_request_id
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.decision import Decision, DecisionCode
from tollkeeper_server.core.errors import FailedPrecondition, ResourceExhausted, TollkeeperError, Unavailable
from tollkeeper_server.core.limits import LimitState
from tollkeeper_server.core.policy import Use
from tollkeeper_server.edge.client_address import ClientAddress
from tollkeeper_server.edge.credentials import Credential, find_credential
from tollkeeper_server.edge.http_request import UNREADABLE, HttpRequest
from tollkeeper_server.edge.outcome import Outcome
from tollkeeper_server.edge.profile import EdgeCode, Profile
from tollkeeper_server.edge.route_context import RouteContext
from tollkeeper_server.edge.routes import ANY_ROUTE, first_match, unambiguous
from tollkeeper_server.verify.verifier import Verification, Verifier


class Wanted(NamedTuple):
    """What a request is for."""

    resource: str = ""
    permissions: Sequence[str] = ()
    charges: Mapping[str, int] = {}
    refusal: EdgeCode | None = None
    """Why it is refused whatever the key may do. Only who shows a good key is told."""


_PROVEN = frozenset({DecisionCode.ALLOWED, DecisionCode.RESOURCE_DENIED, DecisionCode.PERMISSION_DENIED})
"""Decisions on a key with which nothing is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request of an end client, and in whose terms to decide it."""

    request: HttpRequest
    profile: Profile
    context: RouteContext
    caller: Caller
    """The gateway."""
    request_id: str


class Gateway:
    """Decides requests of end clients."""

    def __init__(self, *, verifier: Verifier, client_address: ClientAddress) -> None:
        self._verifier = verifier
        self._client_address = client_address

    async def decide(self, asked: Asked) -> Outcome:
        """What becomes of the request, charged if it is allowed.

        If no decision can be made, that is the outcome UNAVAILABLE where the profile answers it, and otherwise raised
        as the Verifier raises it. Raises PermissionDenied or FailedPrecondition if the calling gateway may not see the
        keys of the profile.
        """
        credential = find_credential(asked.request, asked.profile.sources)
        if credential.conflict:
            return _outcome(asked, EdgeCode.CREDENTIALS_CONFLICT)
        tenant_id = tenant_of(asked.profile, asked.caller)
        wanted = _wanted(asked)
        try:
            decision = await self._verifier.verify(self._question(asked, credential, wanted, tenant_id=tenant_id))
        except (Unavailable, ResourceExhausted):
            if EdgeCode.UNAVAILABLE not in asked.profile.answers:
                raise
            return _outcome(asked, EdgeCode.UNAVAILABLE)
        return Outcome(
            code=wanted.refusal if wanted.refusal and decision.code in _PROVEN else decision.code,
            profile=asked.profile,
            request_id=asked.request_id,
            key=decision.key,
            limits=await self._limits(asked.profile, decision),
            retry_after=decision.retry_after,
            used=credential.used,
        )

    def _question(self, asked: Asked, credential: Credential, wanted: Wanted, *, tenant_id: str) -> Verification:
        api_key = credential.api_key
        return Verification(
            # What does not look like a key of this API is to be invalid here even if it is another API's.
            api_key=api_key if not api_key or asked.profile.key_shape.fits(api_key) else UNREADABLE,
            tenant_id=tenant_id,
            use=Use(
                resource=wanted.resource,
                required_permissions=wanted.permissions,
                client_ip=self._client_address.of(asked.request),
            ),
            charges=wanted.charges,
            # Never the id that came with the request: a client could repeat it, and be charged once for all.
            request_id=new_request_id(),
        )

    async def _limits(self, profile: Profile, decision: Decision) -> Sequence[LimitState]:
        """Where the limits stand; if the profile always shows them, also after a denial that did not look at them."""
        key = decision.key
        if decision.limits or key is None or not key.limits or not profile.limit_headers.every_answer:
            return decision.limits
        try:
            report = await self._verifier.check_quota(tenant_id=key.tenant_id, key_id=key.key_id, charges={})
        except TollkeeperError:
            return ()  # the decision stands without them
        return report.limits


def _outcome(asked: Asked, code: EdgeCode) -> Outcome:
    return Outcome(code=code, profile=asked.profile, request_id=asked.request_id)


def tenant_of(profile: Profile, caller: Caller) -> str:
    """Whose keys a profile speaks of; a root caller sees everyone's, so there the profile has to say it.

    Raises PermissionDenied if they are not the caller's to see, FailedPrecondition if the profile does not say.
    """
    if caller.is_root and not profile.tenant_id:
        raise FailedPrecondition(
            f'profile "{profile.name}" names no tenant, and the calling gateway belongs to none',
            reason="PROFILE_WITHOUT_TENANT",
            metadata={"profile": profile.name},
        )
    return caller.tenant(profile.tenant_id)


def _wanted(asked: Asked) -> Wanted:
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
    )
