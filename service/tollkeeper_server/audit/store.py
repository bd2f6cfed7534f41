"""The audit log in Postgres."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import orjson

from tollkeeper_server.audit.events import AuditEvent, ListAuditEvents
from tollkeeper_server.storage.postgres import Connection, acting_in

_FIRST_SINCE = """(
    SELECT sequence FROM audit_events WHERE tenant_id = $1 AND occurred_at >= {time}
    ORDER BY occurred_at, sequence LIMIT 1
)"""
_LAST_BEFORE = """(
    SELECT sequence FROM audit_events WHERE tenant_id = $1 AND occurred_at < {time}
    ORDER BY occurred_at DESC, sequence DESC LIMIT 1
)"""


async def list_events(
    connection: Connection, query: ListAuditEvents, *, tenant_id: str, before: int | None
) -> list[AuditEvent]:
    """The newest events that match, older than the event ``before``; one more than a page if there are more."""
    text, values = page_statement(query, tenant_id=tenant_id, before=before)
    async with acting_in(tenant_id, connection):
        return [_event_from(row) for row in await connection.fetch(text, *values)]


def page_statement(query: ListAuditEvents, *, tenant_id: str, before: int | None) -> tuple[str, Sequence[Any]]:
    """What reads a page, with its values.

    A page is a range of the index of one of its filters, or of the whole log without any, at a cost that does not grow
    with the log; the other filters look at what is found there. Time grows along the log, so its bounds are places.
    """
    values: list[Any] = []

    def mark(value: Any) -> str:
        values.append(value)
        return f"${len(values)}"

    conditions = [f"tenant_id = {mark(tenant_id)}"]
    filters = {"key_id": query.key_id, "owner_id": query.owner_id, "actor": query.actor, "action": query.action}
    conditions += [f"{column} = {mark(value)}" for column, value in filters.items() if value]
    if query.start_time is not None:
        conditions.append(f"sequence >= {_FIRST_SINCE.format(time=mark(query.start_time))}")
    if query.end_time is not None:
        conditions.append(f"sequence <= {_LAST_BEFORE.format(time=mark(query.end_time))}")
    if before is not None:
        conditions.append(f"sequence < {mark(before)}")
    where, limit = " AND ".join(conditions), mark(query.page_size + 1)
    order = "sequence DESC NULLS LAST" if any(filters.values()) else "sequence DESC"  # those of the indexes
    return f"SELECT * FROM audit_events WHERE {where} ORDER BY {order} LIMIT {limit}", values  # noqa: S608


def _event_from(row: asyncpg.Record) -> AuditEvent:
    return AuditEvent(
        tenant_id=row["tenant_id"],
        sequence=row["sequence"],
        occurred_at=row["occurred_at"],
        actor=row["actor"],
        actor_ip=row["actor_ip"],
        action=row["action"],
        key_id=row["key_id"],
        owner_id=row["owner_id"],
        request_id=row["request_id"],
        revision=row["revision"],
        before=None if row["before"] is None else orjson.loads(row["before"]),
        after=None if row["after"] is None else orjson.loads(row["after"]),
        hash=row["hash"],
    )
