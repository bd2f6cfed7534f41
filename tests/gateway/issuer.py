"""Signs users in: stands for the identity provider that a public API has."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

AUDIENCE = "tollkeeper"


class Issuer:
    """Issues tokens, and tells ``key_set_file`` how to know them."""

    def __init__(self, key_set_file: Path, *, tenant_id: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        jwk: Any = ECAlgorithm.to_jwk(self._key.public_key())
        key_set_file.write_text(json.dumps({"keys": [{**json.loads(jwk), "kid": "1"}]}))
        self.settings = {
            "SIGN_IN_ISSUER": "https://login.example",
            "SIGN_IN_AUDIENCE": AUDIENCE,
            "SIGN_IN_JWKS": str(key_set_file),
            "SIGN_IN_TENANT": tenant_id,
        }
        """What a server needs to know to trust it."""

    def sign_in(self, subject: str, *, ttl_seconds: int = 3600, **claims: Any) -> str:
        """What the user ``subject`` shows that it is signed in."""
        usual = {
            "iss": self.settings["SIGN_IN_ISSUER"],
            "aud": AUDIENCE,
            "sub": subject,
            "roles": ["self"],
            "exp": int(time.time()) + ttl_seconds,
        }
        return jwt.encode({**usual, **claims}, self._key, algorithm="ES256", headers={"kid": "1"})
