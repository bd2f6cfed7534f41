"""API keys of keys: minted from a seed, so that who asks again is given the same one although it is not stored."""

import secrets
from datetime import datetime
from typing import Any

from tollkeeper_server.core.credential import SECRET_BYTES, Keyring, default_length, hint
from tollkeeper_server.core.errors import FailedPrecondition
from tollkeeper_server.core.key import Key
from tollkeeper_server.keys.commands import CreateKey
from tollkeeper_server.keys.ids import new_key_id
from tollkeeper_server.keys.requests import Request
from tollkeeper_server.keys.workspace import StoredSecret


class Mint:
    """Makes API keys, and what is stored of them."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def seed(self) -> bytes:
        """What one API key is made from; kept for as long as its first answer may be asked for again."""
        return self._keyring.new_seed(secrets.token_bytes(SECRET_BYTES))

    def api_key(self, *, prefix: str, length: int, seed: bytes) -> str:
        """The API key of ``seed``; ``length`` 0 means the default one.

        Raises FailedPrecondition if the secret that the seed was made for is gone.
        """
        try:
            return self._keyring.mint(prefix=prefix, length=length or default_length(prefix), seed=seed)
        except KeyError:
            raise FailedPrecondition(
                "the API key was made, but it can no longer be shown", reason="API_KEY_GONE"
            ) from None

    def hint(self, api_key: str, *, prefix: str) -> str:
        """What people recognize the API key by."""
        return hint(api_key, prefix=prefix)

    def secret(self, api_key: str, key: Key, *, now: datetime, imported: bool = False) -> StoredSecret:
        """What is stored of the API key of ``key``."""
        return StoredSecret(
            digest=self._keyring.digest(api_key),
            pepper_version=self._keyring.current_pepper_version,
            key_id=key.key_id,
            created_at=now,
            imported=imported,
        )


def new_key(command: CreateKey, request: Request, *, now: datetime, length: int, hint: str) -> Key:
    """The key that ``command`` asks for."""
    same: dict[str, Any] = {
        name: getattr(command, name)
        for name in (
            "tenant_id",
            "owner_id",
            "name",
            "description",
            "environment",
            "prefix",
            "permissions",
            "resources",
            "allowed_cidrs",
            "limits",
            "metadata",
        )
    }
    return Key(
        **same,
        key_id=new_key_id(now),
        length=length,
        hint=hint,
        created_at=now,
        created_by=request.actor,
        updated_at=now,
        expires_at=command.expires_at if command.ttl is None else now + command.ttl,
        api_key_created_at=now,
    )
