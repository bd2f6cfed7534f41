"""Plumbing for Postgres and Redis: connections, faults, batches, migrations. Knows nothing of keys or limits."""
