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
from typing import NamedTuple
from uuid import uuid4

import orjson
import structlog

from tollkeeper_server.core.errors import NotFound, Unavailable
from tollkeeper_server.core.key import Key
from tollkeeper_server.quota import metrics
from tollkeeper_server.quota.counters import Counters
from tollkeeper_server.quota.demands import Held
from tollkeeper_server.quota.holds import record_of, use_of
from tollkeeper_server.quota.settlements import TIMEOUT_SECONDS, Asked, Settlement, Settlements
from tollkeeper_server.storage.batcher import Batcher
from tollkeeper_server.storage.postgres import Postgres
from tollkeeper_server.usage.held import count_uses

HOLD_SECONDS = 900
"""How long a hold can be settled."""
KEPT_SECONDS = 60
"""How long that of a kept answer can be."""
BATCH_MAX = 200
"""How many are written down, or settled, in one transaction."""
REAP_SECONDS = 5.0
REAP_MAX = 1_000
"""How many forgotten holds end in one transaction."""
FORGET_MAX = 10_000
"""How many reservations that ended an hour ago are deleted at once."""

_HOLD = """
    INSERT INTO reservations
        (reservation_id, tenant_id, owner_id, key_id, holds, charges, verifications, held_at, expires_at)
    SELECT reservation_id, tenant_id, owner_id, key_id, holds, charges, verifications, now,
        now + seconds * interval '1 second'
    FROM clock_timestamp() AS now, unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[], $7::bigint[], $8::integer[]
    ) AS hold (reservation_id, tenant_id, owner_id, key_id, holds, charges, verifications, seconds)
    ORDER BY reservation_id
    ON CONFLICT (reservation_id) DO NOTHING
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


class _Hold(NamedTuple):
    reservation_id: str
    tenant_id: str
    owner_id: str
    key_id: str
    holds: str
    charges: str
    verifications: int
    seconds: int


class Reservations:
    """Holds and settles, many in one transaction. Raises Unavailable if Postgres does not answer in time."""

    def __init__(self, postgres: Postgres, *, counters: Counters) -> None:
        self._postgres = postgres
        self._settlements = Settlements(postgres, counters=counters)
        self._holding: Batcher[_Hold, None] = Batcher(self._hold, batch_max=BATCH_MAX)
        self._settling: Batcher[Asked, Settlement | None] = Batcher(self._settlements.settle, batch_max=BATCH_MAX)

    async def hold(
        self, key: Key, held: Sequence[Held], *, charges: Mapping[str, int], verifications: int, request_id: str
    ) -> str:
        """Write down what was charged to ``key``, and give what to settle; the same for the same ``request_id``.

        ``charges`` are those of one verification. ``verifications`` tells to how many a kept answer may be given; 0 is
        for a single one whose decision is counted already.
        """
        name = hashlib.sha256(f"{key.key_id}/{request_id}".encode()).hexdigest()[:32] if request_id else uuid4().hex
        hold = _Hold(
            f"res_{name}",
            key.tenant_id,
            key.owner_id,
            key.key_id,
            orjson.dumps([record_of(each) for each in held]).decode(),
            orjson.dumps({unit: amount * max(1, verifications) for unit, amount in charges.items()}).decode(),
            verifications,
            KEPT_SECONDS if verifications else HOLD_SECONDS,
        )
        await self._holding.submit(hold)
        return hold.reservation_id

    async def settle(
        self, reservation_id: str, *, tenant_id: str | None, charges: Mapping[str, int], verifications: int
    ) -> Settlement:
        """Charge amounts by unit instead of what was held; units that are left out were not used.

        ``verifications`` tells to how many a kept answer was given. Raises NotFound if ``tenant_id`` (None: any tenant)
        has no such reservation.
        """
        settlement = await self._settling.submit(Asked(reservation_id, tenant_id, charges, verifications))
        if settlement is None:
            raise NotFound("there is no such reservation", reason="RESERVATION_NOT_FOUND")
        return settlement

    async def close(self) -> None:
        """Finish what was asked, and take no more."""
        await self._holding.close()
        await self._settling.close()

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
            await count_uses(connection, [use for row in forgotten if (use := use_of(row)) is not None])
        metrics.RESERVATIONS_FORGOTTEN.inc(len(forgotten))
        return len(forgotten)

    async def _hold(self, holds: Sequence[_Hold]) -> Sequence[None]:
        async with self._postgres.connection(timeout_seconds=TIMEOUT_SECONDS) as connection:
            await connection.execute(_HOLD, *map(list, zip(*holds, strict=True)))
        return [None] * len(holds)
