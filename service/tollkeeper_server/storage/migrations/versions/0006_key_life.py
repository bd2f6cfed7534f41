"""The life of a key: rotation, imported digests, owners, answers that are given again, keys that expire."""

from alembic import op

revision = "0006"
down_revision = "0005"

_STATEMENTS = (
    """
    ALTER TABLE keys
        -- Characters of its API key; 0 for those that were imported.
        ADD COLUMN length integer NOT NULL DEFAULT 0,
        ADD COLUMN api_key_created_at timestamptz,
        -- When the API key before the current one ends, or has ended.
        ADD COLUMN overlap_ends_at timestamptz
    """,
    "UPDATE keys SET api_key_created_at = created_at",
    "ALTER TABLE keys ALTER COLUMN api_key_created_at SET NOT NULL",
    'CREATE INDEX keys_by_expiry ON keys (tenant_id, expires_at, key_id COLLATE "POSIX") WHERE expires_at IS NOT NULL',
    """
    ALTER TABLE secrets
        DROP CONSTRAINT secrets_digest_check,
        -- PEPPERED is ours; the others are those of other systems, until their API keys are seen here first.
        ADD COLUMN algorithm text COLLATE "C" NOT NULL DEFAULT 'PEPPERED',
        ADD COLUMN imported boolean NOT NULL DEFAULT false,
        ADD CHECK (algorithm IN ('PEPPERED', 'SHA256', 'SHA512')),
        ADD CHECK (octet_length(digest) = CASE algorithm WHEN 'SHA512' THEN 64 ELSE 32 END)
    """,
    "CREATE INDEX secrets_by_key ON secrets (key_id)",
    "CREATE INDEX secrets_imported ON secrets (imported) WHERE imported",
    """
    CREATE TABLE owners (
        tenant_id text COLLATE "C" NOT NULL REFERENCES tenants,
        owner_id text COLLATE "C" NOT NULL,
        display_name text NOT NULL,
        limits jsonb NOT NULL,
        suspended boolean NOT NULL,
        metadata jsonb NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        revision bigint NOT NULL,
        PRIMARY KEY (tenant_id, owner_id)
    )
    """,
    # The owner whose keys have all changed, as "tenant/owner"; empty if it was one key.
    "ALTER TABLE changes ADD COLUMN owner text COLLATE \"C\" NOT NULL DEFAULT ''",
    """
    ALTER TABLE idempotency
        DROP COLUMN key_id,
        -- What was answered, but for an API key.
        ADD COLUMN answer jsonb NOT NULL DEFAULT '{}'
    """,
    # Its query is planned while the log is empty, when to sort a tenant's events seems as cheap as to take the last.
    "ALTER FUNCTION chain_audit_event() SET enable_sort = off",
    # A request of an earlier version has no answer to give again; it is a day old at most.
    "DELETE FROM idempotency",
)


def upgrade() -> None:
    """Extend the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)
