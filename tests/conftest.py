"""Real stores for every test: one Postgres and one Valkey for the session, a fresh database for each test."""

import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
import redis.asyncio

from tollkeeper_server.embedded import embedded_stores
from tollkeeper_server.settings import StoreUrls
from tollkeeper_server.storage.migrate import migrate

_numbers = itertools.count()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stores() -> AsyncIterator[StoreUrls]:
    """The session's Postgres and Valkey, its database ``tollkeeper`` migrated: the template of all others."""
    with tempfile.TemporaryDirectory(prefix="tollkeeper-tests-") as directory:
        async with embedded_stores(Path(directory), durable=False) as urls:
            await migrate(urls.postgres)
            yield urls


@pytest.fixture
async def postgres_url(stores: StoreUrls) -> AsyncIterator[str]:
    """URL of a fresh, migrated database."""
    async with _fresh_database(stores, template="tollkeeper") as url:
        yield url


@pytest.fixture
async def postgres_urls(stores: StoreUrls) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Gives the URL of another fresh, migrated database each time."""
    async with contextlib.AsyncExitStack() as stack:
        yield lambda: stack.enter_async_context(_fresh_database(stores, template="tollkeeper"))


@pytest.fixture
async def empty_postgres_url(stores: StoreUrls) -> AsyncIterator[str]:
    """URL of a fresh database without any table."""
    async with _fresh_database(stores, template="template1") as url:
        yield url


@pytest.fixture
async def redis_url(stores: StoreUrls) -> str:
    """URL of an empty Valkey."""
    async with redis.asyncio.from_url(stores.redis) as client:
        await client.flushall()
    return stores.redis


@contextlib.asynccontextmanager
async def _fresh_database(stores: StoreUrls, *, template: str) -> AsyncIterator[str]:
    name = f"test_{next(_numbers)}"
    admin = await asyncpg.connect(stores.postgres.replace("/tollkeeper?", "/postgres?"))
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield stores.postgres.replace("/tollkeeper?", f"/{name}?")
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()
