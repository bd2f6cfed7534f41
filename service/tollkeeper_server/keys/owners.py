"""Owners: what all keys of a customer share, and what is done to all of them at once."""

from dataclasses import fields
from typing import Any

from tollkeeper_server.core.caller import Caller
from tollkeeper_server.core.errors import Aborted, FailedPrecondition, NotFound
from tollkeeper_server.core.key import Owner
from tollkeeper_server.keys import life
from tollkeeper_server.keys.journal import Journal, Operation
from tollkeeper_server.keys.lookup import find_owner
from tollkeeper_server.keys.owner_commands import OwnerChange, RevokedKeys, RevokeKeys, SetOwner
from tollkeeper_server.keys.propagation import Confirmations
from tollkeeper_server.keys.requests import Answer, Request
from tollkeeper_server.keys.workspace import Needs, Workspace
from tollkeeper_server.storage.postgres import Postgres

REVOKED_MAX = 10_000
"""Most keys that one RevokeKeys ends: they commit together."""

_VALUES = ("display_name", "limits", "suspended", "metadata")


class Owners:
    """Reads and sets owners, and revokes all keys of one. Faults and repetition are as in ``KeyService``."""

    def __init__(self, *, postgres: Postgres, journal: Journal, confirmations: Confirmations) -> None:
        self._postgres = postgres
        self._journal = journal
        self._confirmations = confirmations

    async def get(self, caller: Caller, owner_id: str, *, tenant_id: str = "") -> Owner:
        """What is known of the owner. Raises NotFound if nothing was set, PermissionDenied for a foreign tenant."""
        tenant_id = caller.tenant(tenant_id)
        async with self._postgres.connection() as connection:
            owner = await find_owner(connection, tenant_id=tenant_id, owner_id=owner_id)
        if owner is None:
            raise NotFound("there is no such owner", reason="OWNER_NOT_FOUND")
        return owner

    async def set(self, caller: Caller, command: SetOwner) -> OwnerChange:
        """Create an owner or replace what is known of it. What changes nothing is no change, and leaves no trace.

        Raises PermissionDenied for a foreign tenant; Aborted if ``etag`` is not the owner's any more.
        """
        owner_id = caller.tenant(command.tenant_id), command.owner_id
        request = Request.by(caller, "SetOwner", request_id=command.request_id, content=_content(command, owner_id))

        def apply(workspace: Workspace) -> Answer:
            known, now = workspace.owner(owner_id), workspace.now()
            if command.etag and (known is None or command.etag != known.etag):
                raise Aborted("the owner was changed by someone else", reason="ETAG_MISMATCH")
            values = {name: getattr(command, name) for name in _VALUES}
            if known is not None and values == {name: getattr(known, name) for name in _VALUES}:
                return Answer(revision=known.revision, owner=known)
            owner = Owner(
                tenant_id=owner_id[0],
                owner_id=owner_id[1],
                created_at=now if known is None else known.created_at,
                updated_at=now,
                **values,
            )
            owner = workspace.put_owner(owner, request)
            return Answer(revision=owner.revision, owner=owner)

        needs = Needs(owner_ids=frozenset({owner_id}))
        answer = await self._journal.do(Operation(request=request, needs=needs, apply=apply))
        propagation, effective_at = await self._confirmations.wait(answer.revision)
        assert answer.owner is not None
        return OwnerChange(
            owner=answer.owner, revision=answer.revision, propagation=propagation, effective_at=effective_at
        )

    async def revoke_keys(self, caller: Caller, command: RevokeKeys) -> RevokedKeys:
        """Revoke every key of an owner that is not revoked: all of them, or none.

        Raises PermissionDenied for a foreign tenant; FailedPrecondition if there are more than 10,000 (a suspended
        owner stops any number of keys).
        """
        owner_id = caller.tenant(command.tenant_id), command.owner_id
        request = Request.by(caller, "RevokeKeys", request_id=command.request_id, content=_content(command, owner_id))

        def apply(workspace: Workspace) -> Answer:
            living = [key for key in workspace.keys_of(owner_id) if key.revoked_at is None]
            if len(living) > REVOKED_MAX:
                raise FailedPrecondition(
                    f"the owner has more than {REVOKED_MAX} keys: suspend it instead", reason="TOO_MANY_KEYS"
                )
            for key in living:
                key = life.revoked(key, reason=command.reason, now=workspace.now())
                workspace.put_key(key, request, note={"revoke_comment": command.comment})
            return Answer(revision=workspace.revision, key_ids=tuple(key.key_id for key in living))

        needs = Needs(keys_of=frozenset({owner_id}))
        answer = await self._journal.do(Operation(request=request, needs=needs, apply=apply))
        propagation, effective_at = await self._confirmations.wait(answer.revision)
        return RevokedKeys(
            key_ids=answer.key_ids, revision=answer.revision, propagation=propagation, effective_at=effective_at
        )


def _content(command: SetOwner | RevokeKeys, owner_id: tuple[str, str]) -> dict[str, Any]:
    asked = {field.name: getattr(command, field.name) for field in fields(command) if field.name != "request_id"}
    return asked | {"tenant_id": owner_id[0]}
