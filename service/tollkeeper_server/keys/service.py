"""The life of a key: what callers may do to it, and what it takes."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.credential import SECRET_BYTES, Keyring, default_length, fingerprint, hint
from tollkeeper_server.core.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Violation,
)
from tollkeeper_server.core.key import Key, KeyState
from tollkeeper_server.core.policy import grants
from tollkeeper_server.keys.commands import (
    CreatedKey,
    CreateKey,
    KeyPage,
    ListKeys,
    Mutation,
    RevokeKey,
)
from tollkeeper_server.keys.ids import new_key_id
from tollkeeper_server.keys.lookup import find_by_digests, find_by_key_ids
from tollkeeper_server.keys.pages import last_key_id, page_token
from tollkeeper_server.keys.propagation import Confirmations
from tollkeeper_server.keys.requests import FirstAnswer, Request, first_answer
from tollkeeper_server.keys.store import create_key, list_keys, revoke_key
from tollkeeper_server.storage.postgres import Connection, Postgres

LIFETIME_MAX = timedelta(days=36_525)
"""Furthest that an expiry may be away: 100 years."""

MUTATIONS_MAX = 4
"""Most mutations that a server has under way: they commit one by one, and verifications need connections too."""

CALLER_PERMISSIONS = "tollkeeper:"
"""What the permissions of Tollkeeper's own callers start with."""


class KeyService:
    """Creates, reads and revokes keys on behalf of callers.

    That the caller may read or write keys at all is checked before it comes here; which tenant it acts in, what it sees
    and what it may give away is checked here. Every method raises Unavailable if Postgres does not answer in time.
    """

    def __init__(
        self, *, postgres: Postgres, keyring: Keyring, confirmations: Confirmations, clock: Callable[[], datetime]
    ) -> None:
        self._postgres = postgres
        self._keyring = keyring
        self._confirmations = confirmations
        self._clock = clock
        self._turns = asyncio.Semaphore(MUTATIONS_MAX)

    async def create(self, caller: Caller, command: CreateKey) -> CreatedKey:
        """Create a key and its API key, and the tenant if a root caller names one that is new.

        A request that comes again gets the key as it was created, and the same API key. Raises PermissionDenied for a
        foreign tenant, or for a caller permission that the caller itself lacks; InvalidArgument for an expiry out of
        bounds; AlreadyExists if the request_id was used for something else; FailedPrecondition if the secret that the
        first answer's API key was minted with is gone.
        """
        command = replace(command, tenant_id=caller.tenant(command.tenant_id))
        _check_gifts(caller, command.permissions)
        now = self._clock()
        _check_expiry(command, now)
        content = {field.name: getattr(command, field.name) for field in fields(command) if field.name != "request_id"}
        request = Request.by(caller, "CreateKey", request_id=command.request_id, content=content)
        seed = self._keyring.new_seed(secrets.token_bytes(SECRET_BYTES))
        created = self._created(caller, command, key_id=new_key_id(now), seed=seed, created_at=now)
        async with self._turns, self._postgres.connection() as connection:
            while True:  # ends at the latest when the connection's time is up
                revision = await create_key(
                    connection,
                    created.key,
                    digest=self._keyring.digest(created.api_key),
                    pepper_version=self._keyring.current_pepper_version,
                    seed=seed,
                    request=request,
                )
                if revision is not None:
                    return _at_revision(created, revision)
                first = await first_answer(connection, request, now=now)
                if first is not None:
                    return self._created_before(caller, command, first)

    async def get(self, caller: Caller, key_id: str) -> Key:
        """The key; raises NotFound if there is none, or none that the caller sees."""
        async with self._postgres.connection() as connection:
            return await _visible(connection, caller, key_id)

    async def list(self, caller: Caller, query: ListKeys) -> KeyPage:
        """One page of a tenant's keys, newest first. Keys created meanwhile never shift the pages that follow.

        Raises PermissionDenied for a foreign tenant, InvalidArgument for a page token that is not of these filters.
        """
        tenant_id = caller.tenant(query.tenant_id)
        before = last_key_id(query, tenant_id=tenant_id)
        async with self._postgres.connection() as connection:
            found = await list_keys(connection, query, tenant_id=tenant_id, before=before, now=self._clock())
        keys = tuple(found[: query.page_size])
        more = len(found) > len(keys)
        return KeyPage(
            keys=keys,
            next_page_token=page_token(query, tenant_id=tenant_id, last_key_id=keys[-1].key_id) if more else "",
        )

    async def revoke(self, caller: Caller, command: RevokeKey) -> Mutation:
        """End a key for good. Revoking a revoked key changes nothing and gives what the first revocation left.

        Raises NotFound if there is no such key or API key, or none that the caller sees; AlreadyExists if the
        request_id was used for something else.
        """
        now = self._clock()
        async with self._turns, self._postgres.connection() as connection:
            key = await self._named(connection, caller, command, now=now)
            content = {"key_id": key.key_id, "reason": command.reason, "comment": command.comment}
            request = Request.by(caller, "RevokeKey", request_id=command.request_id, content=content)
            while True:  # ends at the latest when the connection's time is up
                revoked = await revoke_key(connection, key.key_id, command, request=request, now=now)
                if revoked is not None:
                    break
                await first_answer(connection, request, now=now)
                revoked = await _visible(connection, caller, key.key_id)
                if revoked.stored_state is KeyState.REVOKED:
                    break
        propagation, effective_at = await self._confirmations.wait(revoked.revision)
        return Mutation(key=revoked, revision=revoked.revision, propagation=propagation, effective_at=effective_at)

    async def _named(self, connection: Connection, caller: Caller, command: RevokeKey, *, now: datetime) -> Key:
        if command.key_id:
            return await _visible(connection, caller, command.key_id)
        records, _ = await find_by_digests(connection, self._keyring.digests(command.api_key))
        for record in records.values():
            if caller.sees(record.key.tenant_id) and (record.expires_at is None or now < record.expires_at):
                return record.key
        raise _no_such_key()

    def _created(
        self, caller: Caller, command: CreateKey, *, key_id: str, seed: bytes, created_at: datetime
    ) -> CreatedKey:
        """A new key; always the same for the same arguments."""
        length = command.length or default_length(command.prefix)
        api_key = self._keyring.mint(prefix=command.prefix, length=length, seed=seed)
        key = Key(
            key_id=key_id,
            tenant_id=command.tenant_id,
            owner_id=command.owner_id,
            name=command.name,
            description=command.description,
            environment=command.environment,
            prefix=command.prefix,
            hint=hint(api_key, prefix=command.prefix),
            permissions=command.permissions,
            resources=command.resources,
            allowed_cidrs=command.allowed_cidrs,
            limits=command.limits,
            metadata=command.metadata,
            created_at=created_at,
            created_by=caller.key_id,
            updated_at=created_at,
            updated_by=caller.key_id,
            expires_at=command.expires_at if command.ttl is None else created_at + command.ttl,
        )
        return CreatedKey(key=key, api_key=api_key, fingerprint=fingerprint(api_key), revision=0)

    def _created_before(self, caller: Caller, command: CreateKey, first: FirstAnswer) -> CreatedKey:
        assert first.seed is not None
        try:
            created = self._created(caller, command, key_id=first.key_id, seed=first.seed, created_at=first.created_at)
        except KeyError:
            raise FailedPrecondition(
                "the key was created, but its API key can no longer be shown", reason="API_KEY_GONE"
            ) from None
        return _at_revision(created, first.revision)


