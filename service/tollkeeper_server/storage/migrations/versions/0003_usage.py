"""Usage: counters in buckets of time, last use of API keys, client networks, findings."""

from alembic import op

revision = "0003"
down_revision = "0002"

_STATEMENTS = (
    # One row per counter, so that adding is all that is ever done to one.
    """
    CREATE TABLE usage_buckets (
        -- A key by its key_id, an owner as "tenant/owner"; neither can be taken for the other.
        subject text COLLATE "C" NOT NULL,
        starts_at timestamptz NOT NULL,
        -- 60, 3,600 or 86,400.
        seconds integer NOT NULL,
        -- A decision code, in capitals, or a unit, in small letters.
        counter text COLLATE "C" NOT NULL,
        -- Charges are large enough to fill a bigint.
        amount numeric NOT NULL,
        PRIMARY KEY (subject, starts_at, seconds, counter)
    ) WITH (fillfactor = 80)
    """,
    "CREATE INDEX usage_buckets_by_age ON usage_buckets (seconds, starts_at)",
    # How many batches of each server have been added, so that none is added twice.
    """
    CREATE TABLE usage_servers (
        server_id text COLLATE "C" PRIMARY KEY,
        batches bigint NOT NULL,
        added_at timestamptz NOT NULL
    )
    """,
    "ALTER TABLE secrets ADD COLUMN last_used_at timestamptz",
    # Both are written once in every minute of use: with room left in a page that touches no index.
    "ALTER TABLE secrets SET (fillfactor = 80)",
    "ALTER TABLE keys SET (fillfactor = 80)",
    """
    CREATE TABLE key_networks (
        key_id text COLLATE "C" NOT NULL,
        network cidr NOT NULL,
        first_used_at timestamptz NOT NULL,
        -- To the day.
        last_used_at timestamptz NOT NULL,
        PRIMARY KEY (key_id, network)
    )
    """,
    "CREATE INDEX key_networks_by_age ON key_networks (last_used_at)",
    """
    CREATE TABLE findings (
        finding_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        tenant_id text COLLATE "C" NOT NULL,
        owner_id text COLLATE "C" NOT NULL,
        key_id text COLLATE "C" NOT NULL,
        kind text COLLATE "C" NOT NULL,
        -- Empty unless the kind is about one.
        network text COLLATE "C" NOT NULL,
        day date NOT NULL,
        first_at timestamptz NOT NULL,
        last_at timestamptz NOT NULL,
        denied bigint NOT NULL,
        UNIQUE (key_id, day, kind, network)
    )
    """,
    "CREATE INDEX findings_by_tenant ON findings (tenant_id, first_at, finding_id)",
    "CREATE INDEX findings_by_owner ON findings (tenant_id, owner_id, first_at, finding_id)",
    "CREATE INDEX findings_by_age ON findings (last_at)",
)


def upgrade() -> None:
    """Create the tables."""
    for statement in _STATEMENTS:
        op.execute(statement)
