"""What is written down of reservations, and read again."""

from collections.abc import Mapping
from typing import Any

import asyncpg
import orjson

from tollkeeper_server.core.limits import Limit, LimitKind, LimitScope
from tollkeeper_server.core.windows import Window
from tollkeeper_server.quota.charges import PoolDemand
from tollkeeper_server.quota.demands import Held
from tollkeeper_server.usage.held import HeldUse


def use_of(
    row: asyncpg.Record, *, charges: Mapping[str, int] | None = None, verifications: int | None = None
) -> HeldUse | None:
    """What is counted of a reservation that ends, as held where nothing else is told; None if it is counted already.

    The decision of a charge whose true amount comes later was counted when it was made.
    """
    if row["charges"] is None:
        return None
    return HeldUse(
        tenant_id=row["tenant_id"],
        owner_id=row["owner_id"],
        key_id=row["key_id"],
        held_at=row["held_at"],
        verifications=verifications if verifications and row["verifications"] else row["verifications"],
        charges=orjson.loads(row["charges"]) if charges is None else charges,
    )


def record_of(held: Held) -> dict[str, Any]:
    """What is written down of the charge to one limit."""
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


def held_of(record: Mapping[str, Any]) -> Held:
    """The inverse of ``record_of``."""
    limit = Limit(
        name=record["name"],
        kind=LimitKind(record["kind"]),
        unit=record["unit"],
        amount=record["amount"],
        shadow=record["shadow"],
    )
    window = Window(*record["window"])
    demand = PoolDemand(record["pool"], record["account"], limit.amount, record["units"], limit.shadow, window)
    return Held(limit, LimitScope(record["scope"]), demand)
