"""Quotas: the ledger, the pools that were lost, who may have spent from them, and reservations."""

from alembic import op

revision = "0004"
down_revision = "0003"

_STATEMENTS = (
    """
    CREATE TABLE quota_epoch (
        -- Redis knows a script of this name for as long as it was neither restarted nor replaced.
        epoch text COLLATE "C" NOT NULL,
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
    )
    """,
    "INSERT INTO quota_epoch (epoch) VALUES (md5(random()::text))",
    """
    CREATE TABLE quota_ledger (
        -- One limit in one window.
        account text COLLATE "C" PRIMARY KEY,
        ends_at timestamptz NOT NULL,
        -- Units handed out: charged here, or put into a pool, spent or not.
        debited bigint NOT NULL DEFAULT 0,
        -- Grows with every change.
        revision bigint NOT NULL DEFAULT 0,
        -- Which pool is the account's current one, since when, and what it was granted.
        generation bigint NOT NULL DEFAULT 0,
        opened_at timestamptz NOT NULL DEFAULT '-infinity',
        granted bigint NOT NULL DEFAULT 0,
        -- When it was granted something last.
        granted_at timestamptz NOT NULL DEFAULT '-infinity'
    )
    """,
    "CREATE INDEX quota_ledger_by_end ON quota_ledger (ends_at)",
    """
    CREATE TABLE quota_lost_pools (
        account text COLLATE "C" NOT NULL REFERENCES quota_ledger ON DELETE CASCADE,
        generation bigint NOT NULL,
        granted bigint NOT NULL,
        opened_at timestamptz NOT NULL,
        lost_at timestamptz NOT NULL,
        PRIMARY KEY (account, generation)
    )
    """,
    """
    CREATE TABLE quota_servers (
        server_id text COLLATE "C" PRIMARY KEY,
        joined_at timestamptz NOT NULL,
        -- Until then the server may spend from pools.
        lease_until timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE quota_spends (
        account text COLLATE "C" NOT NULL REFERENCES quota_ledger ON DELETE CASCADE,
        generation bigint NOT NULL,
        server_id text COLLATE "C" NOT NULL,
        -- What the server has spent from the pool, and will ever have.
        units bigint NOT NULL,
        PRIMARY KEY (account, generation, server_id)
    )
    """,
    """
    CREATE TABLE quota_direct_charges (
        -- A charge that is made once, and was made here while Redis was away.
        record text COLLATE "C" PRIMARY KEY,
        expires_at timestamptz NOT NULL,
        -- Whether Redis was told.
        told boolean NOT NULL DEFAULT false
    )
    """,
    """
    CREATE TABLE reservations (
        reservation_id text COLLATE "C" PRIMARY KEY,
        tenant_id text COLLATE "C" NOT NULL,
        key_id text COLLATE "C" NOT NULL,
        -- What is held: limit, scope, account and units of each.
        holds jsonb NOT NULL,
        expires_at timestamptz NOT NULL,
        settled_at timestamptz,
        -- What was settled, by unit, and how much of it was more than was held; absent if the hold ran out.
        settled jsonb,
        overdraft bigint NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX reservations_open ON reservations (expires_at) WHERE settled_at IS NULL",
    "CREATE INDEX reservations_settled ON reservations (settled_at) WHERE settled_at IS NOT NULL",
)


def upgrade() -> None:
    """Create the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)
