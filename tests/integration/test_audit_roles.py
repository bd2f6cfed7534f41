"""The role that servers act as: what it cannot do to the database, and whose rows are there for it."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.integration.keys_support import ACME, OTHER, ROOT, Keys, keys_on
from tollkeeper_server.audit.events import ListAuditEvents
from tollkeeper_server.audit.service import AuditService
from tollkeeper_server.embedded import embedded_stores
from tollkeeper_server.keys.commands import RevokeKey
from tollkeeper_server.settings import StoreUrls
from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage.migrate import migrate, schema_problem
from tollkeeper_server.storage.postgres import APPLICATION_ROLE, Postgres, connect

Connection = asyncpg.Connection

TABLES = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"


@pytest.fixture
async def keys(postgres_url: str) -> AsyncIterator[Keys]:
    async with keys_on(postgres_url) as keys:
        for caller, tenant_id in ((ACME, "acme"), (OTHER, "other")):
            await keys.create(caller, tenant_id=tenant_id, request_id="r")
        yield keys


@pytest.fixture
async def role(postgres_url: str, keys: Keys) -> AsyncIterator[Connection]:
    """A connection of the role, as the role would make one itself: without any setting."""
    connection = await asyncpg.connect(postgres_url, server_settings={"role": APPLICATION_ROLE})
    yield connection
    await connection.close()


async def names(keys: Keys, query: str = TABLES) -> list[str]:
    return [str(row["relname"]) for row in await keys.rows(query)]


async def test_every_connection_of_a_server_acts_as_the_role(postgres_url: str, keys: Keys) -> None:
    async with keys.postgres.connection() as connection:
        assert await connection.fetchval("SELECT current_user") == APPLICATION_ROLE
        await connection.execute("RESET ROLE")
        assert await connection.fetchval("SELECT current_user") == APPLICATION_ROLE
    outside = await connect(postgres_url)
    assert await outside.fetchval("SELECT current_user") == APPLICATION_ROLE
    await outside.close()


async def test_the_role_can_do_nothing_to_the_audit_log_but_add_to_it(role: Connection) -> None:
    await role.execute("SELECT set_config('tollkeeper.tenant', 'acme', false)")
    columns = [
        row["column_name"]
        for row in await role.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'audit_events'"
        )
    ]
    assert len(columns) == 13
    for statement in (
        *(f"UPDATE audit_events SET {column} = {column}" for column in columns),
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "SELECT FROM audit_events FOR UPDATE",
        "INSERT INTO audit_events TABLE audit_events ON CONFLICT (tenant_id, sequence) DO UPDATE SET actor = ''",
        "MERGE INTO audit_events AS it USING tenants ON true WHEN MATCHED THEN DELETE",
        "DO $$ BEGIN LOCK TABLE audit_events IN ACCESS EXCLUSIVE MODE; END $$",
        "CREATE RULE quiet AS ON INSERT TO audit_events DO INSTEAD NOTHING",
        "CREATE TRIGGER quiet BEFORE INSERT ON audit_events EXECUTE FUNCTION chain_audit_event()",
        "DROP TRIGGER chain_audit_event ON audit_events",
        "ALTER FUNCTION audit_hash RENAME TO other_hash",
        "DROP FUNCTION chain_audit_event",
        "DROP POLICY tenant ON audit_events",
        "SET session_replication_role = replica",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await role.execute(statement)
    assert await role.fetchval("SELECT count(*) FROM audit_events") == 1


async def test_the_role_changes_no_schema(keys: Keys, role: Connection) -> None:
    statements = [
        "CREATE TABLE mine ()",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "UPDATE alembic_version SET version_num = ''",
    ]
    for table in await names(keys):
        statements += [
            f"ALTER TABLE {table} ADD COLUMN more text",
            f"ALTER TABLE {table} DISABLE TRIGGER USER",
            f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} OWNER TO {APPLICATION_ROLE}",
            f"CREATE POLICY mine ON {table}",
            f"CREATE INDEX ON {table} ((1))",
            f"TRUNCATE {table}",
            f"DROP TABLE {table} CASCADE",
        ]
    assert len(statements) > 100
    for statement in statements:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await role.execute(statement)


async def test_every_table_with_a_tenant_hides_it_from_the_others(keys: Keys) -> None:
    with_tenant = await names(
        keys,
        "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid WHERE attname = 'tenant_id'"
        " AND relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace",
    )
    assert {"tenants", "keys", "audit_events", "idempotency"} <= set(with_tenant)
    for table in with_tenant:
        (found,) = await keys.rows(
            "SELECT relrowsecurity, relforcerowsecurity, (SELECT array_agg(pg_get_expr(polqual, polrelid))"
            " FROM pg_policy WHERE polrelid = pg_class.oid) AS policies FROM pg_class WHERE oid = $1::text::regclass",
            table,
        )
        assert found["relrowsecurity"], table
        assert found["relforcerowsecurity"], table
        assert str(found["policies"]).count("current_setting('tollkeeper.tenant'") == 2, "one policy, asking twice"


async def test_the_rows_of_another_tenant_do_not_exist_by_direct_sql(role: Connection) -> None:
    for table in ("tenants", "keys", "audit_events", "idempotency"):
        await role.execute("RESET tollkeeper.tenant")
        assert await role.fetchval(f"SELECT count(*) FROM {table}") == 0
        for mine, theirs in (("acme", "other"), ("other", "acme")):
            await role.execute("SELECT set_config('tollkeeper.tenant', $1, false)", mine)
            assert {row["tenant_id"] for row in await role.fetch(f"SELECT tenant_id FROM {table}")} == {mine}
            assert await role.fetch(f"SELECT * FROM {table} WHERE tenant_id = $1", theirs) == []
            if table != "audit_events":
                assert (
                    await role.execute(f"UPDATE {table} SET tenant_id = tenant_id WHERE tenant_id = $1", theirs)
                    == "UPDATE 0"
                )
                assert await role.execute(f"DELETE FROM {table} WHERE tenant_id = $1", theirs) == "DELETE 0"


async def test_nothing_is_written_into_the_log_of_another_tenant(role: Connection) -> None:
    forged = (
        "INSERT INTO audit_events (tenant_id, actor, actor_ip, action, key_id, owner_id, request_id, revision)"
        " VALUES ('other', 'a', '', 'Forged', '', '', '', 0)"
    )
    for setting in ("", "acme"):
        await role.execute("SELECT set_config('tollkeeper.tenant', $1, false)", setting)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await role.execute(forged)


async def test_a_page_of_the_log_is_read_as_its_tenant_and_the_connection_forgets_it(keys: Keys) -> None:
    audit = AuditService(postgres=keys.postgres)
    assert len((await audit.list(ROOT, ListAuditEvents(tenant_id="acme"))).events) == 1
    async with keys.postgres.connection() as connection:
        assert await connection.fetchval("SELECT current_setting('tollkeeper.tenant')") == "*"


@pytest.fixture
async def owned_by_a_plain_login(stores: StoreUrls) -> AsyncIterator[tuple[str, Connection]]:
    """A database whose owner is no superuser; and a connection of one."""
    admin = await asyncpg.connect(stores.postgres.replace("/tollkeeper?", "/postgres?"))
    await admin.execute("CREATE ROLE plain_owner LOGIN CREATEROLE")
    await admin.execute(f"GRANT {APPLICATION_ROLE} TO plain_owner WITH ADMIN OPTION")
    await admin.execute("CREATE ROLE plain_server LOGIN")
    await admin.execute("CREATE DATABASE plain OWNER plain_owner")
    yield stores.postgres.replace("/tollkeeper?", "/plain?"), admin
    await admin.execute("DROP DATABASE plain WITH (FORCE)")
    await admin.execute("DROP ROLE plain_owner, plain_server")
    await admin.close()


async def test_owner_and_server_may_be_plain_logins(owned_by_a_plain_login: tuple[str, Connection]) -> None:
    url, admin = owned_by_a_plain_login
    as_owner, as_server = (url.replace("postgres@", f"{login}@") for login in ("plain_owner", "plain_server"))
    await migrate(as_owner)
    await migrate(as_owner)
    with pytest.raises(StartupError, match=f"GRANT {APPLICATION_ROLE} to whom this server logs in as"):
        await Postgres.connect(as_server)
    await admin.execute(f"GRANT {APPLICATION_ROLE} TO plain_server")
    assert await schema_problem(as_server) is None
    postgres = await Postgres.connect(as_server)
    await postgres.close()
    async with keys_on(as_owner) as keys:
        created = await keys.create(ACME)
        await keys.service.revoke(ACME, RevokeKey(key_id=created.key.key_id))
        assert len((await AuditService(postgres=keys.postgres).list(ACME, ListAuditEvents())).events) == 2
        await keys.owner.execute("SET tollkeeper.tenant = 'other'")
        assert await keys.rows("SELECT * FROM audit_events") == [], "the owner of the table as well"


async def test_a_database_without_the_role_is_told_in_one_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with embedded_stores(tmp_path_factory.mktemp("bare"), durable=False) as bare:
        with pytest.raises(StartupError, match="run `tollkeeper-server migrate`"):
            await Postgres.connect(bare.postgres)
        admin = await asyncpg.connect(bare.postgres)
        await admin.execute("CREATE ROLE powerless LOGIN; GRANT ALL ON SCHEMA public TO powerless")
        await admin.close()
        with pytest.raises(StartupError, match=f"have an administrator run CREATE ROLE {APPLICATION_ROLE}"):
            await migrate(bare.postgres.replace("postgres@", "powerless@"))
        await asyncio.gather(migrate(bare.postgres), migrate(bare.postgres))
