"""The gRPC servers of one process: what they serve, where they listen, and how they leave."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import grpc
import structlog
from prometheus_client import REGISTRY

from tollkeeper_server.api.access_log import AccessLog
from tollkeeper_server.api.admission import Admission
from tollkeeper_server.api.handler import Gate
from tollkeeper_server.api.health import HealthServicer
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.api.server import register
from tollkeeper_server.app import Application, now
from tollkeeper_server.certificates import CertificateFiles
from tollkeeper_server.departure import Departure
from tollkeeper_server.edge.client_address import ClientAddress
from tollkeeper_server.edge.library import ProfileLibrary
from tollkeeper_server.edge.server import register_edge
from tollkeeper_server.ports import Listening, check_port, metrics_endpoint
from tollkeeper_server.settings import PREFIX, Address, Settings
from tollkeeper_server.startup import StartupError
from tollkeeper_server.tls import server_credentials

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""Largest request: a batch of 1,000 verifications, each with all that it may carry."""
METADATA_BYTES_MAX = 8 * 1024

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
            clock=now,
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
        clock=now,
    )
    return server, health


def _client_address(settings: Settings) -> ClientAddress:
    try:
        return ClientAddress.parse(settings.client_address)
    except ValueError as error:
        raise StartupError(f"{PREFIX}CLIENT_ADDRESS: {error}") from None


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
