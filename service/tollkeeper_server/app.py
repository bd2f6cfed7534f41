"""Builds and connects everything; the only place that does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
import structlog
from prometheus_client import REGISTRY

from tollkeeper_server.api.access_log import AccessLog
from tollkeeper_server.api.admission import Admission
from tollkeeper_server.api.handler import Gate
from tollkeeper_server.api.health import HealthServicer
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.api.server import register
from tollkeeper_server.audit.service import AuditService
from tollkeeper_server.certificates import CertificateFiles
from tollkeeper_server.core.cache import RecordCache
from tollkeeper_server.departure import Departure
from tollkeeper_server.edge.client_address import ClientAddress
from tollkeeper_server.edge.document import Faulty
from tollkeeper_server.edge.library import ProfileLibrary
from tollkeeper_server.edge.server import register_edge
from tollkeeper_server.keys.lookup import SecretRecord
from tollkeeper_server.keys.propagation import Confirmations
from tollkeeper_server.keys.service import KeyService
from tollkeeper_server.keys.upgrades import Upgrades
from tollkeeper_server.ports import Listening, check_port, metrics_endpoint
from tollkeeper_server.quota.charging import charging
from tollkeeper_server.settings import PREFIX, Address, Settings, StoreUrls
from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.storage.redis import Redis
from tollkeeper_server.tls import server_credentials
from tollkeeper_server.usage.flusher import UsageFlusher
from tollkeeper_server.usage.recorder import UsageRecorder
from tollkeeper_server.usage.service import UsageService
from tollkeeper_server.usage.upkeep import UsageUpkeep
from tollkeeper_server.verify.callers import CallerAuthenticator
from tollkeeper_server.verify.directory import KeyDirectory
from tollkeeper_server.verify.proofs import Proofs
from tollkeeper_server.verify.quotas import Quotas
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The parts that serve calls, connected to their stores."""

    keys: KeyService
    usage: UsageService
    audit: AuditService
    verifier: Verifier
    watchers: Watchers
    quotas: Quotas
    proofs: Proofs
    authenticator: CallerAuthenticator
    profiles: ProfileLibrary | None
    """None if gateways are not served."""


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
        quotas = Quotas(directory=directory, charger=charger, usage=usage, clock=_now)
        proofs = Proofs(verifier)
        keys = KeyService(postgres=postgres, keyring=keyring, confirmations=confirmations, clock=_now)
        stack.push_async_callback(keys.close)
        yield Application(
            keys=keys,
            usage=UsageService(postgres=postgres, clock=_now),
            audit=AuditService(postgres=postgres),
            verifier=verifier,
            watchers=replica.watchers,
            quotas=quotas,
            proofs=proofs,
            authenticator=CallerAuthenticator(verifier, proofs=proofs, sign_in=_sign_in(settings)),
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
async def serving(
    parts: Application, settings: Settings, *, departure: Departure, shares_port: bool = False
) -> AsyncIterator[Listening]:
    """Serve gRPC and metrics during the block; at its end drain, so that no client notices.

    With ``shares_port`` other processes of this server may listen on the gRPC port as well. Raises StartupError if a
    port cannot be had.
    """
    log = structlog.get_logger()
    access_log = AccessLog(log)
    gate = Gate(
        authenticator=parts.authenticator,
        metrics=CallMetrics(REGISTRY),
        access_log=access_log,
        log=log,
        admission=Admission(settings.calls_max),
    )
    tls = CertificateFiles.of(settings)
    with metrics_endpoint(settings) as metrics_address:
        server = _server(shares_port=shares_port)
        health = register(
            server,
            gate=gate,
            verifier=parts.verifier,
            quotas=parts.quotas,
            proofs=parts.proofs,
            watchers=parts.watchers,
            keys=parts.keys,
            usage=parts.usage,
            audit=parts.audit,
            clock=_now,
            with_reflection=settings.serves_reflection,
        )
        address = _bind(server, settings.listen, tls, setting="LISTEN", shares_port=shares_port)
        edge_addresses: tuple[Address, ...] = ()
        servers = {server: health}
        if parts.profiles is not None and settings.edge_listen is not None:
            edge, servers[edge] = _edge_server(parts, parts.profiles, settings, gate)
            edge_addresses = (_bind(edge, settings.edge_listen, tls, setting="EDGE_LISTEN"),)
        for each in servers:
            await each.start()
        try:
            yield Listening(grpc=address, metrics=(metrics_address,), edge=edge_addresses)
        finally:
            await _say_goodbye(list(servers.values()), gate, settings, departure=departure)
            await asyncio.gather(
                *(_stop(each, grace_seconds=settings.grace_seconds, hurry=departure.hurry) for each in servers)
            )
            access_log.flush()


async def _say_goodbye(
    healths: Sequence[HealthServicer], gate: Gate, settings: Settings, *, departure: Departure
) -> None:
    """Tell that the server is going, so that clients go elsewhere, before anything is refused.

    Clients of a port on which others stay are not told by its health: theirs is the only connection that they have, and
    its end leads them to the others at once. Gateways have a port of this process alone.
    """
    shared, *own = healths
    for health in own:
        health.drain()
    await _first(departure.together, departure.hurry, within=settings.drains_for_seconds)
    if departure.together.is_set():
        shared.drain()
        gate.draining.set()
        await _first(departure.hurry, within=settings.drains_for_seconds)
    gate.draining.set()
    for health in healths:
        health.close()


def _edge_server(
    parts: Application, profiles: ProfileLibrary, settings: Settings, gate: Gate
) -> tuple[grpc.aio.Server, HealthServicer]:
    """The server for gateways, and its health to drain."""
    server = _server(shares_port=False)
    health = register_edge(
        server,
        gate=gate,
        verifier=parts.verifier,
        quotas=parts.quotas,
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


def _now() -> datetime:
    return datetime.now(UTC)


def _server(*, shares_port: bool) -> grpc.aio.Server:
    # Unless it is to be shared, a port that is taken is an error, not a second server on it.
    return grpc.aio.server(options=(*SERVER_OPTIONS, ("grpc.so_reuseport", int(shares_port))))


def _bind(
    server: grpc.aio.Server,
    address: Address,
    tls: CertificateFiles | None,
    *,
    setting: str,
    shares_port: bool = False,
) -> Address:
    if not shares_port:
        check_port(address, setting=setting)  # says why, which gRPC does not
    try:
        if tls is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), server_credentials(tls))
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {address}") from error
    return Address(address.host, port)


async def _stop(server: grpc.aio.Server, *, grace_seconds: float, hurry: asyncio.Event) -> None:
    stopping = asyncio.create_task(server.stop(grace_seconds))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait({stopping, hurried}, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not stopping.done():
        await server.stop(None)
    await stopping


async def _first(*events: asyncio.Event, within: float) -> None:
    """Wait for one of ``events``, so many seconds at most."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
