# Generated from ``_async`` by ``scripts/unasync.py``; do not edit.
"""Owners: the customers, users or organizations that keys act for."""

from collections.abc import Iterable, Mapping
from typing import Any

from tollkeeper._keys import RevokeReason
from tollkeeper._limits import Limit
from tollkeeper._owners import Owner, OwnerChange, RevokedKeys
from tollkeeper._requests import owners as requests
from tollkeeper._results import owners as results
from tollkeeper._sync.calls import Calls


class OwnerCalls(Calls):
    """Reads and sets owners, and ends their keys. ``tenant_id`` is the owner's, for root callers."""

    def get_owner(self, owner_id: str, *, tenant_id: str | None = None, timeout: float | None = None) -> Owner:
        """What is known of an owner. Raises :class:`NotFound` if it was never set, also where it has keys."""
        request = requests.get_owner(owner_id, tenant_id=tenant_id)
        response = self._call(self._stubs.keys.GetOwner, request, timeout, self._timeout)
        return results.owner(response.owner)

    def set_owner(
        self,
        owner_id: str,
        *,
        display_name: str = "",
        limits: Iterable[Limit] = (),
        suspended: bool = False,
        metadata: Mapping[str, Any] | None = None,
        etag: str = "",
        request_id: str | None = None,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> OwnerChange:
        """Creates an owner, or replaces all that is known of it.

        :param limits: shared by all of the owner's keys.
        :param suspended: all of its keys are denied with KEY_DISABLED.
        :param metadata: what to keep with it, at most 4 KiB as JSON.
        :param etag: that of the owner as it was read: :class:`Aborted` if it was changed since. Empty sets it anyway.
        :param request_id: with the same id and request, the change is made once; made up if None.
        """
        request = requests.set_owner(
            owner_id,
            display_name=display_name,
            limits=limits,
            suspended=suspended,
            metadata=metadata,
            etag=etag,
            request_id=request_id,
            tenant_id=tenant_id,
        )
        return results.owner_change(self._call(self._stubs.keys.SetOwner, request, timeout, self._timeout))

    def revoke_keys(
        self,
        owner_id: str,
        *,
        reason: RevokeReason = RevokeReason.UNSPECIFIED,
        comment: str = "",
        request_id: str | None = None,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> RevokedKeys:
        """Ends all keys of an owner for good, up to 10,000. ``comment`` is kept in the audit log."""
        request = requests.revoke_keys(
            owner_id, reason=reason, comment=comment, request_id=request_id, tenant_id=tenant_id
        )
        return results.revoked_keys(self._call(self._stubs.keys.RevokeKeys, request, timeout, self._timeout))
