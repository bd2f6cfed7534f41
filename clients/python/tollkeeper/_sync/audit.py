# Generated from ``_async`` by ``scripts/unasync.py``; do not edit.
"""The audit log: who did what to which key."""

from collections.abc import Iterator
from datetime import datetime

from tollkeeper._audit import AuditEvent, AuditPage
from tollkeeper._requests import audit as requests
from tollkeeper._results import audit as results
from tollkeeper._sync.calls import Calls


class AuditCalls(Calls):
    """Reads the audit log. ``tenant_id`` says whose, for root callers."""

    def list_audit_events(
        self,
        *,
        key_id: str = "",
        owner_id: str = "",
        actor: str = "",
        action: str = "",
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        page_size: int = 0,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> Iterator[AuditEvent]:
        """All events that match, newest first; pages are fetched as they are needed, each within ``timeout``."""
        request = requests.list_audit_events(
            key_id=key_id,
            owner_id=owner_id,
            actor=actor,
            action=action,
            start_time=start_time,
            end_time=end_time,
            page_size=page_size,
            page_token="",
            tenant_id=tenant_id,
        )
        while True:
            page = results.audit_page(self._call(self._stubs.audit.ListAuditEvents, request, timeout, self._timeout))
            yield from page.events
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def list_audit_events_page(
        self,
        *,
        key_id: str = "",
        owner_id: str = "",
        actor: str = "",
        action: str = "",
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> AuditPage:
        """One page of the audit log: at most ``page_size``, where 0 means 50 and 1,000 is the most.

        :param key_id: events about this key.
        :param owner_id: events about this owner and its keys.
        :param actor: events by this caller, by its key_id or as the subject of a signed-in user.
        :param action: events of this action, as ``CreateKey``.
        :param start_time: events from this moment on, with a time zone.
        :param end_time: events before this moment, with a time zone.
        :param page_token: ``next_page_token`` of the page before; empty starts at the newest event.
        :param tenant_id: whose log, for root callers.
        """
        request = requests.list_audit_events(
            key_id=key_id,
            owner_id=owner_id,
            actor=actor,
            action=action,
            start_time=start_time,
            end_time=end_time,
            page_size=page_size,
            page_token=page_token,
            tenant_id=tenant_id,
        )
        return results.audit_page(self._call(self._stubs.audit.ListAuditEvents, request, timeout, self._timeout))
