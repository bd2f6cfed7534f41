"""Servers whose charging scripts differ share an epoch of Redis."""

from alembic import op

revision = "0010"
down_revision = "0009"

_STATEMENTS = (
    """
    CREATE TABLE quota_scripts (
        epoch text COLLATE "C" NOT NULL,
        -- The digest of a charging script, as it ships.
        script text COLLATE "C" NOT NULL,
        -- What is in the text that Redis knows besides the epoch, so that no other text is taken for it.
        seal text COLLATE "C" NOT NULL,
        PRIMARY KEY (epoch, script)
    )
    """,
)


def upgrade() -> None:
    """Add the table."""
    for statement in _STATEMENTS:
        op.execute(statement)
