"""The database schema: forward only, one migration at a time."""

import asyncio
from pathlib import Path

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage.postgres import connect
from tollkeeper_server.storage.roles import fence

LOCK_WAIT_SECONDS = 60.0

_LOCK = 0x746F6C6C6B656570  # "tollkeep"
_FOLDER = Path(__file__).parent / "migrations"


async def migrate(url: str) -> None:
    """Bring the schema to this code's revision; does nothing if it is there already.

    Several processes may do this at once: one works, the others wait for it. Raises StartupError if Postgres cannot be
    reached, if the wait takes longer than a minute, or if the schema belongs to a later version of this server.
    """
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: connect(url, as_owner=True), poolclass=NullPool
    )
    async with engine.connect() as connection:
        # The lock lives as long as the connection, which is closed below.
        try:
            async with asyncio.timeout(LOCK_WAIT_SECONDS):
                await connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
        except TimeoutError as error:
            raise StartupError("another migration of this database has been running for a minute") from error
        current = await connection.run_sync(_current_revision)
        await connection.commit()  # each migration begins a transaction of its own
        if current not in _known_revisions():
            raise StartupError(_newer(current))
        await connection.run_sync(_upgrade)
        await connection.run_sync(fence)
        await connection.commit()


async def schema_problem(url: str) -> str | None:
    """None if the schema is at this code's revision, otherwise one line that says what to do.

    Raises StartupError if Postgres cannot be reached.
    """
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: connect(url, as_owner=True), poolclass=NullPool
    )
    async with engine.connect() as connection:
        current = await connection.run_sync(_current_revision)
    head = _scripts().get_current_head()
    if current == head:
        return None
    if current not in _known_revisions():
        return _newer(current)
    have = "no schema yet" if current is None else f"schema {current}"
    return f"the database has {have}, this server needs schema {head}: run `tollkeeper-server migrate`"


def _engine(url: str) -> AsyncEngine:
    return create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: connect(url, as_owner=True), poolclass=NullPool
    )


def _newer(current: str | None) -> str:
    return f"the database has schema {current}, which this server does not know: upgrade the server"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _known_revisions() -> set[str | None]:
    return {None, *(script.revision for script in _scripts().walk_revisions())}


def _current_revision(connection: sqlalchemy.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _upgrade(connection: sqlalchemy.Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
