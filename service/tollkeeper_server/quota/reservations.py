"""Reservations: charges whose true amount comes later.

Holding is a charge like any other, written down before it is answered. Settling moves the difference on the ledger, in
one transaction: a surplus goes back, and what is more than was held is *overdraft*, which is charged whether or not it
fits, and so blocks what follows. A hold that nobody settles in time stays charged as held: a caller that crashed after
the work was done gets nothing for free. Settling is done once; whatever comes after, or too late, changes nothing.
RATE limits keep what was held.

A kept answer is a reservation too: it holds the charges of all verifications that it may be given to, for KEPT_SECONDS.

Usage follows what was really used: it is counted when a hold ends, by the transaction that ends it, and so exactly
once, in the minute in which the charge was made.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg
import orjson
import structlog

from tollkeeper_server.core.errors import NotFound, Unavailable
from tollkeeper_server.core.key import Key
from tollkeeper_server.core.limits import Limit, LimitKind, LimitScope, LimitState
from tollkeeper_server.core.windows import Window
from tollkeeper_server.quota import ledger, metrics
from tollkeeper_server.quota.charge_store import Charge, Grant, PoolDemand
from tollkeeper_server.quota.counters import Counters
from tollkeeper_server.quota.demands import Held, pool_state
from tollkeeper_server.quota.refills import GRANT_US
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.usage.held import HeldUse, count_uses

HOLD_SECONDS = 900
"""How long a hold can be settled."""
KEPT_SECONDS = 60
"""How long that of a kept answer can be."""
REAP_SECONDS = 5.0
REAP_MAX = 1_000
"""How many forgotten holds end in one transaction."""
FORGET_MAX = 10_000
"""How many reservations that ended an hour ago are deleted at once."""
TIMEOUT_SECONDS = 2.0

_HOLD = """
    INSERT INTO reservations
        (reservation_id, tenant_id, owner_id, key_id, holds, charges, verifications, held_at, expires_at)
    SELECT $1, $2, $3, $4, $5, $6, $7, now, now + $8 * interval '1 second' FROM clock_timestamp() AS now
    ON CONFLICT (reservation_id) DO NOTHING
"""
_FIND = """
    SELECT *, settled_at IS NOT NULL OR expires_at <= clock_timestamp() AS is_over
    FROM reservations WHERE reservation_id = $1 AND tenant_id = coalesce($2, tenant_id) FOR UPDATE
"""
_SETTLE = """
    UPDATE reservations SET settled_at = clock_timestamp(), settled = $2, overdraft = $3 WHERE reservation_id = $1
"""
_REAP = """
    UPDATE reservations SET settled_at = clock_timestamp()
    WHERE reservation_id IN (
        SELECT reservation_id FROM reservations WHERE settled_at IS NULL AND expires_at <= clock_timestamp()
        LIMIT $1 FOR UPDATE SKIP LOCKED
    ) RETURNING *
"""
_FORGET = """
    DELETE FROM reservations WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM reservations WHERE settled_at < clock_timestamp() - interval '1 hour' LIMIT $1
    ))
