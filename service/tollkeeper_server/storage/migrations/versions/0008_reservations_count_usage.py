"""Reservations know what is counted as usage when they end, and how many verifications a kept answer is for."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns. What was held before was counted when it was verified."""
    op.execute(
        """
        ALTER TABLE reservations
            ADD COLUMN owner_id text COLLATE "C" NOT NULL DEFAULT '',
            ADD COLUMN held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            -- How many verifications a kept answer may be given to; 0 if it is a charge whose true amount comes later.
            ADD COLUMN verifications bigint NOT NULL DEFAULT 0,
            -- What is held by unit, limited or not; absent if it is counted already.
            ADD COLUMN charges jsonb
        """
    )
