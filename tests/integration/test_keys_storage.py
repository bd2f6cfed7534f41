"""The database under the keys: how it is reached, what its faults become, how its schema gets there."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.integration.keys_support import TABLES
from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.embedded import embedded_stores
from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage.migrate import migrate, schema_problem
from tollkeeper_server.storage.postgres import Postgres

PUBLIC_TEXT = "the database did not answer, or not in time"


@pytest.fixture
async def single(empty_postgres_url: str) -> AsyncIterator[Postgres]:
    """A pool of one connection."""
    postgres = await Postgres.connect(empty_postgres_url, pool_size=1)
    yield postgres
    await postgres.close()


async def answer(postgres: Postgres, query: str = "SELECT 42", *, timeout_seconds: float = 5.0) -> object:
    async with postgres.connection(timeout_seconds=timeout_seconds) as connection:
        return await connection.fetchval(query)


async def unavailable(postgres: Postgres, query: str = "SELECT 42", *, timeout_seconds: float = 5.0) -> None:
    with pytest.raises(Unavailable) as fault:
        await answer(postgres, query, timeout_seconds=timeout_seconds)
    assert (fault.value.message, fault.value.reason) == (PUBLIC_TEXT, "POSTGRES_UNAVAILABLE")
    assert fault.value.retry_after.total_seconds() > 0


async def recovered(postgres: Postgres) -> None:
    """Wait until it answers; meanwhile it may be unavailable, and nothing else."""
    async with asyncio.timeout(15):
        while True:
            try:
                assert await answer(postgres) == 42
            except Unavailable:
                await asyncio.sleep(0.02)
            else:
                return


async def test_a_statement_out_of_time_is_unavailable_and_leaves_the_pool_usable(single: Postgres) -> None:
    await unavailable(single, "SELECT pg_sleep(30)", timeout_seconds=0.1)
    assert await answer(single) == 42


async def test_waiting_for_a_connection_counts_as_well(single: Postgres) -> None:
    async with single.connection():
        await unavailable(single, timeout_seconds=0.1)
    assert await answer(single) == 42


async def test_a_connection_lost_under_a_statement_is_unavailable(empty_postgres_url: str, single: Postgres) -> None:
    owner = await asyncpg.connect(empty_postgres_url)
    pid = await answer(single, "SELECT pg_backend_pid()")
    lost = asyncio.create_task(unavailable(single, "SELECT pg_sleep(30)"))
    async with asyncio.timeout(5):
        while not await owner.fetchval("SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1", pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await owner.execute("SELECT pg_terminate_backend($1)", pid)
    await owner.close()
    await lost
    assert await answer(single) == 42


async def test_a_connection_lost_while_idle_is_replaced(empty_postgres_url: str, single: Postgres) -> None:
    admin = await asyncpg.connect(empty_postgres_url)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database()"
    )
    await admin.close()
    await recovered(single)


async def test_too_many_connections_are_unavailable(empty_postgres_url: str) -> None:
    admin = await asyncpg.connect(empty_postgres_url)
    await admin.execute("CREATE ROLE crowded LOGIN IN ROLE tollkeeper_app CONNECTION LIMIT 1")
    crowded = await Postgres.connect(empty_postgres_url.replace("postgres@", "crowded@"))
    async with crowded.connection():
        await unavailable(crowded)
    await crowded.close()
    await admin.execute("DROP ROLE crowded")
    await admin.close()


async def test_a_closed_pool_is_unavailable(empty_postgres_url: str) -> None:
    postgres = await Postgres.connect(empty_postgres_url)
    await postgres.close()
    await unavailable(postgres)


async def test_mistakes_are_not_mistaken_for_outages(single: Postgres) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        await answer(single, "SELECT * FROM nowhere")
    with pytest.raises(asyncpg.DataError):
        async with single.connection() as connection:
            await connection.fetchval("SELECT $1::int", "no number")


async def test_a_transaction_that_fails_leaves_nothing(single: Postgres) -> None:
    async def insert_and_fail() -> None:
        async with single.transaction() as connection:
            await connection.execute("INSERT INTO numbers VALUES (1)")
            await connection.execute("SELECT 1 / 0")

    await answer(single, "CREATE TEMP TABLE numbers (number int)")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await insert_and_fail()
    assert await answer(single, "SELECT count(*) FROM numbers") == 0


async def test_the_pool_recovers_after_postgres_crashed_and_after_it_was_away(tmp_path: Path) -> None:
    async with embedded_stores(tmp_path, durable=False) as urls:
        await migrate(urls.postgres)
        postgres = await Postgres.connect(urls.postgres, pool_size=3)
        async with postgres.connection(), postgres.connection() as other:
            os.kill(await other.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)  # Postgres then ends all others
        await recovered(postgres)
    await unavailable(postgres)
    await postgres.close()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://user:s3cret@127.0.0.1:1/db", "cannot reach Postgres at 127.0.0.1:1: "),
        ("postgresql://user:s3cret@nowhere.invalid/db", "cannot reach Postgres at nowhere.invalid: "),
        ("postgresql://user@/db?host=/nowhere&password=s3cret", "cannot reach Postgres at /nowhere: "),
        ("mysql://user:s3cret@127.0.0.1/db", "the Postgres URL is not valid; expected postgresql://"),
        ("postgresql://user:s3cret@host:port/db", "the Postgres URL is not valid; expected postgresql://"),
        ("s3cret", "the Postgres URL is not valid; expected postgresql://"),
    ],
)
async def test_a_url_that_leads_nowhere_is_told_in_one_line_without_the_password(url: str, text: str) -> None:
    for attempt in (Postgres.connect, migrate, schema_problem):
        with pytest.raises(StartupError) as fault:
            await attempt(url)
        line = str(fault.value)
        assert line.startswith(text)
        assert "s3cret" not in line
        assert "\n" not in line


async def test_a_database_or_user_that_does_not_exist_is_told_in_one_line(empty_postgres_url: str) -> None:
    for url, text in (
        (empty_postgres_url.replace("/test_", "/no_"), 'database "no_'),
        (empty_postgres_url.replace("postgres@", "nobody:s3cret@"), 'role "nobody" does not exist'),
    ):
        with pytest.raises(StartupError) as fault:
            await Postgres.connect(url)
        assert text in str(fault.value)
        assert "s3cret" not in str(fault.value)


async def test_many_processes_may_migrate_at_once_and_again(empty_postgres_url: str) -> None:
    assert "no schema yet" in (await schema_problem(empty_postgres_url) or "")
    await asyncio.gather(*(migrate(empty_postgres_url) for _ in range(4)))
    assert await schema_problem(empty_postgres_url) is None
    await migrate(empty_postgres_url)
    postgres = await Postgres.connect(empty_postgres_url)
    for table in TABLES:
        assert await answer(postgres, f"SELECT count(*) FROM {table}") == 0
    await postgres.close()


async def test_an_older_and_a_later_schema_are_told_apart(postgres_url: str) -> None:
    owner = await asyncpg.connect(postgres_url)
    await owner.execute("UPDATE alembic_version SET version_num = '0001'")
    assert "run `tollkeeper-server migrate`" in (await schema_problem(postgres_url) or "")
    await owner.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "upgrade the server" in (await schema_problem(postgres_url) or "")
    with pytest.raises(StartupError, match="upgrade the server"):
        await migrate(postgres_url)
    await owner.close()