"""

_log = structlog.get_logger()


class Settlement(NamedTuple):
    """What came of settling."""

    limits: tuple[LimitState, ...]
    """The QUOTA and SPEND limits that were charged, as they stand."""
    already_settled: bool
    """Nothing was changed: it was settled before, or too late."""


class Reservations:
    """Holds and settles. Raises Unavailable if Postgres does not answer in time."""

    def __init__(self, postgres: Postgres, *, counters: Counters) -> None:
        self._postgres = postgres
        self._counters = counters

    async def hold(
        self, key: Key, held: Sequence[Held], *, charges: Mapping[str, int], verifications: int, request_id: str
    ) -> str:
        """Write down what was charged to ``key``, and give what to settle; the same for the same ``request_id``.

        ``charges`` are those of one verification. ``verifications`` tells to how many a kept answer may be given; 0 is
        for a single one whose decision is counted already.
        """
        name = hashlib.sha256(f"{key.key_id}/{request_id}".encode()).hexdigest()[:32] if request_id else uuid4().hex
        reservation_id = f"res_{name}"
        holds = orjson.dumps([_row(each) for each in held]).decode()
        all_charges = {unit: amount * max(1, verifications) for unit, amount in charges.items()}
        async with self._postgres.connection(timeout_seconds=TIMEOUT_SECONDS) as connection:
            await connection.execute(
                _HOLD,
                reservation_id,
                key.tenant_id,
                key.owner_id,
                key.key_id,
                holds,
                orjson.dumps(all_charges).decode(),
                verifications,
                KEPT_SECONDS if verifications else HOLD_SECONDS,
            )
        return reservation_id

    async def settle(
        self, reservation_id: str, *, tenant_id: str | None, charges: Mapping[str, int], verifications: int
    ) -> Settlement:
        """Charge amounts by unit instead of what was held; units that are left out were not used.

        ``verifications`` tells to how many a kept answer was given. Raises NotFound if ``tenant_id`` (None: any tenant)
        has no such reservation.
        """
        async with self._postgres.transaction(timeout_seconds=TIMEOUT_SECONDS) as connection:
            row = await connection.fetchrow(_FIND, reservation_id, tenant_id)
            if row is None:
                raise NotFound("there is no such reservation", reason="RESERVATION_NOT_FOUND")
            held = [_held(fields) for fields in orjson.loads(row["holds"])]
            names = [each.demand.account for each in held]
            accounts = await ledger.lock(connection, names)
            if not row["is_over"]:
                more = {each.demand.account: charges.get(each.limit.unit, 0) - each.demand.units for each in held}
                await ledger.debit(connection, more)
                overdraft = sum(max(0, units) for units in more.values())
                await connection.execute(_SETTLE, reservation_id, orjson.dumps(dict(charges)).decode(), overdraft)
                accounts = await ledger.lock(connection, names)
                await count_uses(
                    connection, [_use(row, charges, verifications=verifications)] if row["charges"] else []
                )
        return Settlement(await self._states(held, accounts), already_settled=row["is_over"])

    async def run(self) -> None:
        """End holds that were forgotten, until cancelled."""
        while True:
            try:
                while await self.reap() == REAP_MAX:
                    pass
                async with self._postgres.connection(timeout_seconds=TIMEOUT_SECONDS) as connection:
                    await connection.execute(_FORGET, FORGET_MAX)
            except Unavailable as fault:
                _log.warning("reservations_not_reaped", reason=fault.reason)
            except Exception:  # a fault of ours must not end it unseen
                _log.exception("reservations_not_reaped")
            await asyncio.sleep(REAP_SECONDS)

    async def reap(self) -> int:
        """End some of the holds that were forgotten, as if all of them had been used; gives how many."""
        async with self._postgres.transaction(timeout_seconds=TIMEOUT_SECONDS) as connection:
            forgotten = await connection.fetch(_REAP, REAP_MAX)
            uses = [
                _use(row, orjson.loads(row["charges"]), verifications=row["verifications"])
                for row in forgotten
                if row["charges"]
            ]
            await count_uses(connection, uses)
        metrics.RESERVATIONS_FORGOTTEN.inc(len(forgotten))
        return len(forgotten)

    async def _states(self, held: Sequence[Held], accounts: Mapping[str, Any]) -> tuple[LimitState, ...]:
        """Where the limits stand: as the ledger says, without what their pools have left."""
        present = [each for each in held if each.demand.account in accounts]
        left = await self._left(present, accounts) if present and not self._counters.are_away else {}
        return tuple(
            pool_state(each.limit, each.scope, each.demand.window, used=accounts[name]["debited"] - left.get(name, 0))
            for each in present
            if (name := each.demand.account)
        )

    async def _left(self, held: Sequence[Held], accounts: Mapping[str, Any]) -> Mapping[str, int]:
        """What pools have left, after they heard where the ledger stands."""
        expires_us = self._counters.clock.now_us() + GRANT_US
        rows = [accounts[each.demand.account] for each in held]
        await self._counters.grant(
            [
                Grant(
                    each.demand.name,
                    row["generation"],
                    makes_pool=False,
                    units=0,
                    debited=row["debited"],
                    revision=row["revision"],
                    ends_us=each.demand.window.ends_us,
                    expires_us=expires_us,
                )
                for each, row in zip(held, rows, strict=True)
            ]
        )
        asked = Charge((), consume=False, pools=tuple(each.demand._replace(units=0) for each in held))
        answer = await self._counters.charge(asked)
        if answer is None:
            return {}
        return {each.demand.account: pool.left for each, pool in zip(held, answer.pools, strict=True)}


def _use(row: asyncpg.Record, charges: Mapping[str, int], *, verifications: int) -> HeldUse:
    """What is counted of a reservation that ends; the decision only if it was not counted when it was made."""
    return HeldUse(
        tenant_id=row["tenant_id"],
        owner_id=row["owner_id"],
        key_id=row["key_id"],
        held_at=row["held_at"],
        verifications=verifications if row["verifications"] else 0,
        charges=charges,
    )


def _row(held: Held) -> dict[str, Any]:
    limit, demand = held.limit, held.demand
    return {
        "name": limit.name,
        "kind": limit.kind,
        "unit": limit.unit,
        "amount": limit.amount,
        "shadow": limit.shadow,
        "scope": held.scope,
        "pool": demand.name,
        "account": demand.account,
        "units": demand.units,
        "window": list(demand.window),
    }


def _held(row: Mapping[str, Any]) -> Held:
    limit = Limit(
        name=row["name"], kind=LimitKind(row["kind"]), unit=row["unit"], amount=row["amount"], shadow=row["shadow"]
    )
    window = Window(*row["window"])
    demand = PoolDemand(row["pool"], row["account"], limit.amount, row["units"], limit.shadow, window)
    return Held(limit, LimitScope(row["scope"]), demand)
