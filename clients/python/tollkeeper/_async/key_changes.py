"""The life of keys after their creation: switched off and on, rotated, ended, reported, taken over."""

from collections.abc import AsyncIterator, Iterable
from datetime import timedelta

from tollkeeper._async.calls import AsyncCalls
from tollkeeper._errors import CallError
from tollkeeper._keys import (
    EnabledKey,
    ImportKey,
    KeyChange,
    LeakedKey,
    LeakReport,
    RevokeReason,
    RotatedKey,
)
from tollkeeper._requests import key_changes as requests
from tollkeeper._results import keys as results


class AsyncKeyChangeCalls(AsyncCalls):
    """Changes what becomes of keys.

    When an answer's ``propagation`` is EVERYWHERE, no verification that starts from then on sees the key as it was
    before. Each method takes a ``request_id``: with the same id and request, the change is made once; made up if None.
    """

    async def disable_key(
        self, key_id: str, *, request_id: str | None = None, timeout: float | None = None
    ) -> KeyChange:
        """Switches a key off until :meth:`enable_key`."""
        request = requests.disable_key(key_id, request_id=request_id)
        response = await self._call(self._stubs.keys.DisableKey, request, timeout, self._timeout)
        return results.key_change(response)

    async def enable_key(
        self, key_id: str, *, request_id: str | None = None, timeout: float | None = None
    ) -> EnabledKey:
        """Switches a disabled key on again."""
        request = requests.enable_key(key_id, request_id=request_id)
        return results.enabled_key(await self._call(self._stubs.keys.EnableKey, request, timeout, self._timeout))

    async def rotate_key(
        self,
        key_id: str,
        *,
        overlap: timedelta = timedelta(),
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> RotatedKey:
        """Gives a key a new API key; the answer holds the only copy of it.

        The present one works on for ``overlap``, at most 366 days; 0 ends it at once. One that is left from a rotation
        before ends at once in any case.
        """
        request = requests.rotate_key(key_id, overlap=overlap, request_id=request_id)
        return results.rotated_key(await self._call(self._stubs.keys.RotateKey, request, timeout, self._timeout))

    async def end_overlap(
        self, key_id: str, *, request_id: str | None = None, timeout: float | None = None
    ) -> KeyChange:
        """Ends the earlier API key of a rotation before its overlap is over. Without one nothing changes."""
        request = requests.end_overlap(key_id, request_id=request_id)
        response = await self._call(self._stubs.keys.EndOverlap, request, timeout, self._timeout)
        return results.key_change(response)

    async def revoke_key(
        self,
        key_id: str | None = None,
        *,
        api_key: str | None = None,
        reason: RevokeReason = RevokeReason.UNSPECIFIED,
        comment: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> KeyChange:
        """Ends a key for good: by ``key_id``, or by possession of its ``api_key``. Revoking it again succeeds.

        When this returns with ``propagation`` EVERYWHERE, no verification that starts from then on is ALLOWED.
        ``comment`` is kept in the audit log.
        """
        request = requests.revoke_key(
            key_id=key_id, api_key=api_key, reason=reason, comment=comment, request_id=request_id
        )
        response = await self._call(self._stubs.keys.RevokeKey, request, timeout, self._timeout)
        return results.key_change(response)

    async def report_leaked_keys(
        self, leaked_keys: Iterable[LeakedKey], *, request_id: str | None = None, timeout: float | None = None
    ) -> LeakReport:
        """Ends up to 1,000 keys by possession of their API keys, with the reason COMPROMISED.

        Any known caller may. Says which of them were keys of this server, in order.
        """
        request = requests.report_leaked_keys(leaked_keys, request_id=request_id)
        response = await self._call(self._stubs.keys.ReportLeakedKeys, request, timeout, self._timeout)
        return results.leak_report(response, expected=len(request.leaked_keys))

    async def import_keys(
        self,
        keys: Iterable[ImportKey],
        *,
        request_id: str | None = None,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[KeyChange | CallError]:
        """Takes over keys of another system, any number of them: one outcome each, in order.

        They are sent in batches of at most 1,000, each within ``timeout``, while the outcomes are read. What was not
        imported is a CallError, and spoils no other. Raises the CallError of a batch that failed as a whole; what was
        answered before it is imported.

        :param request_id: with the same id and the same keys, all are imported once; at most 56 characters.
        :param tenant_id: whose keys they become, for root callers.
        """
        for request in requests.import_batches(keys, request_id=request_id, tenant_id=tenant_id):
            response = await self._call(self._stubs.keys.ImportKeys, request, timeout, self._timeout)
            for outcome in results.imported_keys(response, expected=len(request.keys)):
                yield outcome
