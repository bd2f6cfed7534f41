"""The life of a server process: find the stores, serve until told to stop, take everything down in order."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from tollkeeper_server.api.logs import configure_logging
from tollkeeper_server.app import application, create_root_key, serving
from tollkeeper_server.development import DataDirectory, greeting
from tollkeeper_server.ports import check_ports
from tollkeeper_server.settings import PREFIX, Settings, StoreUrls, load_settings
from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage.migrate import migrate, schema_problem


async def serve(settings: Settings, *, tell: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT (Ctrl-C), then drain and stop; a second signal skips the draining.

    ``tell`` shows text to whoever started a development server. Raises StartupError.
    """
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    check_ports(settings)
    hurry = asyncio.Event()
    with _until_signalled(hurry):
        if settings.embedded:
            await _serve_development(settings, hurry=hurry, tell=tell)
        else:
            await _serve_production(settings, hurry=hurry)


async def _serve_production(settings: Settings, *, hurry: asyncio.Event) -> None:
    stores = settings.given_stores()
    if problem := await schema_problem(stores.postgres):
        raise StartupError(problem)
    async with application(settings, stores) as parts, serving(parts, settings, hurry=hurry):
        await _forever()


async def _serve_development(settings: Settings, *, hurry: asyncio.Event, tell: Callable[[str], None]) -> None:
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
        settings = load_settings(secrets_file=data.secrets_file)
        async with embedded_stores(data.path) as stores:
            await migrate(stores.postgres)
            new_root_key = await _ensure_root_key(settings, stores, data)
            async with application(settings, stores) as parts, serving(parts, settings, hurry=hurry) as listening:
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


@contextlib.contextmanager
def _until_signalled(hurry: asyncio.Event) -> Iterator[None]:
    """Let SIGTERM or SIGINT cancel the block, which then ends as if it were done; a second one sets ``hurry``."""
    task = asyncio.current_task()
    assert task is not None
    signalled = False

    def signal_received() -> None:
        nonlocal signalled
        if signalled:
            hurry.set()
        else:
            signalled = True
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signal_received)
    try:
        yield
    except asyncio.CancelledError:
        if not signalled:
            raise
        task.uncancel()


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()
