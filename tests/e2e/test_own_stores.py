"""`tollkeeper-server` on stores by URL, as in production: what it needs, and how it says what is missing."""

from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis.asyncio

from tests.e2e.server_process import ServerProcess, refusal, run
from tollkeeper import Client, DecisionCode


def test_a_new_database_is_migrated_given_a_root_key_and_served(
    own_stores: dict[str, str], empty_postgres_url: str, tmp_path: Path
) -> None:
    stores = own_stores | {"POSTGRES_URL": empty_postgres_url}
    assert "the database has no schema yet" in (line := refusal("serve", **stores))
    assert "run `tollkeeper-server migrate`" in line
    for _ in ("new", "again, harmlessly"):
        migrated = run("tollkeeper-server", "migrate", POSTGRES_URL=empty_postgres_url)
        assert (migrated.returncode, migrated.stderr) == (0, "")
    created = run("tollkeeper-server", "create-root-key", **stores)
    assert (created.returncode, created.stderr) == (0, "")
    with ServerProcess(tmp_path, **stores) as server, Client(server.address, token=created.stdout.strip()) as client:
        assert client.verify(client.create_key(tenant_id="acme").api_key).code is DecisionCode.ALLOWED
        assert server.stdout == ""
        assert not list(tmp_path.iterdir())


async def test_a_newer_schema_is_refused(own_stores: dict[str, str]) -> None:
    connection = await asyncpg.connect(own_stores["POSTGRES_URL"])
    await connection.execute("UPDATE alembic_version SET version_num = 'from-the-future'")
    await connection.close()
    for command in ("serve", "migrate"):
        assert "upgrade the server" in refusal(command, **own_stores)


@pytest.mark.parametrize(
    ("setting", "url", "said"),
    [
        ("POSTGRES_URL", "postgresql://toll:hunter2@127.0.0.1:1/toll", "cannot reach Postgres at 127.0.0.1:1"),
        ("POSTGRES_URL", "postgresql://toll:hunter2@host:port/toll", "the Postgres URL is not valid"),
        ("POSTGRES_URL", "mysql://toll:hunter2@127.0.0.1/toll", "TOLLKEEPER_POSTGRES_URL: must start with"),
        ("REDIS_URL", "redis://toll:hunter2@127.0.0.1:1/0", "cannot use Redis at 127.0.0.1:1: Connection refused"),
        ("REDIS_URL", "redis://toll:hunter2@host:port/0", "the Redis URL is not valid"),
        ("REDIS_URL", "toll:hunter2@127.0.0.1", "TOLLKEEPER_REDIS_URL: must start with"),
    ],
)
def test_a_wrong_url_is_told_in_one_line(setting: str, url: str, said: str, own_stores: dict[str, str]) -> None:
    assert said in refusal("serve", **own_stores | {setting: url})


def test_a_database_or_user_that_is_not_there_is_told_in_one_line(own_stores: dict[str, str]) -> None:
    url = urlsplit(own_stores["POSTGRES_URL"])
    for wrong, said in (
        (url._replace(path="/nowhere"), 'database "nowhere" does not exist'),
        (url._replace(netloc="nobody:hunter2@"), 'role "nobody" does not exist'),
    ):
        assert said in refusal("serve", **own_stores | {"POSTGRES_URL": wrong.geturl()})


async def test_a_wrong_password_of_redis_is_told_in_one_line(own_stores: dict[str, str]) -> None:
    async with redis.asyncio.from_url(own_stores["REDIS_URL"]) as client:
        await client.acl_setuser("toll", enabled=True, passwords=["+right"], commands=["+@all"])
        wrong = own_stores["REDIS_URL"].replace("unix://", "unix://toll:hunter2@")
        said = refusal("serve", **own_stores | {"REDIS_URL": wrong})
        await client.acl_deluser("toll")
    assert "cannot use Redis at" in said
    assert "invalid username-password pair" in said


@pytest.mark.parametrize("missing", ["POSTGRES_URL", "REDIS_URL", "PEPPERS", "TAG_KEYS"])
def test_what_is_not_set_is_named(missing: str, own_stores: dict[str, str]) -> None:
    del own_stores[missing]
    assert f"TOLLKEEPER_{missing} must be set: " in refusal("serve", **own_stores)


def test_nothing_runs_without_being_told_where(tmp_path: Path) -> None:
    for command in ("migrate", "create-root-key"):
        assert "TOLLKEEPER_POSTGRES_URL must be set: postgresql://" in refusal(command, DATA_DIR=str(tmp_path))
