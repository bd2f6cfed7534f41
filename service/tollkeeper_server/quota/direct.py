"""Charging without Redis: QUOTA and SPEND in the ledger itself, RATE by this server's share."""

from collections.abc import Sequence

from tollkeeper_server.core.rate_window import RateOutcome
from tollkeeper_server.core.windows import microseconds
from tollkeeper_server.quota import direct_records, ledger, metrics
from tollkeeper_server.quota.charge_script import RECORD_MS
from tollkeeper_server.quota.charges import Charge, PoolDemand, PoolStanding, RateScope
from tollkeeper_server.quota.demands import Demands
from tollkeeper_server.quota.epochs import GATE, EpochPassed, Epochs
from tollkeeper_server.quota.rate_shares import RateShares
from tollkeeper_server.quota.spends import Spends
from tollkeeper_server.storage.postgres import Connection, Postgres
from tollkeeper_server.usage.store import add_amounts

# The row is locked after the gate was passed, so it is read as it is then.
_BEGIN = "SELECT epoch, clock_timestamp() FROM pg_advisory_xact_lock_shared($1), quota_epoch FOR SHARE OF quota_epoch"
Levels = Sequence[tuple[PoolDemand, PoolStanding]]


class DirectCharges:
    """Charges limits while Redis is away. What pools in Redis hold counts as used: at most about 1 % of each limit."""

    def __init__(self, postgres: Postgres, *, shares: RateShares, epochs: Epochs, spends: Spends) -> None:
        self._postgres = postgres
        self._spends = spends
        self._shares = shares
        self._epochs = epochs

    def charge_rates(self, scopes: Sequence[RateScope], *, consume: bool) -> RateOutcome:
        """Charge RATE limits alone, which needs no store."""
        metrics.RATE_CHARGES_LOCAL.inc()
        return self._shares.charge(scopes, consume=consume)

    async def charge(self, demands: Demands, *, consume: bool, record: str) -> tuple[RateOutcome, Levels]:
        """Make the charge in one transaction.

        Raises EpochPassed if another server uses Redis again, so that this one has to look whether it can, and
        Unavailable if Postgres does not answer in time.
        """
        async with self._postgres.transaction(timeout_seconds=ledger.TIMEOUT_SECONDS) as connection:
            row = await connection.fetchrow(_BEGIN, GATE)
            assert row is not None
            epoch, now = row
            metrics.CHARGES_DIRECT.inc()
            if epoch != self._epochs.current:
                raise EpochPassed
            now_us = microseconds(now)
            charge = demands.charge(now_us=now_us, consume=consume, record=record)
            await ledger.open_accounts(connection, charge.pools)
            rows = await ledger.lock(connection, [pool.account for pool in charge.pools])
            debited = [int(rows[pool.account]["debited"]) for pool in charge.pools]
            if consume and record and await direct_records.exists(connection, charge.record):
                return self._told(charge, debited)
            rates, levels = await self._charge(connection, charge, debited, now_us)
        if rates.admitted:
            self._spends.dispel(charge)
        return rates, levels

    async def _charge(
        self, connection: Connection, charge: Charge, debited: Sequence[int], now_us: int
    ) -> tuple[RateOutcome, Levels]:
        exceeded = [
            pool.units > 0 and before + pool.units > pool.amount
            for pool, before in zip(charge.pools, debited, strict=True)
        ]
        denied = [pool for pool, full in zip(charge.pools, exceeded, strict=True) if full and not pool.shadow]
        rates = self._shares.charge(charge.scopes, consume=charge.consume and not denied)
        consumes = charge.consume and rates.admitted and not denied
        if consumes:
            await ledger.debit(connection, {pool.account: pool.units for pool in charge.pools if pool.units})
            await self._write(connection, charge)
        levels = [
            (pool, _standing(before + (pool.units if consumes else 0), exceeded=full))
            for pool, before, full in zip(charge.pools, debited, exceeded, strict=True)
        ]
        return (_denied(rates, denied, now_us) if denied else rates), levels

    async def _write(self, connection: Connection, charge: Charge) -> None:
        """Count usage of the charge, and write down what is to be known of it later."""
        usage = charge.counted.amounts() if charge.counted else {}
        if charge.record:
            doubted = self._spends.doubted(charge)
            debits = {pool.account: pool.units for pool in charge.pools if pool.account not in doubted}
            await direct_records.write(connection, charge.record, lifetime_ms=RECORD_MS, debits=debits, usage=usage)
        if usage:
            await add_amounts(connection, usage)

    def _told(self, charge: Charge, debited: Sequence[int]) -> tuple[RateOutcome, Levels]:
        """The charge was made before: where the limits stand."""
        nothing = [
            scope._replace(demands=tuple(demand._replace(units=0) for demand in scope.demands))
            for scope in charge.scopes
        ]
        levels = [(pool, _standing(used, exceeded=False)) for pool, used in zip(charge.pools, debited, strict=True)]
        return self._shares.charge(nothing, consume=False), levels


def _standing(used: int, *, exceeded: bool) -> PoolStanding:
    return PoolStanding(used, exceeded, generation=-1, received=0, left=0)


def _denied(rates: RateOutcome, denied: Sequence[PoolDemand], now_us: int) -> RateOutcome:
    """What RATE limits say, when QUOTA or SPEND limits deny."""
    never = any(pool.units > pool.amount for pool in denied) or (not rates.admitted and rates.retry_after_us is None)
    waits = [pool.window.ends_us - now_us for pool in denied] + [rates.retry_after_us or 0]
    return rates._replace(admitted=False, retry_after_us=None if never else max(waits))
