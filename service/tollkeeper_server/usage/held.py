"""Usage of what was held: counted by the transaction that ends it, and so exactly once."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.storage.postgres import Connection
from tollkeeper_server.usage.batch import owner_subject
from tollkeeper_server.usage.store import add_amounts


class HeldUse(NamedTuple):
    """What a charge that was held was used for."""

    tenant_id: str
    owner_id: str
    key_id: str
    held_at: datetime
    """When it was charged, which is when it is counted."""
    verifications: int
    """How many decisions are to be counted as ALLOWED."""
    charges: Mapping[str, int]
    """Amounts by unit, of all verifications together."""


async def count_uses(connection: Connection, uses: Sequence[HeldUse]) -> None:
    """Count the uses of keys and owners, in the transaction of ``connection``."""
    amounts: defaultdict[tuple[str, datetime, str], int] = defaultdict(int)
    for use in uses:
        minute = use.held_at.replace(second=0, microsecond=0)
        counts = {str(DecisionCode.ALLOWED): use.verifications, **use.charges}
        for subject in (use.key_id, owner_subject(use.tenant_id, use.owner_id) if use.owner_id else ""):
            for counter, amount in counts.items():
                if subject and amount:
                    amounts[subject, minute, counter] += amount
    if amounts:
        await add_amounts(connection, amounts)
