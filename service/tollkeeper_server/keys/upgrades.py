"""Digests of other systems become ours the first time that their API keys are seen, beside the work of answering."""

import asyncio

import asyncpg
import structlog

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.storage.postgres import Postgres

PENDING_MAX = 10_000
BATCH_MAX = 500

# Under the lock of mutations, which know secrets by their digests. A digest of ours that is there already wins.
_LOCK = "SELECT FROM next_numbers('')"
_UPGRADE = """
    UPDATE secrets SET digest = $2, algorithm = 'PEPPERED', pepper_version = $3
    WHERE digest = $1 AND NOT EXISTS (SELECT FROM secrets WHERE digest = $2)
"""

_log = structlog.get_logger()


class Upgrades:
    """Replaces digests by those under our current pepper. What is lost or fails is noted again at the next sight."""

    def __init__(self, postgres: Postgres, *, pepper_version: int) -> None:
        self._postgres = postgres
        self._pepper_version = pepper_version
        self._pending: dict[bytes, bytes] = {}
        self._noted = asyncio.Event()

    def note(self, *, old: bytes, new: bytes) -> None:
        """Replace the digest ``old`` by ``new`` soon."""
        if len(self._pending) < PENDING_MAX:
            self._pending[old] = new
            self._noted.set()

    async def run(self) -> None:
        """Replace what is noted, until cancelled."""
        while True:
            await self._noted.wait()
            batch = [(old, self._pending.pop(old)) for old in list(self._pending)[:BATCH_MAX]]
            if not self._pending:
                self._noted.clear()
            try:
                await self._upgrade(batch)
            except (Unavailable, asyncpg.UniqueViolationError) as error:
                _log.warning("digests_not_upgraded", count=len(batch), error_type=type(error).__name__)

    async def _upgrade(self, batch: list[tuple[bytes, bytes]]) -> None:
        async with self._postgres.transaction() as connection:
            await connection.execute(_LOCK)
            await connection.executemany(_UPGRADE, [(old, new, self._pepper_version) for old, new in batch])
