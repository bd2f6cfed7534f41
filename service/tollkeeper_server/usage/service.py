"""What callers may know of usage."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.errors import InvalidArgument, NotFound, Violation
from tollkeeper_server.keys.lookup import find_by_key_ids
from tollkeeper_server.storage.postgres import Connection, Postgres
from tollkeeper_server.usage.batch import owner_subject
from tollkeeper_server.usage.pages import last_place, page_token
from tollkeeper_server.usage.queries import (
    BUCKETS_MAX,
    FindingPage,
    GetUsage,
    Granularity,
    ListFindings,
    UsageBucket,
)
from tollkeeper_server.usage.reading import read_buckets, read_findings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_BUCKETS_DEFAULT = {Granularity.MINUTE: 60, Granularity.HOUR: 24, Granularity.DAY: 30}
_SKEW = timedelta(days=1)
"""Nothing is counted further in the future than this, whatever a server's clock says."""


class UsageService:
    """Reads usage and findings on behalf of callers.

    That the caller may read usage at all is checked before it comes here; what it sees is checked here. Every method
    raises Unavailable if Postgres does not answer in time.
    """

    def __init__(self, *, postgres: Postgres, clock: Callable[[], datetime]) -> None:
        self._postgres = postgres
        self._clock = clock

    async def get_usage(self, caller: Caller, query: GetUsage) -> Sequence[UsageBucket]:
        """The buckets in which something happened, oldest first.

        Raises NotFound if there is no such key, or none that the caller sees; PermissionDenied for a foreign tenant;
        InvalidArgument for a range that is empty or too long.
        """
        start, end = _range(query, now=self._clock())
        async with self._postgres.connection() as connection:
            if query.key_id:
                await _visible_tenant(connection, caller, query.key_id, named=query.tenant_id)
                subject = query.key_id
            else:
                subject = owner_subject(caller.tenant(query.tenant_id), query.owner_id)
            return await read_buckets(connection, subject, start=start, end=end, granularity=query.granularity)

    async def list_findings(self, caller: Caller, query: ListFindings) -> FindingPage:
        """One page of what was unusual, newest first.

        Raises NotFound and PermissionDenied as ``get_usage``, InvalidArgument for a page token of other filters.
        """
        async with self._postgres.connection() as connection:
            if query.key_id:
                tenant_id = await _visible_tenant(connection, caller, query.key_id, named=query.tenant_id)
            else:
                tenant_id = caller.tenant(query.tenant_id)
            after = last_place(query, tenant_id=tenant_id)
            found = await read_findings(connection, query, tenant_id=tenant_id, after=after)
        findings = tuple(found[: query.page_size])
        more = len(found) > len(findings)
        return FindingPage(
            findings=findings,
            next_page_token=page_token(query, tenant_id=tenant_id, last=findings[-1]) if more else "",
        )


async def _visible_tenant(connection: Connection, caller: Caller, key_id: str, *, named: str) -> str:
    """The tenant of a key; the same NotFound for a key that does not exist and for another tenant's."""
    tenant_id = caller.tenant(named)
    key = (await find_by_key_ids(connection, [key_id])).get(key_id)
    if key is None or not caller.sees(key.tenant_id) or (named and key.tenant_id != tenant_id):
        raise NotFound("there is no such key", reason="KEY_NOT_FOUND")
    return key.tenant_id


def _range(query: GetUsage, *, now: datetime) -> tuple[datetime, datetime]:
    """Where the first bucket starts, and where the last one ends."""
    length = timedelta(seconds=query.granularity)
    end = query.end_time or now
    start = query.start_time or end - min(_BUCKETS_DEFAULT[query.granularity] * length, end - _BEGINNING)
    if end <= start:
        raise InvalidArgument([Violation("end_time", "must be after start_time")])
    if end - start > BUCKETS_MAX * length:
        raise InvalidArgument([Violation("end_time", f"must be at most {BUCKETS_MAX} buckets after start_time")])
    last = min(end, now + _SKEW)
    return _floor(start, length), -((_EPOCH - last) // length) * length + _EPOCH


def _floor(moment: datetime, length: timedelta) -> datetime:
    return moment - (moment - _EPOCH) % length