async def _visible(connection: Connection, caller: Caller, key_id: str) -> Key:
    key = (await find_by_key_ids(connection, [key_id])).get(key_id)
    if key is None or not caller.sees(key.tenant_id):
        raise _no_such_key()
    return key


def _no_such_key() -> NotFound:
    """The same for a key that does not exist and for another tenant's."""
    return NotFound("there is no such key", reason="KEY_NOT_FOUND")


def _at_revision(created: CreatedKey, revision: int) -> CreatedKey:
    return replace(created, key=replace(created.key, revision=revision), revision=revision)


def _check_gifts(caller: Caller, permissions: Sequence[str]) -> None:
    """Nobody gives away what it does not have: of the permissions of callers, that is; the others are the tenant's."""
    lacking = [
        permission
        for permission in permissions
        if permission.startswith(CALLER_PERMISSIONS) and not grants(caller.permissions, permission)
    ]
    if lacking:
        raise PermissionDenied(
            f"the caller's key lacks permissions that the new key would get: {', '.join(lacking)}",
            reason="CALLER_PERMISSION_MISSING",
            metadata={"permissions": ",".join(lacking)},
        )


def _check_expiry(command: CreateKey, now: datetime) -> None:
    if command.expires_at is None:
        return
    if not now < command.expires_at <= now + LIFETIME_MAX:
        raise InvalidArgument([Violation("expires_at", "must be in the future, at most 100 years away")])
