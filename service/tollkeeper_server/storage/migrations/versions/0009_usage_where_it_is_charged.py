"""Usage is counted where it is charged, and what was charged twice is given back."""

from alembic import op

revision = "0009"
down_revision = "0008"

_STATEMENTS = (
    # Empty for what is added up; else a hash in Redis, and the amount is how far its counter got.
    """ALTER TABLE usage_buckets ADD COLUMN source text COLLATE "C" NOT NULL DEFAULT ''""",
    "ALTER TABLE usage_buckets DROP CONSTRAINT usage_buckets_pkey",
    "ALTER TABLE usage_buckets ADD PRIMARY KEY (subject, starts_at, seconds, counter, source)",
    # When some server last looked for usage in Redis that nobody else comes for.
    """
    CREATE TABLE usage_looks (
        looked_at timestamptz NOT NULL,
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
    )
    """,
    "INSERT INTO usage_looks (looked_at) VALUES ('-infinity')",
    """
    ALTER TABLE quota_direct_charges
        -- Units by account that go back, and what was added to usage, if Redis turns out to have made the same charge.
        ADD COLUMN debits jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN counts jsonb NOT NULL DEFAULT '[]'
    """,
)


def upgrade() -> None:
    """Add the columns and the table."""
    for statement in _STATEMENTS:
        op.execute(statement)
