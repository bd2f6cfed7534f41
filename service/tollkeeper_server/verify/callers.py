"""Callers prove who they are with keys of their own, through the same Verifier as everyone else; or have signed in."""

from functools import lru_cache
from ipaddress import ip_address

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.decision import MESSAGES
from tollkeeper_server.core.errors import Unauthenticated
from tollkeeper_server.core.policy import Use
from tollkeeper_server.verify.proofs import Proofs
from tollkeeper_server.verify.sign_in import SignIn, is_sign_in_token
from tollkeeper_server.verify.verification import Verification
from tollkeeper_server.verify.verifier import Verifier


class CallerAuthenticator:
    """Tells who calls from the API key that the call carries, or from the token of a signed-in user."""

    def __init__(self, verifier: Verifier, *, proofs: Proofs, sign_in: SignIn | None = None) -> None:
        self._verifier = verifier
        self._proofs = proofs
        self._sign_in = sign_in

    async def authenticate(self, token: str, *, address: str) -> Caller:
        """The caller that ``token`` proves, calling from network address ``address`` ("" if it has none).

        A caller's key obeys its own state, expiry and networks. Where users may sign in, a token of that shape never
        passes for an API key. Raises Unauthenticated if it is denied, PermissionDenied for a user without the role
        that it takes, Unavailable if that cannot be decided.
        """
        if (recognized := self._proofs.recognize(token, address=address)) is not None:
            return recognized
        if self._sign_in is not None and is_sign_in_token(token):
            return await self._sign_in.authenticate(token, address=address)
        asked = Verification(api_key=token, tenant_id=None, use=_use_from(address), charges={}, by_caller=True)
        decision = await self._verifier.verify(asked)
        if not decision.allowed:
            raise Unauthenticated(
                f"the caller was not recognized: {MESSAGES[decision.code]}", reason=f"CALLER_{decision.code}"
            )
        assert decision.key is not None, "what is allowed was proven"
        caller = Caller.of(decision.key, address=address)
        self._proofs.remember(caller, asked)
        return caller


@lru_cache(maxsize=4096)
def _use_from(address: str) -> Use:
    """Callers are few, and their addresses are parsed once."""
    return Use(client_ip=ip_address(address) if address else None)
