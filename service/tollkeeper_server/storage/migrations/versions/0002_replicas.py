"""Replicas: who answers from memory, until when, and which changes it has seen."""

from alembic import op

revision = "0002"
down_revision = "0001"


_STATEMENTS = (
    """
    CREATE TABLE replicas (
        replica_id text COLLATE "C" PRIMARY KEY,
        -- Until then the replica may answer from memory, and so may those to whom it passed that permission on.
        lease_until timestamptz NOT NULL,
        -- The last revision whose change the replica no longer answers against.
        acknowledged bigint NOT NULL
    )
    """,
    """
    CREATE FUNCTION announce_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('tollkeeper_changes', '');
        RETURN NULL;
    END
    $$
    """,
    # A wake-up only: replicas read the table, and would find the change at their next renewal anyway.
    """
    CREATE TRIGGER announce_change AFTER INSERT ON changes
    FOR EACH STATEMENT EXECUTE FUNCTION announce_change()
    """,
)


def upgrade() -> None:
    """Create the table, and wake its holders at every change."""
    for statement in _STATEMENTS:
        op.execute(statement)
