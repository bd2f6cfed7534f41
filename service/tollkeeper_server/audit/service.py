"""Reading the audit log on behalf of callers."""

from tollkeeper_server.audit.events import AuditPage, ListAuditEvents
from tollkeeper_server.audit.pages import last_sequence, page_token
from tollkeeper_server.audit.store import list_events
from tollkeeper_server.core.caller import Caller
from tollkeeper_server.storage.postgres import Postgres


class AuditService:
    """Lists the events of a tenant. That the caller may read them at all is checked before it comes here."""

    def __init__(self, *, postgres: Postgres) -> None:
        self._postgres = postgres

    async def list(self, caller: Caller, query: ListAuditEvents) -> AuditPage:
        """One page of a tenant's log, newest first. Events that are added meanwhile never shift the pages that follow.

        Raises PermissionDenied for a foreign tenant, InvalidArgument for a page token that is not of these filters,
        Unavailable if Postgres does not answer in time.
        """
        tenant_id = caller.tenant(query.tenant_id)
        before = last_sequence(query, tenant_id=tenant_id)
        async with self._postgres.connection() as connection:
            found = await list_events(connection, query, tenant_id=tenant_id, before=before)
        events = tuple(found[: query.page_size])
        more = len(found) > len(events)
        return AuditPage(
            events=events,
            next_page_token=page_token(query, tenant_id=tenant_id, last_sequence=events[-1].sequence) if more else "",
        )
