"""Builds and connects everything; the only place that does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import grpc
import structlog
from prometheus_client import REGISTRY

from tollkeeper_server.api.access_log import AccessLog
from tollkeeper_server.api.handler import Gate
from tollkeeper_server.api.health import HealthServicer
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.api.server import register
from tollkeeper_server.audit.service import AuditService
from tollkeeper_server.core.cache import RecordCache
from tollkeeper_server.core.caller import Caller, CallerPermission
from tollkeeper_server.core.key import ROOT_TENANT
from tollkeeper_server.edge.client_address import ClientAddress
from tollkeeper_server.edge.document import Faulty
from tollkeeper_server.edge.library import ProfileLibrary
from tollkeeper_server.edge.server import register_edge
from tollkeeper_server.keys.commands import CreateKey
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.keys.propagation import Confirmations
from tollkeeper_server.keys.service import KeyService
from tollkeeper_server.keys.upgrades import Upgrades
from tollkeeper_server.ports import check_port, metrics_endpoint
from tollkeeper_server.quota.charging import charging
from tollkeeper_server.settings import PREFIX, Address, Settings, StoreUrls
from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.storage.redis import Redis
from tollkeeper_server.usage.flusher import UsageFlusher
from tollkeeper_server.usage.recorder import UsageRecorder
from tollkeeper_server.usage.service import UsageService
from tollkeeper_server.usage.upkeep import UsageUpkeep
from tollkeeper_server.verify.callers import CallerAuthenticator
from tollkeeper_server.verify.directory import KeyDirectory
from tollkeeper_server.verify.replica import Replica
from tollkeeper_server.verify.sign_in import SignIn
from tollkeeper_server.verify.signing_keys import SigningKeys
from tollkeeper_server.verify.verifier import Verifier
from tollkeeper_server.verify.watchers import Watchers

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""Largest request: a batch of 1,000 verifications, each with all that it may carry."""
METADATA_BYTES_MAX = 8 * 1024

CACHE_BOUNDS = {"unknown_max": 100_000, "tombstones_max": 100_000, "age_max_seconds": 60}

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
    usage: UsageService
    audit: AuditService
    verifier: Verifier
    watchers: Watchers
    authenticator: CallerAuthenticator
    profiles: ProfileLibrary | None
    """None if gateways are not served."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a running server is found."""

    grpc: Address
    metrics: Address
    edge: Address | None = None
    """For gateways."""

    def log_fields(self) -> dict[str, str]:
        """Every place that there is."""
        places = {"address": self.grpc, "metrics": self.metrics, "edge": self.edge}
        return {name: str(place) for name, place in places.items() if place is not None}


@contextlib.asynccontextmanager
async def application(settings: Settings, stores: StoreUrls) -> AsyncIterator[Application]:
    """Connect to the stores and build everything on them; what is built last is closed first. Raises StartupError."""
    async with contextlib.AsyncExitStack() as stack:
        keyring = settings.keyring()
        postgres = await Postgres.connect(stores.postgres, pool_size=settings.postgres_pool_size)
        stack.push_async_callback(postgres.close)
        redis = await Redis.connect(stores.redis)
        stack.push_async_callback(redis.close)
        cache = RecordCache[SecretRecord](entries_max=settings.cache_keys, **CACHE_BOUNDS)
        replica = Replica(stores.postgres, cache=cache)
        stack.push_async_callback(replica.leave)
        await stack.enter_async_context(_background(replica.run(), name="replica"))
        confirmations = Confirmations(postgres, clock=_now)
        stack.push_async_callback(confirmations.close)
        upgrades = Upgrades(postgres, pepper_version=keyring.current_pepper_version)
        await stack.enter_async_context(_background(upgrades.run(), name="upgrades"))
        directory = KeyDirectory(postgres, keyring=keyring, cache=cache, replica=replica, upgrades=upgrades)
        stack.push_async_callback(directory.close)
        charger = await stack.enter_async_context(charging(postgres, redis))
        usage = UsageRecorder()
        await stack.enter_async_context(_counting(usage, postgres))
        verifier = Verifier(directory=directory, charger=charger, usage=usage, clock=_now)
        keys = KeyService(postgres=postgres, keyring=keyring, confirmations=confirmations, clock=_now)
        stack.push_async_callback(keys.close)
        yield Application(
            keys=keys,
            usage=UsageService(postgres=postgres, clock=_now),
            audit=AuditService(postgres=postgres),
            verifier=verifier,
            watchers=replica.watchers,
            authenticator=CallerAuthenticator(verifier, sign_in=_sign_in(settings)),
            profiles=await stack.enter_async_context(_profiles(settings)),
        )


