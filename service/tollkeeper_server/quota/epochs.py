"""Epochs of Redis: what tells a store that may have lost something from one that lived on.

The script that charges pools carries the epoch in its text. A Redis that was restarted, restored or failed over to
knows no such script, whatever its data looks like. Whoever notices begins a new epoch, in which every pool of an
earlier one counts as lost. So does the first server that finds Redis again after charges were made without it; Redis
is told of them before, and what it had charged as well is given back. Postgres has the epoch, and lets one server at a
time change it.

Servers of two versions may run side by side, and their scripts differ. A third script, the marker, does nothing but to
be known by the Redis of the epoch. The first server with a script loads it, and looks for the marker only then: if that
is there, Redis was in the epoch when it learned the script. Otherwise that text is never used, for it carries a seal,
which others learn from Postgres once this is settled.
"""

import contextlib
from secrets import token_hex

import structlog

from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.quota import direct_records
from tollkeeper_server.quota.charge_store import ChargeStore
from tollkeeper_server.storage.postgres import Connection, Postgres

GATE = 0x746F6C6C65706F63  # "tollepoc"
"""The advisory lock that charges to the ledger share, and who changes the epoch has alone.

Row locks would not do: those who share one let others join for ever, and who waits for it alone never gets it.
"""

_CLOSE_GATE = "SELECT pg_advisory_xact_lock($1)"
_READ = """
    SELECT current.epoch, scripts.seal FROM quota_epoch AS current
    LEFT JOIN quota_scripts AS scripts ON scripts.epoch = current.epoch AND scripts.script = $1
"""
_CHANGE = "UPDATE quota_epoch SET epoch = $1"
_FORGET = "DELETE FROM quota_scripts WHERE epoch <> $1"
_SEAL = "INSERT INTO quota_scripts (epoch, script, seal) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"

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
            epoch, seal = await self._read(connection, lock="FOR UPDATE OF current")
            if seal is None:  # the first with this script
                seal = token_hex(8)
                await self._store.load(epoch, seal=seal)  # before the marker is looked for
            if not await self._store.knows(epoch, seal=seal) or await direct_records.has_untold(connection):
                # Nobody charges the ledger directly in the new epoch, so these are all.
                told, untold = await direct_records.read(connection)
                await self._store.remember(told)  # once more, for Redis may have lost them
                twice = await self._store.remember(untold)
                await direct_records.tell(connection, twice=twice)
                epoch, seal = token_hex(8), token_hex(8)
                await self._store.begin(epoch, seal=seal)
                await connection.execute(_CHANGE, epoch)
                await connection.execute(_FORGET, epoch)
                _log.info("redis_epoch_begun", epoch=epoch, told_charges=len(told + untold), given_back=len(twice))
            await connection.execute(_SEAL, epoch, self._store.script, seal)
        self._enter(epoch, seal)

    async def adopt(self) -> None:
        """Enter the epoch that all servers are in, whether or not Redis answers this one. Raises Unavailable."""
        async with self._postgres.connection() as connection:
            epoch, seal = await self._read(connection)
        self._enter(epoch, seal)
        if seal is None:  # begun by a server with another script
            with contextlib.suppress(Unavailable):
                await self.establish()

    async def _read(self, connection: Connection, *, lock: str = "") -> tuple[str, str | None]:
        """The epoch, and the seal of this server's script in it if a server with that script has entered it."""
        row = await connection.fetchrow(f"{_READ} {lock}", self._store.script)
        assert row is not None
        return row["epoch"], row["seal"]

    def _enter(self, epoch: str, seal: str | None) -> None:
        self._store.enter(epoch, seal=seal)
        self.current = epoch
