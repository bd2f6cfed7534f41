"""What is read of usage."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tollkeeper_server.core.decision import DecisionCode
from tollkeeper_server.storage.postgres import Connection
from tollkeeper_server.usage.queries import Finding, FindingKind, Granularity, ListFindings, UsageBucket

# Rows that are shorter than what is asked for are summed up, those that are longer stand for themselves.
_BUCKETS = """
    SELECT starts_at, seconds, counter, least(sum(amount), 9223372036854775807)::bigint AS amount
    FROM (
        SELECT date_bin(greatest(seconds, $4) * interval '1 second', starts_at, 'epoch') AS starts_at,
            greatest(seconds, $4) AS seconds, counter, amount
        FROM usage_buckets WHERE subject = $1 AND starts_at >= $2 AND starts_at < $3
    ) AS bucket
    GROUP BY starts_at, seconds, counter
    ORDER BY starts_at, seconds, counter
"""


async def read_buckets(
    connection: Connection, subject: str, *, start: datetime, end: datetime, granularity: Granularity
) -> list[UsageBucket]:
    """What happened in the buckets that start from ``start`` on and before ``end``, oldest first."""
    rows = await connection.fetch(_BUCKETS, subject, start, end, granularity)
    counters: dict[tuple[datetime, int], dict[str, int]] = {}
    for row in rows:
        counters.setdefault((row["starts_at"], row["seconds"]), {})[row["counter"]] = row["amount"]
    return [
        UsageBucket(
            starts_at=starts_at,
            granularity=Granularity(seconds),
            decisions={code: amounts[code] for code in DecisionCode if code in amounts},
            units={unit: amount for unit, amount in amounts.items() if unit not in DecisionCode.__members__},
        )
        for (starts_at, seconds), amounts in counters.items()
    ]


async def read_findings(
    connection: Connection, query: ListFindings, *, tenant_id: str, after: tuple[datetime, int] | None
) -> Sequence[Finding]:
    """The newest findings that match, older than ``after``; one more than a page if there are more."""
    values: list[Any] = [tenant_id]
    conditions = ["tenant_id = $1"]

    def where(condition: str, *given: Any) -> None:
        numbers = [f"${len(values) + number}" for number in range(1, len(given) + 1)]
        values.extend(given)
        conditions.append(condition.format(*numbers))

    if query.key_id:
        where("key_id = {}", query.key_id)
    if query.owner_id:
        where("owner_id = {}", query.owner_id)
    if query.start_time is not None:
        where("last_at >= {}", query.start_time)
    if query.end_time is not None:
        where("first_at < {}", query.end_time)
    if after is not None:
        where("(first_at, finding_id) < ({}, {})", *after)
    values.append(query.page_size + 1)
    rows = await connection.fetch(
        f"SELECT * FROM findings WHERE {' AND '.join(conditions)} "  # noqa: S608
        f"ORDER BY first_at DESC, finding_id DESC LIMIT ${len(values)}",
        *values,
    )
    return [
        Finding(
            finding_id=row["finding_id"],
            kind=FindingKind(row["kind"]),
            key_id=row["key_id"],
            owner_id=row["owner_id"],
            first_at=row["first_at"],
            last_at=row["last_at"],
            denied=row["denied"],
            network=row["network"],
        )
        for row in rows
    ]
