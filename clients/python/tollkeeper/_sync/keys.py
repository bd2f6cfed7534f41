# Generated from ``_async`` by ``scripts/unasync.py``; do not edit.
"""Keys: made, read, listed and changed."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from tollkeeper._keys import UNCHANGED, CreatedKey, Key, KeyChange, KeyPage, KeyState, Unchanged
from tollkeeper._limits import Limit
from tollkeeper._requests import keys as requests
from tollkeeper._results import keys as results
from tollkeeper._sync.calls import Calls


class KeyCalls(Calls):
    """Makes keys, reads them, and changes what is known of them."""

    def create_key(
        self,
        *,
        name: str = "",
        description: str = "",
        owner_id: str = "",
        environment: str = "",
        permissions: Iterable[str] = (),
        resources: Iterable[str] = (),
        allowed_cidrs: Iterable[str] = (),
        limits: Iterable[Limit] = (),
        metadata: Mapping[str, Any] | None = None,
        expires_at: datetime | None = None,
        ttl: timedelta | None = None,
        prefix: str = "",
        length: int = 0,
        request_id: str | None = None,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> CreatedKey:
        """Creates a key; the answer holds the only copy of its API key.

        :param owner_id: the customer, user or organization that the key acts for.
        :param permissions: what the key may do.
        :param resources: what it may be used for; none means everything.
        :param allowed_cidrs: networks it may be used from; none means everywhere.
        :param limits: its own limits, as ``Limit.rate("per-minute", 5, timedelta(minutes=1))``.
        :param metadata: what verifications tell about it, at most 4 KiB as JSON.
        :param expires_at: when it ends, with a time zone; or ``ttl``, from now; neither means never.
        :param prefix: start of the API key, before ``_``; empty means ``tk``.
        :param length: characters of the whole API key; 0 means the default.
        :param request_id: with the same id and request, the same key is answered for 24 hours; made up if None.
        :param tenant_id: whose key it becomes, for root callers.
        """
        request = requests.create_key(
            name=name,
            description=description,
            owner_id=owner_id,
            environment=environment,
            permissions=permissions,
            resources=resources,
            allowed_cidrs=allowed_cidrs,
            limits=limits,
            metadata=metadata,
            expires_at=expires_at,
            ttl=ttl,
            prefix=prefix,
            length=length,
            request_id=request_id,
            tenant_id=tenant_id,
        )
        return results.created_key(self._call(self._stubs.keys.CreateKey, request, timeout, self._timeout))

    def get_key(self, key_id: str, *, timeout: float | None = None) -> Key:
        """The record of a key. Raises :class:`NotFound` if there is none for this caller."""
        request = requests.get_key(key_id)
        response = self._call(self._stubs.keys.GetKey, request, timeout, self._timeout)
        return results.key(response.key)

    def list_keys(
        self,
        *,
        owner_id: str = "",
        environment: str = "",
        state: KeyState = KeyState.UNSPECIFIED,
        prefix: str = "",
        expires_before: datetime | None = None,
        created_before: datetime | None = None,
        api_key_created_before: datetime | None = None,
        page_size: int = 0,
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> Iterator[Key]:
        """All keys that match, as :meth:`list_keys_page` gives them page by page.

        Pages are fetched as they are needed, each within ``timeout``.
        """
        request = requests.list_keys(
            owner_id=owner_id,
            environment=environment,
            state=state,
            prefix=prefix,
            expires_before=expires_before,
            created_before=created_before,
            api_key_created_before=api_key_created_before,
            page_size=page_size,
            page_token="",
            tenant_id=tenant_id,
        )
        while True:
            page = results.key_page(self._call(self._stubs.keys.ListKeys, request, timeout, self._timeout))
            yield from page.keys
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def list_keys_page(
        self,
        *,
        owner_id: str = "",
        environment: str = "",
        state: KeyState = KeyState.UNSPECIFIED,
        prefix: str = "",
        expires_before: datetime | None = None,
        created_before: datetime | None = None,
        api_key_created_before: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
        tenant_id: str | None = None,
        timeout: float | None = None,
    ) -> KeyPage:
        """One page of keys, newest first: at most ``page_size``, where 0 means 50 and 1,000 is the most.

        :param owner_id: keys of this owner.
        :param environment: keys of this environment.
        :param state: keys in this state.
        :param prefix: keys whose API key has this prefix.
        :param expires_before: keys that end before this moment, those that end first first.
        :param created_before: keys created before this moment.
        :param api_key_created_before: keys whose current API key was made before this moment: due for rotation.
        :param page_token: ``next_page_token`` of the page before; empty starts with the first key.
        :param tenant_id: whose keys, for root callers.
        """
        request = requests.list_keys(
            owner_id=owner_id,
            environment=environment,
            state=state,
            prefix=prefix,
            expires_before=expires_before,
            created_before=created_before,
            api_key_created_before=api_key_created_before,
            page_size=page_size,
            page_token=page_token,
            tenant_id=tenant_id,
        )
        return results.key_page(self._call(self._stubs.keys.ListKeys, request, timeout, self._timeout))

    def update_key(
        self,
        key_id: str,
        *,
        name: str | Unchanged = UNCHANGED,
        description: str | Unchanged = UNCHANGED,
        permissions: Iterable[str] | Unchanged = UNCHANGED,
        resources: Iterable[str] | Unchanged = UNCHANGED,
        allowed_cidrs: Iterable[str] | Unchanged = UNCHANGED,
        limits: Iterable[Limit] | Unchanged = UNCHANGED,
        metadata: Mapping[str, Any] | Unchanged = UNCHANGED,
        expires_at: datetime | Unchanged | None = UNCHANGED,
        etag: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> KeyChange:
        """Replaces the fields that are given, at least one; the others stay as they are.

        :param expires_at: when the key ends, with a time zone; None means never.
        :param etag: that of the key as it was read: :class:`Aborted` if it was changed since. Empty changes it anyway.
        :param request_id: with the same id and request, the change is made once; made up if None.
        """
        request = requests.update_key(
            key_id,
            {
                "name": name,
                "description": description,
                "permissions": permissions,
                "resources": resources,
                "allowed_cidrs": allowed_cidrs,
                "limits": limits,
                "metadata": metadata,
                "expires_at": expires_at,
            },
            etag=etag,
            request_id=request_id,
        )
        response = self._call(self._stubs.keys.UpdateKey, request, timeout, self._timeout)
        return results.key_change(response)