@contextlib.asynccontextmanager
async def _counting(usage: UsageRecorder, postgres: Postgres) -> AsyncIterator[None]:
    """Store what is counted during the block, the last of it at its end, and keep what is stored in shape."""
    flusher = UsageFlusher(usage, postgres=postgres)
    upkeep = UsageUpkeep(postgres=postgres, clock=_now)
    try:
        async with _background(flusher.run(), name="usage"), _background(upkeep.run(), name="usage_upkeep"):
            yield
    finally:
        await flusher.close()


def _sign_in(settings: Settings) -> SignIn | None:
    """None if users may not sign in."""
    issuer = settings.sign_in_from()
    if issuer is None or settings.sign_in_jwks is None:
        return None
    return SignIn(issuer, keys=SigningKeys(settings.sign_in_jwks))


@contextlib.asynccontextmanager
async def _profiles(settings: Settings) -> AsyncIterator[ProfileLibrary | None]:
    """The profiles of the public APIs, following their files."""
    if settings.edge_listen is None:
        yield None
        return
    try:
        profiles = ProfileLibrary(settings.given_profiles(), log=structlog.get_logger())
    except Faulty as error:
        raise StartupError(f"the profiles are not valid:\n{error}") from None
    async with _background(profiles.watch(), name="profiles"):
        yield profiles


@contextlib.asynccontextmanager
async def _background(work: Coroutine[None, None, None], *, name: str) -> AsyncIterator[None]:
    """Do ``work`` beside the block, which ends it; should it fail before, that is logged at once."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (fault := task.exception()) is not None:
        structlog.get_logger().error("background_task_failed", task=task.get_name(), exc_info=fault)


@contextlib.asynccontextmanager
async def serving(parts: Application, settings: Settings, *, hurry: asyncio.Event) -> AsyncIterator[Listening]:
    """Serve gRPC and metrics during the block; at its end drain, so that no client notices.

    Draining tells first that the server is going, so that clients go elsewhere, and only then refuses calls; what is
    under way may finish. ``hurry`` ends it at once. Raises StartupError if a port cannot be had.
    """
    log = structlog.get_logger()
    access_log = AccessLog(log)
    gate = Gate(authenticator=parts.authenticator, metrics=CallMetrics(REGISTRY), access_log=access_log, log=log)
    with metrics_endpoint(settings) as metrics_address:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        health = register(
            server,
            gate=gate,
            verifier=parts.verifier,
            watchers=parts.watchers,
            keys=parts.keys,
            usage=parts.usage,
            audit=parts.audit,
            clock=_now,
            with_reflection=settings.serves_reflection,
        )
        listening = Listening(grpc=_bind(server, settings.listen, setting="LISTEN"), metrics=metrics_address)
        servers = {server: health}
        if parts.profiles is not None and settings.edge_listen is not None:
            edge, servers[edge] = _edge_server(parts, parts.profiles, settings, gate)
            listening = replace(listening, edge=_bind(edge, settings.edge_listen, setting="EDGE_LISTEN"))
        for each in servers:
            await each.start()
        try:
            log.info("serving", **listening.log_fields())
            yield listening
        finally:
            for health in servers.values():
                health.drain()
            gate.draining.set()
            await _occurs(hurry, within=settings.drains_for_seconds)
            for health in servers.values():
                health.close()
            await asyncio.gather(*(_stop(each, grace_seconds=settings.grace_seconds, hurry=hurry) for each in servers))
            access_log.flush()


def _edge_server(
    parts: Application, profiles: ProfileLibrary, settings: Settings, gate: Gate
) -> tuple[grpc.aio.Server, HealthServicer]:
    """The server for gateways, and its health to drain."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    health = register_edge(
        server,
        gate=gate,
        verifier=parts.verifier,
        keys=parts.keys,
        profiles=profiles,
        client_address=_client_address(settings),
        clock=_now,
    )
    return server, health


def _client_address(settings: Settings) -> ClientAddress:
    try:
        return ClientAddress.parse(settings.client_address)
    except ValueError as error:
        raise StartupError(f"{PREFIX}CLIENT_ADDRESS: {error}") from None


async def create_root_key(settings: Settings, postgres_url: str) -> str:
    """Create a key of the root tenant that may call everything, and give its API key. Raises StartupError."""
    postgres = await Postgres.connect(postgres_url, pool_size=1)
    try:
        confirmations = Confirmations(postgres, clock=_now)
        keys = KeyService(postgres=postgres, keyring=settings.keyring(), confirmations=confirmations, clock=_now)
        created = await keys.create(_BOOTSTRAP, CreateKey(name="root", permissions=tuple(CallerPermission)))
        return created.api_key
    finally:
        await postgres.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _bind(server: grpc.aio.Server, address: Address, *, setting: str) -> Address:
    check_port(address, setting=setting)  # says why, which gRPC does not
    try:
        return Address(address.host, server.add_insecure_port(str(address)))
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {address}") from error


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
