"""Keys: tenants, keys and their secrets, changes, audit log, idempotency."""

from alembic import op

revision = "0001"
down_revision = None

_STATEMENTS = (
    """
    CREATE TABLE tenants (
        tenant_id text COLLATE "C" PRIMARY KEY,
        created_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE keys (
        key_id text COLLATE "C" PRIMARY KEY,
        tenant_id text COLLATE "C" NOT NULL REFERENCES tenants,
        owner_id text COLLATE "C" NOT NULL,
        name text NOT NULL,
        description text NOT NULL,
        environment text COLLATE "C" NOT NULL,
        prefix text COLLATE "C" NOT NULL,
        hint text NOT NULL,
        -- EXPIRED follows from expires_at and is never stored.
        state text COLLATE "C" NOT NULL CHECK (state IN ('ACTIVE', 'DISABLED', 'REVOKED')),
        permissions text[] NOT NULL,
        resources text[] NOT NULL,
        allowed_cidrs cidr[] NOT NULL,
        limits jsonb NOT NULL,
        metadata jsonb NOT NULL,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        updated_at timestamptz NOT NULL,
        updated_by text NOT NULL,
        expires_at timestamptz,
        revoked_at timestamptz,
        revoke_reason text NOT NULL,
        last_used_at timestamptz,
        revision bigint NOT NULL,
        CHECK ((state = 'REVOKED') = (revoked_at IS NOT NULL))
    )
    """,
    # A page of ListKeys is a range of one of these, whatever the filter. Their collation orders by bytes as that of the
    # primary key does, but is another by name. So the planner cannot take the primary key for the order of a page, and
    # walk from the newest key of all tenants down to those of one that has made none for a year.
    'CREATE INDEX keys_by_tenant ON keys (tenant_id, key_id COLLATE "POSIX")',
    'CREATE INDEX keys_by_owner ON keys (tenant_id, owner_id, key_id COLLATE "POSIX")',
    'CREATE INDEX keys_by_environment ON keys (tenant_id, environment, key_id COLLATE "POSIX")',
    'CREATE INDEX keys_by_prefix ON keys (tenant_id, prefix, key_id COLLATE "POSIX")',
    'CREATE INDEX keys_by_state ON keys (tenant_id, state, key_id COLLATE "POSIX", expires_at)',
    """
    CREATE TABLE secrets (
        digest bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
        pepper_version integer NOT NULL,
        key_id text COLLATE "C" NOT NULL REFERENCES keys,
        created_at timestamptz NOT NULL,
        -- From when on this API key no longer proves the key; absent while it is the key's current one.
        expires_at timestamptz
    )
    """,
    """
    CREATE TABLE changes (
        revision bigint PRIMARY KEY,
        key_id text COLLATE "C" NOT NULL,
        kind text NOT NULL,
        changed_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE audit_events (
        tenant_id text COLLATE "C" NOT NULL,
        sequence bigint NOT NULL,
        occurred_at timestamptz NOT NULL,
        actor text NOT NULL,
        actor_ip text NOT NULL,
        action text NOT NULL,
        key_id text COLLATE "C" NOT NULL,
        owner_id text COLLATE "C" NOT NULL,
        request_id text NOT NULL,
        revision bigint NOT NULL,
        before jsonb,
        after jsonb,
        PRIMARY KEY (tenant_id, sequence)
    )
    """,
    # A lock that is held to the commit makes numbers without gaps that become visible in order: who has read the
    # changes up to n misses none that commits later. No row counts, for its dead versions would pile up, and slow all
    # mutations down, whenever a long transaction (a backup) keeps them from being cleaned away. Each query in a
    # volatile function sees what was committed before that query, so also what the holder before has done.
    """
    CREATE FUNCTION next_numbers(its_tenant text, OUT revision bigint, OUT sequence bigint)
    LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock('changes'::regclass::oid::bigint);
        revision := (SELECT coalesce(max(changes.revision), 0) + 1 FROM changes);
        sequence := (
            SELECT coalesce(max(audit_events.sequence), 0) + 1 FROM audit_events WHERE tenant_id = its_tenant
        );
    END
    $$
    """,
    """
    CREATE TABLE idempotency (
        -- The caller's tenant and name: a request_id means nothing to another caller.
        tenant_id text COLLATE "C" NOT NULL,
        actor text COLLATE "C" NOT NULL,
        method text COLLATE "C" NOT NULL,
        request_id text COLLATE "C" NOT NULL,
        -- Hash of what was asked for.
        fingerprint bytea NOT NULL,
        -- What the API key was minted from, worth nothing without a key that never enters the database.
        seed bytea,
        key_id text COLLATE "C" NOT NULL,
        revision bigint NOT NULL,
        created_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, actor, method, request_id)
    )
    """,
    "CREATE INDEX idempotency_by_age ON idempotency (created_at)",
)


def upgrade() -> None:
    """Create the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)
