"""The public keys that an issuer signs its tokens with: a JSON Web Key Set in a file or behind a URL."""

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import structlog

from tollkeeper_server.core.errors import Unauthenticated, Unavailable
from tollkeeper_server.storage.boottime import boottime

READ_SECONDS = 3.0
BYTES_MAX = 1024 * 1024
RENEW_SECONDS = 300.0
"""After so long the set is read again, so that a key that was withdrawn is forgotten."""
RETRY_SECONDS = 5.0
"""Shortest time between two reads, however many tokens name a key that is not known."""
STALE_SECONDS_MAX = 3600.0
"""How long keys are good for while the set cannot be read."""

_log = structlog.get_logger()


class SigningKeys:
    """Finds the key that a token names, and reads the set again when it names one that is not known."""

    def __init__(self, location: str, *, clock: Callable[[], float] = boottime) -> None:
        self._location = location
        self._clock = clock
        self._reading = asyncio.Lock()
        self._found: dict[str, dict[str, Any]] = {}
        self._keys: dict[tuple[str, str], jwt.PyJWK] = {}
        self._tried_at = self._read_at = float("-inf")

    async def find(self, key_id: str | None, *, algorithm: str) -> jwt.PyJWK:
        """The key ``key_id``, for ``algorithm``; None is the only key of a set that has only one.

        Raises Unauthenticated if the issuer has no such key, Unavailable if that cannot be told now.
        """
        found = self._named(key_id)
        if found is None or self._clock() - self._read_at >= RENEW_SECONDS:
            await self._renew()
            found = self._named(key_id)
        if found is not None:
            return self._key(found, algorithm)
        if self._read_at < self._tried_at:
            raise Unavailable("the keys of the issuer of sign-in tokens cannot be read", reason="SIGN_IN_UNAVAILABLE")
        raise Unauthenticated(
            "the sign-in token names a key that its issuer does not have", reason="CALLER_TOKEN_KEY_UNKNOWN"
        )

    def _named(self, key_id: str | None) -> str | None:
        if key_id is None:
            return next(iter(self._found)) if len(self._found) == 1 else None
        return key_id if key_id in self._found else None

    def _key(self, key_id: str, algorithm: str) -> jwt.PyJWK:
        key = self._keys.get((key_id, algorithm))
        if key is None:
            found = self._found[key_id]
            if found.get("alg", algorithm) != algorithm:
                raise jwt.InvalidAlgorithmError
            key = self._keys[key_id, algorithm] = jwt.PyJWK.from_dict(found, algorithm=algorithm)
        return key

    async def _renew(self) -> None:
        async with self._reading:
            if self._clock() - self._tried_at < RETRY_SECONDS:
                return
            self._tried_at = self._clock()
            try:
                async with asyncio.timeout(READ_SECONDS + 1):
                    self._found = _usable(await asyncio.to_thread(_read, self._location))
            except (OSError, ValueError) as error:  # unreachable, too slow; or no set of keys
                _log.warning("sign_in_keys_unreadable", error_type=type(error).__name__)
                if self._clock() - self._read_at >= STALE_SECONDS_MAX:
                    self._found = {}
            else:
                self._read_at = self._clock()
            self._keys = {}


def _read(location: str) -> bytes:
    if "://" not in location:
        return Path(location).read_bytes()
    with urllib.request.urlopen(location, timeout=READ_SECONDS) as response:  # noqa: S310 (settings allow http and https)
        content: bytes = response.read(BYTES_MAX)
        return content


def _usable(content: bytes) -> dict[str, dict[str, Any]]:
    """Public keys for signatures by their ``kid``. Raises ValueError if there is none."""
    document = json.loads(content)
    listed = document.get("keys") if isinstance(document, dict) else None
    keys = {
        str(key.get("kid", "")): key
        for key in (listed if isinstance(listed, list) else [])
        if isinstance(key, dict) and key.get("kty") in ("RSA", "EC", "OKP") and key.get("use", "sig") == "sig"
    }
    if not keys:
        raise ValueError("no key set")
    return keys
