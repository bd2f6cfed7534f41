"""Signed-in users as callers: they show a token of an issuer that this server trusts, a JWT, instead of an API key."""

import binascii
import json
import re
from base64 import urlsafe_b64decode
from typing import Any

import jwt

from tollkeeper_server.core.caller import Caller, Issuer
from tollkeeper_server.core.errors import PermissionDenied, Unauthenticated
from tollkeeper_server.verify.signing_keys import SigningKeys

SELF_ROLE = "self"
"""The role of users that may create, read, list and revoke keys that they own."""
LEEWAY_SECONDS = 30
"""How far the clocks of issuer and server may be apart."""

# A subject becomes the owner of keys, so it must be able to be one; and no user passes for a key in the audit log.
_is_subject = re.compile(r"(?!key_[0-9A-Za-z]{22}\Z)[A-Za-z0-9_.@/:-]{1,128}").fullmatch

_FAULTS: tuple[tuple[type[jwt.PyJWTError], str, str], ...] = (
    (jwt.ExpiredSignatureError, "has expired", "CALLER_TOKEN_EXPIRED"),
    (jwt.ImmatureSignatureError, "is not valid yet", "CALLER_TOKEN_NOT_YET_VALID"),
    (jwt.InvalidAudienceError, "is meant for another audience", "CALLER_TOKEN_AUDIENCE"),
    (jwt.InvalidIssuerError, "is of another issuer", "CALLER_TOKEN_ISSUER"),
    (jwt.InvalidAlgorithmError, "is signed by an algorithm that is not allowed", "CALLER_TOKEN_ALGORITHM"),
    (jwt.InvalidKeyError, "is signed by an algorithm that its key is not for", "CALLER_TOKEN_ALGORITHM"),
    (jwt.PyJWKError, "is signed by an algorithm that its key is not for", "CALLER_TOKEN_ALGORITHM"),
    (jwt.InvalidSignatureError, "has a signature that does not hold", "CALLER_TOKEN_SIGNATURE"),
    (jwt.MissingRequiredClaimError, "lacks a claim: exp, iss, aud and sub are needed", "CALLER_TOKEN_INCOMPLETE"),
    (jwt.PyJWTError, "cannot be read", "CALLER_TOKEN_MALFORMED"),
)
"""What is wrong with a token, and the reason for it; the first that fits."""


def is_sign_in_token(token: str) -> bool:
    """Whether ``token`` is a JWT by its shape: no API key that is minted here has a dot."""
    return token.count(".") == 2 and "alg" in _header(token)


class SignIn:
    """Tells which user of one issuer calls."""

    def __init__(self, issuer: Issuer, *, keys: SigningKeys) -> None:
        self._issuer = issuer
        self._keys = keys

    async def authenticate(self, token: str, *, address: str) -> Caller:
        """The user that ``token`` proves, calling from network address ``address``.

        Raises Unauthenticated if it proves none, PermissionDenied if the user lacks the role ``self``, Unavailable if
        the issuer's keys cannot be had.
        """
        try:
            claims = await self._claims(token)
        except jwt.PyJWTError as error:
            text, reason = next((text, reason) for fault, text, reason in _FAULTS if isinstance(error, fault))
            raise Unauthenticated(f"the sign-in token {text}", reason=reason) from None
        subject = claims["sub"]
        if not _is_subject(subject):
            raise Unauthenticated("the sign-in token has a subject that cannot own keys", reason="CALLER_TOKEN_SUBJECT")
        if SELF_ROLE not in _words(claims.get(self._issuer.roles_claim)):
            raise PermissionDenied(
                f"the signed-in user lacks the role {SELF_ROLE}",
                reason="CALLER_ROLE_MISSING",
                metadata={"role": SELF_ROLE},
            )
        return Caller(key_id="", subject=subject, tenant_id=self._issuer.tenant_id, permissions=(), address=address)

    async def _claims(self, token: str) -> dict[str, Any]:
        header = _header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._issuer.algorithms:
            raise jwt.InvalidAlgorithmError
        if key_id is not None and not isinstance(key_id, str):
            raise jwt.DecodeError
        claims: dict[str, Any] = jwt.decode(
            token,
            await self._keys.find(key_id, algorithm=algorithm),
            algorithms=[algorithm],
            issuer=self._issuer.issuer,
            audience=self._issuer.audience,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        return claims


def _header(token: str) -> dict[str, Any]:
    """What the token says of itself, which proves nothing; empty if it says nothing."""
    encoded = token.partition(".")[0]
    try:
        header = json.loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        return {}
    return header if isinstance(header, dict) else {}


def _words(claim: object) -> list[object]:
    """Roles come as a list, or as words in one text."""
    if isinstance(claim, str):
        return list(claim.split())
    return claim if isinstance(claim, list) else []
