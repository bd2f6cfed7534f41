"""The life of a key: what callers may do to it, and what it takes."""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.credential import PREFIX_DEFAULT, Keyring, default_length, fingerprint
from tollkeeper_server.core.errors import Aborted
from tollkeeper_server.core.key import Key
from tollkeeper_server.keys import life
from tollkeeper_server.keys.access import check_expiry, check_gifts, no_such_key, visible
from tollkeeper_server.keys.commands import (
    CreatedKey,
    CreateKey,
    KeyPage,
    ListKeys,
    Mutation,
    NameKey,
    RevokeKey,
    RotatedKey,
    RotateKey,
    UpdateKey,
)
from tollkeeper_server.keys.imports import Imports
from tollkeeper_server.keys.journal import Journal, Operation
from tollkeeper_server.keys.leaks import Leaks, Possession
from tollkeeper_server.keys.listing import list_keys
from tollkeeper_server.keys.lookup import find_by_key_ids
from tollkeeper_server.keys.minting import Mint, new_key
from tollkeeper_server.keys.owners import Owners
from tollkeeper_server.keys.pages import cursor, page_token
from tollkeeper_server.keys.propagation import Confirmations
from tollkeeper_server.keys.requests import Answer, Request
from tollkeeper_server.keys.workspace import Needs, Workspace
from tollkeeper_server.storage.postgres import Postgres

ENDED = datetime(1970, 1, 1, tzinfo=UTC)
"""The expiry of an API key that was ended at once: passed for every server, whatever its clock says."""


