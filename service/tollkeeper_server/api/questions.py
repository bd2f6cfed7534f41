"""What requests to verify ask."""

from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper_server.api.convert_verification import verification_from
from tollkeeper_server.api.fields import API_KEY_CHARACTERS_FIT, ip_from
from tollkeeper_server.api.metadata import is_request_id
from tollkeeper_server.api.validate_verification import VERIFY
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.policy import Use
from tollkeeper_server.verify.proofs import Places
from tollkeeper_server.verify.verification import Verification

KNOWN_MAX = 4096


class Questions:
    """Reads requests, and refuses those that are not valid.

    A service asks the same about one API key after the other. So the resources and permissions that were found valid
    are remembered, and a request that has nothing else in it but what is each request's own, and takes a glance to
    check, is not checked rule by rule again.
    """

    def __init__(self) -> None:
        self._known: set[tuple[str, str, tuple[str, ...]]] = set()
        self._places = Places()

    def place(self, request: pb.VerifyRequest, caller: Caller) -> bytes:
        """Where to remember what ``caller`` asks in ``request``, by whatever id: a hash, so that no API key stays."""
        named = request.request_id
        if named:
            request.ClearField("request_id")
        place = self._places.of(f"{caller.tenant_id} ".encode() + request.SerializeToString())
        if named:
            request.request_id = named
        return place

    def read(self, request: pb.VerifyRequest, caller: Caller, *, request_id: str, at: str = "") -> Verification:
        """What ``request``, which itself is found ``at`` the call's, asks on behalf of ``caller``.

        Raises InvalidArgument with every violation, PermissionDenied if it names a tenant that the caller may not.
        """
        permissions = tuple(request.required_permissions[:])  # without the slice it takes twice as long
        asked = request.resource, request.tenant_id, permissions
        address = request.client_ip
        client_ip = ip_from(address) if address else None
        if asked not in self._known or (address and client_ip is None) or not _is_plain(request):
            VERIFY.check(request, at=at)
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known.add(asked)
        return verification_from(
            request,
            use=Use(resource=request.resource, required_permissions=permissions, client_ip=client_ip),
            tenant_id=visible_tenant(caller, named=request.tenant_id),
            request_id=request_id,
        )


def _is_plain(request: pb.VerifyRequest) -> bool:
    """Whether everything in it but resource, permissions, tenant and client address is valid at a glance."""
    if request.charges or request.keep or request.min_revision < 0:
        return False
    named = request.request_id
    return len(request.api_key) <= API_KEY_CHARACTERS_FIT and (not named or is_request_id(named) is not None)


def visible_tenant(caller: Caller, *, named: str) -> str | None:
    """Whose keys exist for the caller; None means everyone's, which root callers see unless they name a tenant."""
    if caller.is_root and not named:
        return None
    return caller.tenant(named)
