"""Gateways as callers: known like all others, but told in a profile's words when nobody can be known."""

from tollkeeper_server.api.handler import Authenticator
from tollkeeper_server.core.caller import Caller, CallerPermission
from tollkeeper_server.core.errors import FailedPrecondition, ResourceExhausted, Unavailable
from tollkeeper_server.edge.profile import Profile

_NOBODY = Caller(key_id="", tenant_id="", permissions=(CallerPermission.VERIFY,))
"""A gateway that cannot be told from others just now. It sees nobody's keys; see ``tenant_of``."""


class PatientAuthenticator:
    """As the authenticator in it, but whom that cannot decide about comes in as nobody.

    Otherwise a gateway would hear of an outage in gRPC's words, which none of its clients understand.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def authenticate(self, token: str, *, address: str) -> Caller:
        """The caller, or nobody. Raises Unauthenticated if ``token`` is known to prove no caller."""
        try:
            return await self._authenticator.authenticate(token, address=address)
        except (Unavailable, ResourceExhausted):
            return _NOBODY


def tenant_of(profile: Profile, caller: Caller) -> str:
    """Whose keys a gateway decides about in terms of ``profile``. No decision is made without asking this.

    Raises Unavailable if it is not known who calls, PermissionDenied if the profile is of a tenant that is not the
    caller's to see, FailedPrecondition if it is of none and the caller sees all.
    """
    if caller is _NOBODY:
        raise Unavailable("it cannot be told who calls", reason="CALLER_UNDECIDED")
    if caller.is_root and not profile.tenant_id:
        raise FailedPrecondition(
            f'profile "{profile.name}" names no tenant, and the calling gateway belongs to none',
            reason="PROFILE_WITHOUT_TENANT",
            metadata={"profile": profile.name},
        )
    return caller.tenant(profile.tenant_id)
