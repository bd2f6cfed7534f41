"""Usage: who uses what, and what is unusual about it."""

from collections.abc import AsyncIterator
from datetime import datetime

from tollkeeper._async.calls import AsyncCalls
from tollkeeper._requests import usage as requests
from tollkeeper._results import usage as results
from tollkeeper._usage import Finding, FindingPage, Granularity, Usage


class AsyncUsageCalls(AsyncCalls):
    """Reads usage. Verifications are told within seconds. ``tenant_id`` is the owner's, for root callers."""

    async def get_usage(
        self,
        *,
        key_id: str | None = None,
        owner_id: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        granularity: Granularity = Granularity.HOUR,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> Usage:
        """The usage of a key, or of all keys of an owner, in buckets of time; give exactly one of the two.

        :param start_time: rounded down to a bucket; None means 60 minutes, 24 hours or 30 days before ``end_time``.
        :param end_time: not included; None means now. At most 1,500 buckets after ``start_time``.
        """
        request = requests.get_usage(
            key_id=key_id,
            owner_id=owner_id,
            start_time=start_time,
            end_time=end_time,
            granularity=granularity,
            tenant_id=tenant_id,
        )
        return results.usage(await self._call(self._stubs.usage.GetUsage, request, timeout, self._timeout))

    async def list_findings(
        self,
        *,
        key_id: str | None = None,
        owner_id: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        page_size: int = 0,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Finding]:
        """All that was unusual, as :meth:`list_findings_page` gives it page by page.

        Pages are fetched as they are needed, each within ``timeout``.
        """
        request = requests.list_findings(
            key_id=key_id,
            owner_id=owner_id,
            start_time=start_time,
            end_time=end_time,
            page_size=page_size,
            page_token="",
            tenant_id=tenant_id,
        )
        while True:
            page = results.finding_page(
                await self._call(self._stubs.usage.ListFindings, request, timeout, self._timeout)
            )
            for finding in page.findings:
                yield finding
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def list_findings_page(
        self,
        *,
        key_id: str | None = None,
        owner_id: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> FindingPage:
        """One page of what was unusual, newest first: at most ``page_size``, where 0 means 50 and 1,000 is the most.

        :param key_id: in the use of this key; or ``owner_id``, of all keys of an owner; neither, of every key.
        :param start_time: found at this moment or later.
        :param end_time: found before this moment.
        :param page_token: ``next_page_token`` of the page before; empty starts with the newest.
        """
        request = requests.list_findings(
            key_id=key_id,
            owner_id=owner_id,
            start_time=start_time,
            end_time=end_time,
            page_size=page_size,
            page_token=page_token,
            tenant_id=tenant_id,
        )
        return results.finding_page(await self._call(self._stubs.usage.ListFindings, request, timeout, self._timeout))