class KeyService:
    """Creates, reads, changes, rotates and revokes keys on behalf of callers.

    That the caller may read or write keys at all is checked before it comes here; which tenant it acts in, what it sees
    and what it may give away is checked here. What comes again under one request_id within 24 hours gets its first
    answer again. Every method raises Unavailable if Postgres does not answer in time; a mutation raises AlreadyExists
    if its request_id was used for something else.
    """

    def __init__(
        self, *, postgres: Postgres, keyring: Keyring, confirmations: Confirmations, clock: Callable[[], datetime]
    ) -> None:
        self._postgres = postgres
        self._confirmations = confirmations
        self._clock = clock
        self._mint = Mint(keyring)
        self._journal = Journal(postgres, clock=clock)
        self._possession = Possession(postgres=postgres, keyring=keyring, clock=clock)
        self.owners = Owners(postgres=postgres, journal=self._journal, confirmations=confirmations)
        self.imports = Imports(keyring=keyring, journal=self._journal, confirmations=confirmations)
        self.leaks = Leaks(
            possession=self._possession, keyring=keyring, journal=self._journal, confirmations=confirmations
        )

    async def close(self) -> None:
        """Finish the mutations that were asked for, and take no more."""
        await self._journal.close()

    async def create(self, caller: Caller, command: CreateKey) -> CreatedKey:
        """Create a key and its API key, and the tenant if a root caller names one that is new.

        Raises PermissionDenied for a foreign tenant or owner, or for a caller permission that the caller itself lacks;
        InvalidArgument for an expiry out of bounds; FailedPrecondition if the secret that the first answer's API key
        was minted with is gone.
        """
        command = replace(command, tenant_id=caller.tenant(command.tenant_id), owner_id=caller.owner(command.owner_id))
        check_gifts(caller, command.permissions)
        content = {field.name: getattr(command, field.name) for field in fields(command) if field.name != "request_id"}
        request = Request.by(caller, "CreateKey", request_id=command.request_id, content=content)
        seed = self._mint.seed()

        def apply(workspace: Workspace) -> Answer:
            now = workspace.now()
            check_expiry(command.expires_at, now=now, field="expires_at")
            length = command.length or default_length(command.prefix)
            api_key = self._mint.api_key(prefix=command.prefix, length=length, seed=seed)
            hint = self._mint.hint(api_key, prefix=command.prefix)
            key = new_key(command, request, now=now, length=length, hint=hint)
            workspace.put_secret(self._mint.secret(api_key, key, now=now))
            key = workspace.put_key(key, request)
            return Answer(revision=key.revision, items=(key,), seed=seed)

        answer = await self._journal.do(Operation(request=request, needs=Needs(), apply=apply))
        api_key = self._shown_api_key(answer)
        return CreatedKey(key=answer.key, api_key=api_key, fingerprint=fingerprint(api_key), revision=answer.revision)

    async def get(self, caller: Caller, key_id: str) -> Key:
        """The key; raises NotFound if there is none, or none that the caller sees."""
        async with self._postgres.connection() as connection:
            return visible((await find_by_key_ids(connection, [key_id])).get(key_id), caller)

    async def list(self, caller: Caller, query: ListKeys) -> KeyPage:
        """One page of a tenant's keys, newest first, or by expiry where that is asked for.

        Keys created meanwhile never shift the pages that follow. Raises PermissionDenied for a foreign tenant
        or owner, InvalidArgument for a page token that is not of these filters.
        """
        tenant_id, query = caller.tenant(query.tenant_id), replace(query, owner_id=caller.owner(query.owner_id))
        after = cursor(query, tenant_id=tenant_id)
        async with self._postgres.connection() as connection:
            found = await list_keys(connection, query, tenant_id=tenant_id, after=after, now=self._clock())
        keys = tuple(found[: query.page_size])
        more = len(found) > len(keys)
        return KeyPage(keys=keys, next_page_token=page_token(query, tenant_id=tenant_id, last=keys[-1]) if more else "")

    async def update(self, caller: Caller, command: UpdateKey) -> Mutation:
        """Change fields of a key. What changes nothing is no change, and leaves no trace.

        Raises NotFound; Aborted if ``etag`` is not the key's any more; FailedPrecondition if it is revoked;
        PermissionDenied if the key has, or would get, a caller permission that the caller lacks; InvalidArgument for
        an expiry out of bounds.
        """

        def change(key: Key, now: datetime) -> Key:
            changed = life.updated(key, command.changes, now=now)
            if command.etag and command.etag != key.etag:
                raise Aborted("the key was changed by someone else", reason="ETAG_MISMATCH")
            check_gifts(caller, key.permissions + changed.permissions)
            if "expires_at" in command.changes and changed.expires_at != key.expires_at:
                check_expiry(changed.expires_at, now=now, field="key.expires_at")
            return changed

        content = {"key_id": command.key_id, "changes": dict(command.changes), "etag": command.etag}
        request = Request.by(caller, "UpdateKey", request_id=command.request_id, content=content)
        return await self._changed(caller, command.key_id, request, change)

    async def disable(self, caller: Caller, command: NameKey) -> Mutation:
        """Switch a key off. Raises NotFound; FailedPrecondition if it is revoked."""
        request = self._naming(caller, "DisableKey", command)
        return await self._changed(caller, command.key_id, request, lambda key, now: life.disabled(key, now=now))

    async def enable(self, caller: Caller, command: NameKey) -> Mutation:
        """Switch a key on. Raises NotFound; FailedPrecondition if it is revoked; PermissionDenied as ``update``."""

        def change(key: Key, now: datetime) -> Key:
            check_gifts(caller, key.permissions)
            return life.enabled(key, now=now)

        return await self._changed(caller, command.key_id, self._naming(caller, "EnableKey", command), change)

    async def rotate(self, caller: Caller, command: RotateKey) -> RotatedKey:
        """Give a key a new API key; the key, its limits and what is used of them stay the same.

        The API key that it had works on for ``overlap``; one that is left from an earlier rotation ends at once.
        Raises NotFound; FailedPrecondition if the key is revoked or expired, or if the secret that the first answer's
        API key was minted with is gone; PermissionDenied as ``update``.
        """
        content = {"key_id": command.key_id, "overlap": command.overlap.total_seconds()}
        request = Request.by(caller, "RotateKey", request_id=command.request_id, content=content)
        seed = self._mint.seed()

        def apply(workspace: Workspace) -> Answer:
            key = visible(workspace.key(command.key_id), caller)
            check_gifts(caller, key.permissions)
            now, prefix = workspace.now(), key.prefix or PREFIX_DEFAULT
            length = key.length or default_length(prefix)
            api_key = self._mint.api_key(prefix=prefix, length=length, seed=seed)
            (current,) = (secret for secret in workspace.secrets_of(key.key_id) if secret.expires_at is None)
            key = life.rotated(
                key,
                prefix=prefix,
                length=length,
                hint=self._mint.hint(api_key, prefix=prefix),
                overlap=command.overlap,
                old_last_used_at=current.last_used_at,
                now=now,
            )
            _end_old(workspace, key.key_id, now=now)
            workspace.put_secret(replace(current, expires_at=key.overlap_ends_at or ENDED))
            workspace.put_secret(self._mint.secret(api_key, key, now=now))
            key = workspace.put_key(key, request)
            return Answer(revision=key.revision, items=(key,), seed=seed)

        answer = await self._journal.do(Operation(request=request, needs=_whole(command.key_id), apply=apply))
        api_key = self._shown_api_key(answer)
        propagation, effective_at = await self._confirmations.wait(answer.revision)
        return RotatedKey(
            key=answer.key,
            api_key=api_key,
            fingerprint=fingerprint(api_key),
            revision=answer.revision,
            propagation=propagation,
            effective_at=effective_at,
        )

    async def end_overlap(self, caller: Caller, command: NameKey) -> Mutation:
        """End the earlier API key of a rotation at once. Without one nothing changes. Raises NotFound."""
        request = self._naming(caller, "EndOverlap", command)

        def apply(workspace: Workspace) -> Answer:
            key = visible(workspace.key(command.key_id), caller)
            now = workspace.now()
            changed = life.without_overlap(key, now=now)
            if changed is not key:
                _end_old(workspace, key.key_id, now=now)
                changed = workspace.put_key(changed, request)
            return Answer(revision=changed.revision, items=(changed,))

        return await self._confirmed(Operation(request=request, needs=_whole(command.key_id), apply=apply))

    async def revoke(self, caller: Caller, command: RevokeKey) -> Mutation:
        """End a key for good. Revoking a revoked key changes nothing and gives what the first revocation left.

        Who names a key by its API key may end it, whoever's it is. Raises NotFound if there is no such key or API key,
        or no such key that the caller sees.
        """
        key_id = command.key_id or await self._possessed(command.api_key)
        content = {"key_id": key_id, "reason": command.reason, "comment": command.comment}
        request = Request.by(caller, "RevokeKey", request_id=command.request_id, content=content)

        def apply(workspace: Workspace) -> Answer:
            key = workspace.key(key_id)
            key = visible(key, caller) if command.key_id or key is None else key
            changed = life.revoked(key, reason=command.reason, now=workspace.now())
            if changed is not key:
                changed = workspace.put_key(changed, request, note={"revoke_comment": command.comment})
            return Answer(revision=changed.revision, items=(changed,))

        needs = Needs(key_ids=frozenset({key_id}))
        return await self._confirmed(Operation(request=request, needs=needs, apply=apply))

    async def _changed(
        self,
        caller: Caller,
        key_id: str,
        request: Request,
        change: Callable[[Key, datetime], Key],
    ) -> Mutation:
        """Change one key that the caller sees, unless it is so already; and wait until no cache answers against it."""

        def apply(workspace: Workspace) -> Answer:
            key = visible(workspace.key(key_id), caller)
            changed = change(key, workspace.now())
            if changed is not key:
                changed = workspace.put_key(changed, request)
            return Answer(revision=changed.revision, items=(changed,))

        needs = Needs(key_ids=frozenset({key_id}))
        return await self._confirmed(Operation(request=request, needs=needs, apply=apply))

    async def _confirmed(self, operation: Operation) -> Mutation:
        answer = await self._journal.do(operation)
        propagation, effective_at = await self._confirmations.wait(answer.revision)
        return Mutation(key=answer.key, revision=answer.revision, propagation=propagation, effective_at=effective_at)

    async def _possessed(self, api_key: str) -> str:
        (key,) = await self._possession.proven([api_key])
        if key is None:
            raise no_such_key()
        return key.key_id

    def _shown_api_key(self, answer: Answer) -> str:
        assert answer.seed is not None, "the answer carries an API key"
        return self._mint.api_key(prefix=answer.key.prefix, length=answer.key.length, seed=answer.seed)

    @staticmethod
    def _naming(caller: Caller, method: str, command: NameKey) -> Request:
        return Request.by(caller, method, request_id=command.request_id, content={"key_id": command.key_id})


def _whole(key_id: str) -> Needs:
    return Needs(key_ids=frozenset({key_id}), secrets_of=frozenset({key_id}))


def _end_old(workspace: Workspace, key_id: str, *, now: datetime) -> None:
    """End the API key before the current one, and forget those before it.

    It stays known, so that its use is noticed; it proves nothing.
    """
    for secret in workspace.secrets_of(key_id):
        if secret.expires_at is None:
            continue
        if now < secret.expires_at:
            workspace.put_secret(replace(secret, expires_at=ENDED))
        else:
            workspace.drop_secret(secret)
