"""Pages of keys: which statement reads one, at a cost that does not grow with the table."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tollkeeper_server.core.key import Key, KeyState
from tollkeeper_server.keys.commands import ListKeys
from tollkeeper_server.keys.ids import first_key_id
from tollkeeper_server.keys.pages import Cursor
from tollkeeper_server.keys.records import key_from
from tollkeeper_server.keys.store import OLD_LAST_USED_AT
from tollkeeper_server.storage.postgres import Connection, acting_in

# The order of the indexes for pages; see there.
_BY_KEY_ID = 'key_id COLLATE "POSIX"'


async def list_keys(
    connection: Connection, query: ListKeys, *, tenant_id: str, after: Cursor | None, now: datetime
) -> Sequence[Key]:
    """The keys that match, from ``after`` on; one more than a page if there are more."""
    text, values = page_statement(query, tenant_id=tenant_id, after=after, now=now)
    async with acting_in(tenant_id, connection):
        return [key_from(row) for row in await connection.fetch(text, *values)]


def page_statement(
    query: ListKeys, *, tenant_id: str, after: Cursor | None, now: datetime
) -> tuple[str, Sequence[Any]]:
    """What reads a page, with its values.

    A page is a range of the index of one of its filters, at a cost that does not grow with the table; the other filters
    look at what is found there. EXPIRED alone is found by passing over every active key that is newer, and a key that
    is due for rotation by passing over those that are as old and were rotated since.
    """
    values: list[Any] = []

    def mark(value: Any) -> str:
        values.append(value)
        return f"${len(values)}"

    stored = "ACTIVE" if query.state is KeyState.EXPIRED else query.state
    filters = {"owner_id": query.owner_id, "environment": query.environment, "prefix": query.prefix, "state": stored}
    conditions = [f"tenant_id = {mark(tenant_id)}"]
    conditions += [f"{column} = {mark(value)}" for column, value in filters.items() if value]
    if query.state is KeyState.ACTIVE:
        certain = "" if query.expires_before is not None else "expires_at IS NULL OR "
        conditions.append(f"({certain}expires_at > {mark(now)})")
    elif query.state is KeyState.EXPIRED:
        conditions.append(f"expires_at <= {mark(now)}")
    if query.expires_before is not None:
        conditions.append(f"expires_at < {mark(query.expires_before)}")
    if query.api_key_created_before is not None:
        conditions.append(f"api_key_created_at < {mark(query.api_key_created_before)}")
    # A key_id tells when the key was made, and no API key is older than its key.
    oldest = [moment for moment in (query.created_before, query.api_key_created_before) if moment is not None]
    if oldest:
        conditions.append(f"{_BY_KEY_ID} < {mark(first_key_id(min(oldest)))}")
    order = f"{_BY_KEY_ID} DESC"
    if query.expires_before is not None:
        order = f"expires_at, {_BY_KEY_ID}"
        if after is not None:
            conditions.append(f"(expires_at, {_BY_KEY_ID}) > ({mark(after.expires_at)}, {mark(after.key_id)})")
    elif after is not None:
        conditions.append(f"{_BY_KEY_ID} < {mark(after.key_id)}")
    where, limit = " AND ".join(conditions), mark(query.page_size + 1)
    return f"SELECT *, {OLD_LAST_USED_AT} FROM keys WHERE {where} ORDER BY {order} LIMIT {limit}", values  # noqa: S608
