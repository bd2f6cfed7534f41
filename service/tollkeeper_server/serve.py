"""The life of a server: find the stores, serve until told to stop, take everything down in order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog

from tollkeeper_server.api.logs import configure_logging
from tollkeeper_server.bootstrap import create_root_key
from tollkeeper_server.certificates import CertificateFiles
from tollkeeper_server.departure import Departure
from tollkeeper_server.development import DataDirectory, greeting
from tollkeeper_server.ports import Listening, check_ports
from tollkeeper_server.settings import PREFIX, Settings, StoreUrls, load_settings
from tollkeeper_server.startup import StartupError, spare_the_collector
from tollkeeper_server.storage.migrate import migrate, schema_problem
from tollkeeper_server.workers import workers


async def serve(settings: Settings, *, tell: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT (Ctrl-C), then drain and stop; a second signal skips the draining.

    ``tell`` shows text to whoever started a development server. Raises StartupError.
    """
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    check_ports(settings)
    if files := CertificateFiles.of(settings):
        files.read()
    departure = Departure()
    with departure.ends_this():
        if settings.embedded:
            await _serve_development(settings, departure=departure, tell=tell)
        else:
            await _serve_production(settings, departure=departure)


async def _serve_production(settings: Settings, *, departure: Departure) -> None:
    stores = settings.given_stores()
    if problem := await schema_problem(stores.postgres):
        raise StartupError(problem)
    async with _serving(settings, stores, departure=departure):
        await _forever()


async def _serve_development(settings: Settings, *, departure: Departure, tell: Callable[[str], None]) -> None:
    try:
        from tollkeeper_server.embedded import embedded_stores
    except ModuleNotFoundError:
        raise StartupError(
            f"set {PREFIX}POSTGRES_URL and {PREFIX}REDIS_URL, "
            "or pip install 'tollkeeper-server[embedded]' to run private stores"
        ) from None
    data = DataDirectory(settings.data_dir)
    with data.held():
        data.ensure_secrets()
        settings = load_settings(secrets_file=data.secrets_file, workers=settings.workers)
        async with embedded_stores(data.path) as stores:
            await migrate(stores.postgres)
            new_root_key = await _ensure_root_key(settings, stores, data)
            async with _serving(settings, stores, departure=departure, secrets_file=data.secrets_file) as listening:
                with data.address_published(listening.grpc):
                    tell(greeting(data, listening.grpc, listening.metrics, new_root_key=new_root_key))
                    await _forever()


async def _ensure_root_key(settings: Settings, stores: StoreUrls, data: DataDirectory) -> str | None:
    """Create the root key unless the data directory has one; gives its API key if it is new."""
    if data.root_key_file.exists():
        return None
    api_key = await create_root_key(settings, stores.postgres)
    data.keep_root_key(api_key)
    return api_key


@contextlib.asynccontextmanager
async def _serving(
    settings: Settings, stores: StoreUrls, *, departure: Departure, secrets_file: Path | None = None
) -> AsyncIterator[Listening]:
    """Serve during the block, in this process or in workers."""
    if settings.workers > 1:
        served = workers(settings, stores, secrets_file=secrets_file, hurry=departure.hurry)
    else:
        served = _serving_here(settings, stores, departure=departure)
    async with served as listening:
        structlog.get_logger().info("serving", **listening.log_fields())
        yield listening


@contextlib.asynccontextmanager
async def _serving_here(settings: Settings, stores: StoreUrls, *, departure: Departure) -> AsyncIterator[Listening]:
    from tollkeeper_server.app import application  # gRPC: nothing for the parent of workers
    from tollkeeper_server.servers import serving

    async with application(settings, stores) as parts, serving(parts, settings, departure=departure) as listening:
        spare_the_collector()
        yield listening


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()
