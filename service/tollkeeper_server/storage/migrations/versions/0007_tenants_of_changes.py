"""Changes name the tenant, so that caches outside of the servers are told of their own tenant's alone."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column. Older changes name no tenant; nobody is told of them any more."""
    op.execute("ALTER TABLE changes ADD COLUMN tenant_id text COLLATE \"C\" NOT NULL DEFAULT ''")
