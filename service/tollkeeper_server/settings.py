"""Settings: everything that an operator may choose, read from environment variables that start with TOLLKEEPER_."""

import base64
import binascii
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, Secret, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tollkeeper_server.core.caller import Issuer
from tollkeeper_server.core.credential import SECRET_BYTES, Keyring
from tollkeeper_server.core.key import ROOT_TENANT
from tollkeeper_server.startup import StartupError

PREFIX = "TOLLKEEPER_"

SIGNATURES = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
"""Algorithms by which tokens may be signed: those with a public key, that nobody can sign with who verifies."""

_FORMS = {
    "POSTGRES_URL": "postgresql://user:password@host:port/database",
    "REDIS_URL": "redis://user:password@host:port/0, rediss:// for TLS, or unix:///path",
    "PEPPERS": f"1:$(openssl rand -base64 {SECRET_BYTES}), the same for all servers of one database",
    "TAG_KEYS": f"1:$(openssl rand -base64 {SECRET_BYTES}), the same for all servers of one database",
}

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises ValueError, which says what is allowed."""
        try:
            parts = urlsplit(f"//{text}")
            if parts.hostname and parts.port is not None and parts.netloc == text and "@" not in text:
                return cls(parts.hostname, parts.port)
        except ValueError:
            pass
        raise ValueError('must be host:port, as "127.0.0.1:50051" or "[::1]:50051"; port 0 takes a free one')

    @property
    def reachable(self) -> "Address":
        """Where a client on this machine finds it: an address that means every interface is none to connect to."""
        return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port)

    def of_worker(self, worker: int) -> "Address":
        """Where a worker, counted from 0, listens of its own: so many ports further. Free ports are any that are."""
        return Address(self.host, self.port + worker if self.port else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUrls:
    """Where the stores are; URLs may carry passwords."""

    postgres: str = field(repr=False)
    redis: str = field(repr=False)


def _address(value: object) -> object:
    return Address.parse(value) if isinstance(value, str) else value


def _store_url(*schemes: str) -> BeforeValidator:
    def check(value: object) -> object:
        if isinstance(value, str) and not value.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"must start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return BeforeValidator(check)


def _versions(value: object) -> object:
    if not isinstance(value, str):
        return value
    secrets: dict[int, bytes] = {}
    for item in value.split(","):
        version, _, encoded = item.strip().partition(":")
        try:
            secret = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            secret = b""
        known = version.isascii() and version.isdecimal() and 1 <= int(version) <= 65_535
        if not known or int(version) in secrets or len(secret) < SECRET_BYTES:
            raise ValueError(
                "must be version:secret[,version:secret...]; a version is 1 to 65535 and comes once, "
                f"a secret is {SECRET_BYTES} bytes or more in base64 (openssl rand -base64 {SECRET_BYTES})"
            )
        secrets[int(version)] = secret
    return secrets


def _key_set(value: object) -> object:
    if isinstance(value, str) and not value.startswith(("http://", "https://")) and not Path(value).is_file():
        raise ValueError("must be a file that is there, or an http:// or https:// URL")
    return value


def _users_tenant(value: object) -> object:
    if isinstance(value, str) and (value == ROOT_TENANT or not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", value)):
        raise ValueError(f'must be a tenant, but not "{ROOT_TENANT}", whose callers may do everything everywhere')
    return value


def _algorithms(value: object) -> object:
    if not isinstance(value, str):
        return value
    algorithms = tuple(name.strip() for name in value.split(","))
    if not set(algorithms) <= SIGNATURES:
        raise ValueError(f"must be some of {', '.join(sorted(SIGNATURES))}, separated by commas")
    return algorithms


VersionedSecrets = Annotated[Secret[dict[int, bytes]], NoDecode, BeforeValidator(_versions)]
ListenAddress = Annotated[Address, NoDecode, BeforeValidator(_address)]


class Settings(BaseSettings):
    """All settings with their defaults; each is the environment variable TOLLKEEPER_ and its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    postgres_url: Annotated[Secret[str] | None, _store_url("postgresql", "postgres")] = None
    """The database, 14 or newer: postgresql://user:password@host:port/database. Without this and ``redis_url``, private
    stores run in ``data_dir``, for development."""
    redis_url: Annotated[Secret[str] | None, _store_url("redis", "rediss", "unix")] = None
    """Redis 7 or Valkey 8, or newer: redis://, rediss:// (TLS) or unix://."""
    postgres_pool_size: Annotated[int, Field(ge=1, le=100)] = 10
    """Most connections to Postgres, of each worker."""
    cache_keys: Annotated[int, Field(ge=1_000, le=10_000_000)] = 100_000
    """Most API keys that are answered from memory, by each worker; each takes about 2.5 KB."""
    peppers: VersionedSecrets | None = None
    """Secrets under which API keys are stored, version:base64[,version:base64]; the highest version makes new ones.
    Needed with ``postgres_url``; generated in ``data_dir`` otherwise."""
    tag_keys: VersionedSecrets | None = None
    """Secrets that tell our API keys from made-up ones; as ``peppers``."""
    data_dir: Path = Path(".tollkeeper")
    """Where private stores keep their data, and secrets and root key of a development server are."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that serve, unless ``serve --workers`` says otherwise. They share the port of ``listen``, and each has
    ports of its own for gateways and metrics: those of the settings for the first, the next ones for the others."""
    listen: ListenAddress = Address("127.0.0.1", 50051)
    """Where gRPC is served. Beyond this machine set ``tls_cert``, or put a proxy or mesh that encrypts in front."""
    edge_listen: ListenAddress | None = None
    """Where gateways are served: Envoy's external authorization. Unless set, they are not."""
    tls_cert: Path | None = None
    """Certificate of the server and those between it and its authority, a PEM file: with it and ``tls_key`` both ports
    are served with TLS. A changed file comes into force with the next connection."""
    tls_key: Path | None = None
    """The certificate's private key, a PEM file that is not encrypted."""
    tls_client_ca: Path | None = None
    """Authorities, a PEM file: clients must show a certificate of one of them. They still need an API key."""
    profiles: Path | None = None
    """Directory of the profiles of public APIs, needed with ``edge_listen``; ``tollkeeper-server profiles check`` reads
    it. Changes come into force within two seconds."""
    client_address: str = "peer"
    """Where gateways tell the address of an end client: ``peer``, who is connected to the gateway;
    ``x-envoy-external-address``, for an Envoy at the edge that counts trusted proxies itself; or ``x-forwarded-for:N``,
    the N-th address from the right."""
    sign_in_issuer: str | None = None
    """Whose tokens (JWTs) signed-in users show, as in their ``iss``. With the next three users may manage keys that
    they own, if they have the role ``self``; unless all four are set, nobody signs in."""
    sign_in_audience: str | None = None
    """What is in the ``aud`` of tokens that are meant for this server."""
    sign_in_jwks: Annotated[str | None, BeforeValidator(_key_set)] = None
    """Public keys of the issuer, a JSON Web Key Set: a file, or an http:// or https:// URL."""
    sign_in_tenant: Annotated[str | None, BeforeValidator(_users_tenant)] = None
    """The tenant of the users' keys."""
    sign_in_algorithms: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_algorithms)] = ("RS256", "ES256", "EdDSA")
    """How tokens may be signed, separated by commas."""
    sign_in_roles_claim: str = "roles"
    """Where tokens have the roles of their user: a list, or words in one text."""
    metrics_listen: ListenAddress = Address("127.0.0.1", 9464)
    """Where Prometheus metrics are served, at /metrics. If the default is taken, a free port is."""
    calls_max: Annotated[int, Field(ge=10, le=100_000)] = 2_000
    """Most calls under way at once, in each worker; streams have bounds of their own. Beyond half of it management is
    refused as RESOURCE_EXHAUSTED, beyond three quarters quota checks, beyond all verifications and what ends keys."""
    log_format: Literal["auto", "json", "pretty"] = "auto"
    """``auto`` is pretty on a terminal, JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    reflection: bool | None = None
    """Whether gRPC reflection is served; unless set, only with private stores."""
    drain_seconds: Annotated[float, Field(ge=0, le=300)] | None = None
    """How long health says NOT_SERVING before the server stops taking calls, so that clients and balancers
    go elsewhere first: longer than their health check takes. Unless set, 0.5 with private stores, else 2."""
    grace_seconds: Annotated[float, Field(ge=0, le=300)] = 10.0
    """How long calls under way may take to finish after that."""

    @property
    def embedded(self) -> bool:
        """Whether private stores are to run in ``data_dir``: development."""
        return self.postgres_url is None and self.redis_url is None

    @property
    def serves_reflection(self) -> bool:
        """``reflection``, with its default filled in."""
        return self.embedded if self.reflection is None else self.reflection

    @property
    def drains_for_seconds(self) -> float:
        """``drain_seconds``, with its default filled in."""
        if self.drain_seconds is not None:
            return self.drain_seconds
        return 0.5 if self.embedded else 2.0

    def given_postgres_url(self) -> str:
        """The URL of the database. Raises StartupError if it is not set."""
        return _given(self.postgres_url, "POSTGRES_URL")

    def given_stores(self) -> StoreUrls:
        """The URLs of both stores. Raises StartupError if one is not set."""
        return StoreUrls(postgres=self.given_postgres_url(), redis=_given(self.redis_url, "REDIS_URL"))

    def sign_in_from(self) -> Issuer | None:
        """Where signed-in users come from; None if none do. Raises StartupError if only a part of it is set."""
        needed = ("sign_in_issuer", "sign_in_audience", "sign_in_jwks", "sign_in_tenant")
        missing = [name for name in needed if getattr(self, name) is None]
        if len(missing) == len(needed):
            return None
        if missing:
            raise StartupError(
                f"{', '.join(PREFIX + name.upper() for name in missing)} must be set for users to sign in"
            )
        return Issuer(
            issuer=self.sign_in_issuer or "",
            audience=self.sign_in_audience or "",
            algorithms=self.sign_in_algorithms,
            tenant_id=self.sign_in_tenant or "",
            roles_claim=self.sign_in_roles_claim,
        )

    def given_profiles(self) -> Path:
        """The directory of profiles. Raises StartupError if it is not set."""
        if self.profiles is None:
            raise StartupError(f"{PREFIX}PROFILES must be set: the directory of the profiles of public APIs")
        return self.profiles

    def keyring(self) -> Keyring:
        """The secrets behind all API keys. Raises StartupError if they are not set."""
        return Keyring(peppers=_given(self.peppers, "PEPPERS"), tag_keys=_given(self.tag_keys, "TAG_KEYS"))


def load_settings(*, secrets_file: Path | None = None, workers: int | None = None) -> Settings:
    """Read the environment and, for what it leaves out, ``secrets_file``; raises StartupError naming all at fault.

    ``workers``, if given, goes before the environment.
    """
    given: dict[str, Any] = {} if workers is None else {"workers": workers}
    try:
        return Settings(_env_file=secrets_file, **given)  # type: ignore[call-arg]  # an argument of every BaseSettings
    except ValidationError as error:
        raise StartupError("; ".join(_explain(problem["loc"], problem["msg"]) for problem in error.errors())) from None


def _given(value: Secret[Value] | None, name: str) -> Value:
    if value is None:
        raise StartupError(f"{PREFIX}{name} must be set: {_FORMS[name]}")
    return value.get_secret_value()


def _explain(place: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{PREFIX}{str(place[0]).upper()}: {message}" if place else message
