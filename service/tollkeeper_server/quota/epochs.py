"""Epochs of Redis: what tells a store that may have lost something from one that lived on.

The script that charges pools carries the epoch in its text. A Redis that was restarted, restored or failed over to
knows no such script, whatever its data looks like. Whoever notices begins a new epoch, in which every pool of an
earlier one counts as lost. So does the first server that finds Redis again after charges were made without it; Redis
is told of them before. Postgres has the epoch, and lets one server at a time change it.
"""

from secrets import token_hex

import structlog

from tollkeeper_server.quota.charge_store import ChargeStore
from tollkeeper_server.storage.postgres import Postgres

_READ = "SELECT epoch FROM quota_epoch"
_UNTOLD = "SELECT EXISTS (SELECT FROM quota_direct_charges WHERE NOT told AND expires_at > clock_timestamp())"
_TELL = "UPDATE quota_direct_charges SET told = true WHERE expires_at > clock_timestamp() RETURNING record"
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
            epoch: str = await connection.fetchval(f"{_READ} FOR UPDATE")
            if not await self._store.knows(epoch) or await connection.fetchval(_UNTOLD):
                # Nobody charges the ledger directly in the new epoch, so these are all.
                records = [row["record"] for row in await connection.fetch(_TELL)]
                await self._store.remember(records)
                epoch = token_hex(8)
                await self._store.begin(epoch)
                await connection.execute(_CHANGE, epoch)
                _log.info("redis_epoch_begun", epoch=epoch, told_charges=len(records))
        self._enter(epoch)

    async def adopt(self) -> None:
        """Enter the epoch that all servers are in, whether or not Redis answers this one. Raises Unavailable."""
        async with self._postgres.connection() as connection:
            self._enter(await connection.fetchval(_READ))

    def _enter(self, epoch: str) -> None:
        self._store.enter(epoch)
        self.current = epoch
