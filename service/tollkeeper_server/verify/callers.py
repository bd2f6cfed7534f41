"""Callers prove who they are with keys of their own, through the same Verifier as everyone else; or have signed in."""

from functools import lru_cache
from ipaddress import ip_address

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.decision import MESSAGES
from tollkeeper_server.core.errors import Unauthenticated
from tollkeeper_server.core.key import Key
from tollkeeper_server.core.policy import Use
from tollkeeper_server.verify.sign_in import SignIn, is_sign_in_token
from tollkeeper_server.verify.verifier import Verification, Verifier

CALLERS_MAX = 4096


class CallerAuthenticator:
    """Tells who calls from the API key that the call carries, or from the token of a signed-in user."""

    def __init__(self, verifier: Verifier, *, sign_in: SignIn | None = None) -> None:
        self._verifier = verifier
        self._sign_in = sign_in
        self._callers: dict[tuple[int, str], tuple[Key, Caller]] = {}

    async def authenticate(self, token: str, *, address: str) -> Caller:
        """The caller that ``token`` proves, calling from network address ``address`` ("" if it has none).

        A caller's key obeys its own state, expiry and networks. Where users may sign in, a token of that shape never
        passes for an API key. Raises Unauthenticated if it is denied, PermissionDenied for a user without the role
        that it takes, Unavailable if that cannot be decided.
        """
        if self._sign_in is not None and is_sign_in_token(token):
            return await self._sign_in.authenticate(token, address=address)
        decision = await self._verifier.verify(
            Verification(
                api_key=token,
                tenant_id=None,
                use=_use_from(address),
                charges={},
                by_caller=True,
            )
        )
        if not decision.allowed:
            raise Unauthenticated(
                f"the caller was not recognized: {MESSAGES[decision.code]}", reason=f"CALLER_{decision.code}"
            )
        key = decision.key
        assert key is not None, "what is allowed was proven"
        return self._caller(key, address)

    def _caller(self, key: Key, address: str) -> Caller:
        """Made once for each key, as it is held in memory, and each address."""
        place = id(key), address
        made = self._callers.get(place)
        if made is not None and made[0] is key:
            return made[1]
        if len(self._callers) >= CALLERS_MAX:
            del self._callers[next(iter(self._callers))]
        caller = Caller(key_id=key.key_id, tenant_id=key.tenant_id, permissions=key.permissions, address=address)
        self._callers[place] = (key, caller)  # holding the key keeps its id from being another's
        return caller


@lru_cache(maxsize=CALLERS_MAX)
def _use_from(address: str) -> Use:
    """Callers are few, and their addresses are parsed once."""
    return Use(client_ip=ip_address(address) if address else None)
