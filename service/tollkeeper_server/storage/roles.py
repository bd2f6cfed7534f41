"""What the server may do in the database, and which rows exist for it.

The server acts as a role of its own, whoever it logs in as: it reads and writes, but changes no schema, and what is in
the audit log stays as it is. Of every table that has a tenant, only the rows of the tenant in ``tollkeeper.tenant`` are
there, all of them for ``*`` and none unless it is set; for the owner of the tables as well.
"""

import sqlalchemy

from tollkeeper_server.startup import StartupError
from tollkeeper_server.storage.postgres import APPLICATION_ROLE

# Roles belong to all databases of a server together, so another one may have made it, or make it right now.
_CREATE_ROLE = """
    DO $$
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tollkeeper_app') THEN
            CREATE ROLE tollkeeper_app NOLOGIN;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
    END
    $$
"""
# Who has made the role may take it on; who was given it needs no more; who lacks it is told when the server starts.
_JOIN = """
    DO $$
    BEGIN
        IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            GRANT tollkeeper_app TO CURRENT_USER;
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN
        NULL;
    END
    $$
"""
_GRANT = """
    DO $$
    DECLARE
        it regclass;
    BEGIN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO tollkeeper_app', current_schema());
        FOR it IN SELECT oid FROM pg_class WHERE relkind IN ('r', 'p')
                AND relowner = (SELECT relowner FROM pg_class WHERE oid = 'alembic_version'::regclass)
                AND relnamespace = current_schema()::regnamespace LOOP
            EXECUTE format('REVOKE ALL ON %s FROM tollkeeper_app', it);
            EXECUTE format('GRANT %s ON %s TO tollkeeper_app', CASE it
                WHEN 'alembic_version'::regclass THEN 'SELECT'
                WHEN 'audit_events'::regclass THEN 'SELECT, INSERT'
                ELSE 'SELECT, INSERT, UPDATE, DELETE'
            END, it);
        END LOOP;
    END
    $$
"""
_HIDE = """
    DO $$
    DECLARE
        it regclass;
    BEGIN
        FOR it IN SELECT attrelid FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
                WHERE attname = 'tenant_id' AND relkind IN ('r', 'p') AND NOT relforcerowsecurity
                AND relnamespace = current_schema()::regnamespace LOOP
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', it);
            EXECUTE format('CREATE POLICY tenant ON %s USING (%s)', it,
                'current_setting(''tollkeeper.tenant'', true) IN (tenant_id, ''*'')');
        END LOOP;
    END
    $$
"""


def fence(connection: sqlalchemy.Connection) -> None:
    """Make the role, and bind it and every table to these rules; harmless if they are. Raises StartupError."""
    try:
        connection.exec_driver_sql(_CREATE_ROLE)
    except sqlalchemy.exc.DBAPIError as error:
        raise StartupError(
            f"this login may not create the role {APPLICATION_ROLE}: have an administrator run"
            f" CREATE ROLE {APPLICATION_ROLE}, and GRANT it to this login"
        ) from error
    for statement in (_JOIN, _GRANT, _HIDE):
        connection.exec_driver_sql(statement)
