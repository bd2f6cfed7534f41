"""Builds and connects everything; the only place that does."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
import structlog
from prometheus_client import REGISTRY, start_http_server

from tollkeeper_server.api.handler import Gate
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.api.server import register
from tollkeeper_server.core.cache import RecordCache
from tollkeeper_server.core.caller import Caller, CallerPermission
from tollkeeper_server.core.key import ROOT_TENANT
from tollkeeper_server.keys.commands import CreateKey
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.keys.service import KeyService
from tollkeeper_server.quota.charger import Charger
from tollkeeper_server.quota.rate_store import RateStore
from tollkeeper_server.quota.rates import Rates
from tollkeeper_server.settings import PREFIX, Address, Settings, StoreUrls
from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.storage.redis import Redis
from tollkeeper_server.verify.callers import CallerAuthenticator
from tollkeeper_server.verify.directory import KeyDirectory
from tollkeeper_server.verify.replica import Replica
from tollkeeper_server.verify.verifier import Verifier

MESSAGE_BYTES_MAX = 1024 * 1024
"""Largest request: a batch of 1,000 verifications with a kilobyte for each."""
METADATA_BYTES_MAX = 8 * 1024

CACHE_BOUNDS = {"entries_max": 100_000, "unknown_max": 100_000, "tombstones_max": 100_000, "age_max_seconds": 60}

SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port that is taken is an error, not a second server on it
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.max_concurrent_streams", 1000),
    # Clients may ping every 10 s or slower, also when idle; more often, and they are sent away.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A client that vanished is noticed after a minute and 20 s.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

_BOOTSTRAP = Caller(key_id="bootstrap", tenant_id=ROOT_TENANT, permissions=("tollkeeper:*",))
"""Who creates root keys: whoever may read the server's secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The parts that serve calls, connected to their stores."""

    keys: KeyService
    verifier: Verifier
    authenticator: CallerAuthenticator


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a running server is found."""

    grpc: Address
    metrics: Address


@contextlib.asynccontextmanager
async def application(settings: Settings, stores: StoreUrls) -> AsyncIterator[Application]:
    """Connect to the stores and build everything on them; what is built last is closed first. Raises StartupError."""
    async with contextlib.AsyncExitStack() as stack:
        keyring = settings.keyring()
        postgres = await Postgres.connect(stores.postgres, pool_size=settings.postgres_pool_size)
        stack.push_async_callback(postgres.close)
        redis = await Redis.connect(stores.redis)
        stack.push_async_callback(redis.close)
        cache = RecordCache[SecretRecord](**CACHE_BOUNDS)
        # The replica does not run: without a lease every question is answered from Postgres, as long as mutations do
        # not wait for replicas to acknowledge them.
        directory = KeyDirectory(postgres, cache=cache, replica=Replica(stores.postgres, cache=cache))
        stack.push_async_callback(directory.close)
        charger = Charger(rates=Rates(RateStore(redis)))
        stack.push_async_callback(charger.close)
        verifier = Verifier(keyring=keyring, directory=directory, charger=charger, clock=_now)
        yield Application(
            keys=KeyService(postgres=postgres, keyring=keyring, clock=_now),
            verifier=verifier,
            authenticator=CallerAuthenticator(verifier),
        )


@contextlib.asynccontextmanager
async def serving(parts: Application, settings: Settings, *, hurry: asyncio.Event) -> AsyncIterator[Listening]:
    """Serve gRPC and metrics during the block; at its end drain, so that no client notices.

    Draining tells first that the server is going, so that clients go elsewhere, and only then refuses calls; what is
    under way may finish. ``hurry`` ends it at once. Raises StartupError if a port cannot be had.
    """
    with _metrics_endpoint(settings) as metrics_address:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        health = register(
            server,
            gate=Gate(authenticator=parts.authenticator, metrics=CallMetrics(REGISTRY), log=structlog.get_logger()),
            verifier=parts.verifier,
            keys=parts.keys,
            clock=_now,
            with_reflection=settings.serves_reflection,
        )
        address = _bind(server, settings.listen)
        await server.start()
        try:
            yield Listening(address, metrics_address)
        finally:
            health.drain()
            await _occurs(hurry, within=settings.drains_for_seconds)
            health.close()
            await _stop(server, grace_seconds=settings.grace_seconds, hurry=hurry)


async def create_root_key(settings: Settings, postgres_url: str) -> str:
    """Create a key of the root tenant that may call everything, and give its API key. Raises StartupError."""
    postgres = await Postgres.connect(postgres_url, pool_size=1)
    try:
        keys = KeyService(postgres=postgres, keyring=settings.keyring(), clock=_now)
        created = await keys.create(_BOOTSTRAP, CreateKey(name="root", permissions=tuple(CallerPermission)))
        return created.api_key
    finally:
        await postgres.close()


def check_port(address: Address, *, setting: str) -> None:
    """Raise StartupError unless this process could listen on ``address``."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StartupError(f"cannot listen on {address}: {reason}; {PREFIX}{setting} names another place") from error


def _now() -> datetime:
    return datetime.now(UTC)


def _bind(server: grpc.aio.Server, address: Address) -> Address:
    check_port(address, setting="LISTEN")  # says why, which gRPC does not
    try:
        return Address(address.host, server.add_insecure_port(str(address)))
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {address}") from error


@contextlib.contextmanager
def _metrics_endpoint(settings: Settings) -> Iterator[Address]:
    address = settings.metrics_listen
    chosen = "metrics_listen" in settings.model_fields_set
    try:
        check_port(address, setting="METRICS_LISTEN")
    except StartupError:
        if chosen:
            raise
        address = Address(address.host, 0)
    endpoint, thread = start_http_server(address.port, address.host, registry=REGISTRY)
    try:
        yield Address(address.host, endpoint.server_port)
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()


async def _stop(server: grpc.aio.Server, *, grace_seconds: float, hurry: asyncio.Event) -> None:
    stopping = asyncio.create_task(server.stop(grace_seconds))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait({stopping, hurried}, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not stopping.done():
        await server.stop(None)
    await stopping


async def _occurs(event: asyncio.Event, *, within: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), within)
