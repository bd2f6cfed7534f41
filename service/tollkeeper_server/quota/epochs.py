"""Epochs of Redis: what tells a store that may have lost something from one that lived on.

The script that charges pools carries the epoch in its text. A Redis that was restarted, restored or failed over to
knows no such script, whatever its data looks like. Whoever notices begins a new epoch, in which every pool of an
earlier one counts as lost. So does the first server that finds Redis again after charges were made without it; Redis
is told of them before, and what it had charged as well is given back. Postgres has the epoch, and lets one server at a
time change it.
"""

from secrets import token_hex

import structlog

from tollkeeper_server.quota import direct_records
from tollkeeper_server.quota.charge_store import ChargeStore
from tollkeeper_server.storage.postgres import Postgres

GATE = 0x746F6C6C65706F63  # "tollepoc"
"""The advisory lock that charges to the ledger share, and who changes the epoch has alone.

Row locks would not do: those who share one let others join for ever, and who waits for it alone never gets it.
"""

_CLOSE_GATE = "SELECT pg_advisory_xact_lock($1)"
_READ = "SELECT epoch FROM quota_epoch"
_CHANGE = "UPDATE quota_epoch SET epoch = $1"

_log = structlog.get_logger()


class EpochPassed(Exception):
    """Another server has begun a new epoch of Redis."""


class Epochs:
    """Keeps ``store`` in the epoch of all servers."""

    def __init__(self, postgres: Postgres, *, store: ChargeStore) -> None:
        self._postgres = postgres
        self._store = store
        self.current = ""
        """Empty until it was established."""

    async def establish(self) -> None:
        """Enter the epoch that all servers are in, or begin a new one if Redis does not know it.

        Raises Unavailable if either store does not answer.
        """
        async with self._postgres.transaction() as connection:
            await connection.execute(_CLOSE_GATE, GATE)
            epoch: str = await connection.fetchval(f"{_READ} FOR UPDATE")
            if not await self._store.knows(epoch) or await direct_records.has_untold(connection):
                # Nobody charges the ledger directly in the new epoch, so these are all.
                told, untold = await direct_records.read(connection)
                await self._store.remember(told)  # once more, for Redis may have lost them
                twice = await self._store.remember(untold)
                await direct_records.tell(connection, twice=twice)
                epoch = token_hex(8)
                await self._store.begin(epoch)
                await connection.execute(_CHANGE, epoch)
                _log.info("redis_epoch_begun", epoch=epoch, told_charges=len(told + untold), given_back=len(twice))
        self._enter(epoch)

    async def adopt(self) -> None:
        """Enter the epoch that all servers are in, whether or not Redis answers this one. Raises Unavailable."""
        async with self._postgres.connection() as connection:
            self._enter(await connection.fetchval(_READ))

    def _enter(self, epoch: str) -> None:
        self._store.enter(epoch)
        self.current = epoch
