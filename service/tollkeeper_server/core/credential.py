"""API keys: how they are made, how a made-up one is told from ours, and what is stored of them.

An API key is ``<prefix>_<random><tag>`` in base62. The tag is a truncated HMAC-SHA-256 over everything before it, under
a key that never leaves the environment: who guesses an API key passes the tag once in 62^7 (41.7 bits) tries, so
floods of made-up keys die without touching a store. What is stored is an HMAC-SHA-256 of the whole API key under a
*pepper*, which never enters the database: a stolen dump verifies and reveals nothing. Peppers and tag keys have
versions; the highest makes new keys, the others go on proving old ones.
"""

import hashlib
import hmac
import re
import string
from collections.abc import Mapping

PREFIX_DEFAULT = "tk"
PREFIX_PATTERN = re.compile(r"(?=.{1,20}\Z)[A-Za-z][A-Za-z0-9]*(?:[_-][A-Za-z0-9]+)*\Z")
LENGTH_MAX = 128
SECRET_BYTES = 32
"""Length of a pepper and of a tag key."""

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_TAG_LENGTH = 7
_RANDOM_LENGTH_MIN = 27  # 62^27 > 2^160
_RANDOM_LENGTH_DEFAULT = 33  # 62^33 > 2^196
_VERSION_BYTES = 2


def length_bounds(prefix: str) -> tuple[int, int]:
    """Shortest and longest API key in characters, ``prefix`` and its "_" included; at least 160 bits are random."""
    return len(prefix) + 1 + _RANDOM_LENGTH_MIN + _TAG_LENGTH, LENGTH_MAX


def default_length(prefix: str) -> int:
    """Length of an API key in characters where none is asked for."""
    return len(prefix) + 1 + _RANDOM_LENGTH_DEFAULT + _TAG_LENGTH


def fingerprint(api_key: str) -> str:
    """SHA-256 in hex, by which other systems can recognize the API key. Not stored here."""
    return hashlib.sha256(api_key.encode()).hexdigest()


def hint(api_key: str, *, prefix: str) -> str:
    """What people recognize the API key by: its prefix, where it has one of ours, and last four characters."""
    return f"{prefix}_…{api_key[-4:]}" if prefix else f"…{api_key[-4:]}"


def foreign_digests(api_key: str) -> tuple[bytes, bytes]:
    """SHA-256 and SHA-512: what other systems store of their API keys, and may have been imported."""
    encoded = api_key.encode()
    return hashlib.sha256(encoded).digest(), hashlib.sha512(encoded).digest()


class Keyring:
    """The secrets behind all API keys, by version; the highest version is current.

    Every secret is 32 bytes or longer, every version 1 to 65535. Raises ValueError otherwise.
    """

    def __init__(self, *, peppers: Mapping[int, bytes], tag_keys: Mapping[int, bytes]) -> None:
        _check(peppers, name="peppers")
        _check(tag_keys, name="tag keys")
        self._peppers = {version: _Mac(peppers[version]) for version in sorted(peppers, reverse=True)}
        self._tags = {version: _Mac(tag_keys[version]) for version in sorted(tag_keys, reverse=True)}
        self._mints = {version: _Mac(mac(b"tollkeeper mint")) for version, mac in self._tags.items()}

    @property
    def current_pepper_version(self) -> int:
        """Version of the pepper that ``digest`` uses."""
        return next(iter(self._peppers))

    def new_seed(self, randomness: bytes) -> bytes:
        """A seed for ``mint`` from 32 fresh random bytes."""
        if len(randomness) < SECRET_BYTES:
            raise ValueError("a seed needs 32 random bytes")
        return next(iter(self._mints)).to_bytes(_VERSION_BYTES) + randomness

    def mint(self, *, prefix: str, length: int, seed: bytes) -> str:
        """The API key of ``seed``, always the same for the same arguments.

        So a retried request gets its first answer again although no API key is stored: the seed is kept for as long
        as retries are honoured, and is worth nothing without the tag key of its version. Raises KeyError if that
        version has left the keyring.
        """
        shortest, longest = length_bounds(prefix)
        if not shortest <= length <= longest:
            raise ValueError(f"length must be {shortest} to {longest}")
        version = int.from_bytes(seed[:_VERSION_BYTES])
        random_length = length - len(prefix) - 1 - _TAG_LENGTH
        stem = f"{prefix}_{self._random(version, seed, length=random_length)}"
        return stem + self._tag(self._tags[version], stem)

    def is_well_formed(self, api_key: str) -> bool:
        """Whether the API key is one of ours by shape and tag; whether it was issued only a store can tell."""
        stem, tag = api_key[:-_TAG_LENGTH], api_key[-_TAG_LENGTH:]
        prefix, _, random = stem.rpartition("_")
        if not prefix or len(random) < _RANDOM_LENGTH_MIN or len(api_key) > LENGTH_MAX or not api_key.isascii():
            return False
        return any(hmac.compare_digest(tag, self._tag(mac, stem)) for mac in self._tags.values())

    def digest(self, api_key: str) -> bytes:
        """What is stored of the API key: 32 bytes under the current pepper."""
        return self._peppers[self.current_pepper_version](api_key.encode())

    def digests(self, api_key: str) -> tuple[bytes, ...]:
        """What may be stored of the API key: its digest under every pepper, the current one first."""
        encoded = api_key.encode()
        return tuple([mac(encoded) for mac in self._peppers.values()])  # a generator takes twice as long

    def candidates(self, api_key: str) -> tuple[bytes, ...]:
        """As ``digests``; for an API key that is not of our making those of other systems follow."""
        digests = self.digests(api_key)
        return digests if self.is_well_formed(api_key) else digests + foreign_digests(api_key)

    def has_pepper(self, version: int) -> bool:
        """Whether digests under this version of the pepper can be recognized."""
        return version in self._peppers

    def _random(self, version: int, seed: bytes, *, length: int) -> str:
        mac = self._mints[version]
        # 62^120 < 2^720: three blocks leave at least 48 bits to spare, so the modulus is as good as uniform.
        stream = b"".join(mac(bytes([block]) + seed) for block in range(3))
        return _base62(int.from_bytes(stream), length=length)

    @staticmethod
    def _tag(mac: "_Mac", stem: str) -> str:
        return _base62(int.from_bytes(mac(stem.encode())[:16]), length=_TAG_LENGTH)


class _Mac:
    """HMAC-SHA-256 under one key that is set up once, not at each call."""

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes) -> None:
        self._keyed = hmac.new(key, digestmod="sha256")

    def __call__(self, message: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(message)
        return mac.digest()


def _base62(number: int, *, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def _check(secrets: Mapping[int, bytes], *, name: str) -> None:
    if not secrets:
        raise ValueError(f"{name}: at least one version is needed")
    for version, secret in secrets.items():
        if not 1 <= version <= 65_535 or len(secret) < SECRET_BYTES:
            raise ValueError(f"{name}: versions are 1 to 65535, secrets 32 bytes or longer")
