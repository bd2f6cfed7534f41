"""Settling reservations: many in one transaction, each of them once."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import asyncpg
import orjson

from tollkeeper_server.core.limits import LimitState
from tollkeeper_server.quota import ledger
from tollkeeper_server.quota.charges import Charge, Grant
from tollkeeper_server.quota.counters import Counters
from tollkeeper_server.quota.demands import Held, pool_state
from tollkeeper_server.quota.holds import held_of, use_of
from tollkeeper_server.quota.refills import GRANT_US
from tollkeeper_server.storage.postgres import Connection, Postgres
from tollkeeper_server.usage.held import count_uses

TIMEOUT_SECONDS = 2.0

_FIND = """
    SELECT *, settled_at IS NOT NULL OR expires_at <= clock_timestamp() AS is_over
    FROM reservations WHERE reservation_id = ANY($1) ORDER BY reservation_id FOR UPDATE
"""
_SETTLE = """
    UPDATE reservations SET settled_at = clock_timestamp(), settled = used.charges, overdraft = used.overdraft
    FROM unnest($1::text[], $2::jsonb[], $3::bigint[]) AS used (reservation_id, charges, overdraft)
    WHERE reservations.reservation_id = used.reservation_id
"""

Rows = Mapping[str, asyncpg.Record]
"""Reservations by name."""
Holds = Mapping[str, Sequence[Held]]
"""What they hold."""
Accounts = Mapping[str, asyncpg.Record]
"""Accounts of the ledger by name."""


class Asked(NamedTuple):
    """What is settled."""

    reservation_id: str
    tenant_id: str | None
    """Whose it must be; None for anyone's."""
    charges: Mapping[str, int]
    """What was really used, by unit."""
    verifications: int
    """To how many a kept answer was given."""


class Settlement(NamedTuple):
    """What came of settling."""

    limits: tuple[LimitState, ...]
    """The QUOTA and SPEND limits that were charged, as they stand."""
    already_settled: bool
    """Nothing was changed: it was settled before, or too late."""


class Settlements:
    """Moves the difference between what was held and what was used on the ledger, and counts the use.

    Raises Unavailable if Postgres does not answer in time.
    """

    def __init__(self, postgres: Postgres, *, counters: Counters) -> None:
        self._postgres = postgres
        self._counters = counters

    async def settle(self, asked: Sequence[Asked]) -> list[Settlement | None]:
        """What came of each, in order; None if there is no such reservation."""
        async with self._postgres.transaction(timeout_seconds=TIMEOUT_SECONDS) as connection:
            found = await connection.fetch(_FIND, [each.reservation_id for each in asked])
            rows = {row["reservation_id"]: row for row in found}
            held = {name: [held_of(record) for record in orjson.loads(row["holds"])] for name, row in rows.items()}
            names = list({each.demand.account for holds in held.values() for each in holds})
            accounts: Accounts = await ledger.lock(connection, names)
            ending = _ending(asked, rows)
            if ending:
                await _end(connection, ending, rows, held)
                accounts = await ledger.lock(connection, names)
        limits = await self._limits(held, accounts)
        return [
            Settlement(limits[each.reservation_id], already_settled=ending.get(each.reservation_id) is not each)
            if _exists(each, rows)
            else None
            for each in asked
        ]

    async def _limits(self, held: Holds, accounts: Accounts) -> Mapping[str, tuple[LimitState, ...]]:
        """Where the limits stand: as the ledger says, without what their pools have left."""
        present = {name: [each for each in holds if each.demand.account in accounts] for name, holds in held.items()}
        left = {} if self._counters.are_away else await self._left([one for one in present.values() if one], accounts)
        return {
            name: tuple(
                pool_state(
                    each.limit,
                    each.scope,
                    each.demand.window,
                    used=accounts[each.demand.account]["debited"] - left.get(each.demand.account, 0),
                )
                for each in holds
            )
            for name, holds in present.items()
        }

    async def _left(self, held: Sequence[Sequence[Held]], accounts: Accounts) -> Mapping[str, int]:
        """What pools have left, after they heard where the ledger stands."""
        expires_us = self._counters.clock.now_us() + GRANT_US
        grants = {
            each.demand.account: _news(each, accounts[each.demand.account], expires_us)
            for holds in held
            for each in holds
        }
        if grants:
            await self._counters.grant(list(grants.values()))
        asked = [
            Charge((), consume=False, pools=tuple(each.demand._replace(units=0) for each in holds)) for holds in held
        ]
        answers = await asyncio.gather(*map(self._counters.charge, asked))
        return {
            each.demand.account: pool.left
            for holds, answer in zip(held, answers, strict=True)
            if answer is not None
            for each, pool in zip(holds, answer.pools, strict=True)
        }


def _exists(asked: Asked, rows: Rows) -> bool:
    row = rows.get(asked.reservation_id)
    return row is not None and asked.tenant_id in (None, row["tenant_id"])


def _ending(asked: Sequence[Asked], rows: Rows) -> Mapping[str, Asked]:
    """Who ends which reservation: the first who asks for it, as long as its hold has not run out."""
    ending: dict[str, Asked] = {}
    for each in asked:
        if _exists(each, rows) and not rows[each.reservation_id]["is_over"]:
            ending.setdefault(each.reservation_id, each)
    return ending


async def _end(connection: Connection, ending: Mapping[str, Asked], rows: Rows, held: Holds) -> None:
    more = {
        name: {each.demand.account: asked.charges.get(each.limit.unit, 0) - each.demand.units for each in held[name]}
        for name, asked in ending.items()
    }
    total: Counter[str] = Counter()
    for units in more.values():
        total.update(units)
    await ledger.debit(connection, total)
    await connection.execute(
        _SETTLE,
        list(ending),
        [orjson.dumps(dict(asked.charges)).decode() for asked in ending.values()],
        [sum(max(0, units) for units in more[name].values()) for name in ending],
    )
    uses = [
        use_of(rows[name], charges=asked.charges, verifications=asked.verifications) for name, asked in ending.items()
    ]
    await count_uses(connection, [use for use in uses if use is not None])


def _news(held: Held, account: asyncpg.Record, expires_us: int) -> Grant:
    """A grant of nothing, which tells a pool where the ledger stands."""
    return Grant(
        held.demand.name,
        account["generation"],
        makes_pool=False,
        units=0,
        debited=account["debited"],
        revision=account["revision"],
        ends_us=held.demand.window.ends_us,
        expires_us=expires_us,
    )
