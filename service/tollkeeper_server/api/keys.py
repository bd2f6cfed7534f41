"""KeyService: the life of a key."""

from collections.abc import Callable
from datetime import datetime

from tollkeeper.v1 import key_service_pb2 as pb
from tollkeeper_server.api.call import Call
from tollkeeper_server.api.convert_imports import (
    import_keys_from,
    imported_keys_response,
    report_leaked_keys_from,
    reported_keys_response,
)
from tollkeeper_server.api.convert_keys import (
    create_key_from,
    created_key_response,
    ended_key_message,
    key_message,
    key_page_response,
    list_keys_from,
    mutation_response,
    name_key_from,
    revoke_key_from,
    rotate_key_from,
    rotated_key_response,
    update_key_from,
)
from tollkeeper_server.api.convert_owners import (
    owner_message,
    owner_response,
    revoke_keys_from,
    revoked_keys_response,
    set_owner_from,
)
from tollkeeper_server.api.handler import rpc
from tollkeeper_server.api.validate_imports import IMPORT_KEYS
from tollkeeper_server.api.validate_keys import (
    CREATE_KEY,
    DISABLE_KEY,
    ENABLE_KEY,
    END_OVERLAP,
    GET_KEY,
    LIST_KEYS,
    REPORT_LEAKED_KEYS,
    REVOKE_KEY,
    ROTATE_KEY,
    UPDATE_KEY,
)
from tollkeeper_server.api.validate_owners import GET_OWNER, REVOKE_KEYS, SET_OWNER
from tollkeeper_server.core.caller import CallerPermission
from tollkeeper_server.keys.access import may_read
from tollkeeper_server.keys.service import KeyService


class KeyServicer:
    """Checks and converts what is asked of keys; the KeyService does it."""

    def __init__(self, *, keys: KeyService, clock: Callable[[], datetime]) -> None:
        self._keys = keys
        self._clock = clock

    @rpc(CallerPermission.KEYS_WRITE, open_to_users=True)
    async def CreateKey(self, request: pb.CreateKeyRequest, call: Call) -> pb.CreateKeyResponse:
        """Make a key."""
        CREATE_KEY.check(request)
        created = await self._keys.create(call.caller, create_key_from(request))
        return created_key_response(created, now=self._clock())

    @rpc(CallerPermission.KEYS_WRITE)
    async def ImportKeys(self, request: pb.ImportKeysRequest, call: Call) -> pb.ImportKeysResponse:
        """Take over keys of another system; what is wrong with one is the answer to that one alone."""
        IMPORT_KEYS.check(request)
        imported = await self._keys.imports.run(call.caller, import_keys_from(request))
        return imported_keys_response(imported, now=self._clock(), request_id=call.request_id)

    @rpc(CallerPermission.KEYS_READ, open_to_users=True)
    async def GetKey(self, request: pb.GetKeyRequest, call: Call) -> pb.GetKeyResponse:
        """Read a key."""
        GET_KEY.check(request)
        key = await self._keys.get(call.caller, request.key_id)
        return pb.GetKeyResponse(key=key_message(key, now=self._clock()))

    @rpc(CallerPermission.KEYS_READ, open_to_users=True)
    async def ListKeys(self, request: pb.ListKeysRequest, call: Call) -> pb.ListKeysResponse:
        """Read a page of keys."""
        LIST_KEYS.check(request)
        page = await self._keys.list(call.caller, list_keys_from(request))
        return key_page_response(page, now=self._clock())

    @rpc(CallerPermission.KEYS_WRITE)
    async def UpdateKey(self, request: pb.UpdateKeyRequest, call: Call) -> pb.UpdateKeyResponse:
        """Change fields of a key."""
        UPDATE_KEY.check(request)
        mutation = await self._keys.update(call.caller, update_key_from(request))
        return mutation_response(pb.UpdateKeyResponse, mutation, now=self._clock())

    @rpc(CallerPermission.KEYS_WRITE)
    async def DisableKey(self, request: pb.DisableKeyRequest, call: Call) -> pb.DisableKeyResponse:
        """Switch a key off."""
        DISABLE_KEY.check(request)
        mutation = await self._keys.disable(call.caller, name_key_from(request))
        return mutation_response(pb.DisableKeyResponse, mutation, now=self._clock())

    @rpc(CallerPermission.KEYS_WRITE)
    async def EnableKey(self, request: pb.EnableKeyRequest, call: Call) -> pb.EnableKeyResponse:
        """Switch a key on."""
        ENABLE_KEY.check(request)
        mutation = await self._keys.enable(call.caller, name_key_from(request))
        return pb.EnableKeyResponse(key=key_message(mutation.key, now=self._clock()), revision=mutation.revision)

    @rpc(CallerPermission.KEYS_WRITE)
    async def RotateKey(self, request: pb.RotateKeyRequest, call: Call) -> pb.RotateKeyResponse:
        """Give a key a new API key."""
        ROTATE_KEY.check(request)
        rotated = await self._keys.rotate(call.caller, rotate_key_from(request))
        return rotated_key_response(rotated, now=self._clock())

    @rpc(CallerPermission.KEYS_WRITE)
    async def EndOverlap(self, request: pb.EndOverlapRequest, call: Call) -> pb.EndOverlapResponse:
        """End the earlier API key of a rotation."""
        END_OVERLAP.check(request)
        mutation = await self._keys.end_overlap(call.caller, name_key_from(request))
        return mutation_response(pb.EndOverlapResponse, mutation, now=self._clock())

    @rpc(None)
    async def ReportLeakedKeys(self, request: pb.ReportLeakedKeysRequest, call: Call) -> pb.ReportLeakedKeysResponse:
        """End keys that leaked; possession of their API keys is permission enough."""
        REPORT_LEAKED_KEYS.check(request)
        return reported_keys_response(await self._keys.leaks.report(call.caller, report_leaked_keys_from(request)))

    @rpc(None)
    async def RevokeKey(self, request: pb.RevokeKeyRequest, call: Call) -> pb.RevokeKeyResponse:
        """End a key; possession of its API key is permission enough, whoever's it is."""
        REVOKE_KEY.check(request)
        by_name = request.WhichOneof("subject") == "key_id"
        if by_name and not call.caller.subject:
            call.caller.require(CallerPermission.KEYS_WRITE)
        mutation = await self._keys.revoke(call.caller, revoke_key_from(request))
        response = mutation_response(pb.RevokeKeyResponse, mutation, now=self._clock())
        if not by_name and not may_read(call.caller, mutation.key):
            response.key.CopyFrom(ended_key_message(response.key))
        return response

    @rpc(CallerPermission.KEYS_WRITE)
    async def RevokeKeys(self, request: pb.RevokeKeysRequest, call: Call) -> pb.RevokeKeysResponse:
        """End all keys of an owner."""
        REVOKE_KEYS.check(request)
        return revoked_keys_response(await self._keys.owners.revoke_keys(call.caller, revoke_keys_from(request)))

    @rpc(CallerPermission.KEYS_READ)
    async def GetOwner(self, request: pb.GetOwnerRequest, call: Call) -> pb.GetOwnerResponse:
        """Read an owner."""
        GET_OWNER.check(request)
        owner = await self._keys.owners.get(call.caller, request.owner_id, tenant_id=request.tenant_id)
        return pb.GetOwnerResponse(owner=owner_message(owner))

    @rpc(CallerPermission.KEYS_WRITE)
    async def SetOwner(self, request: pb.SetOwnerRequest, call: Call) -> pb.SetOwnerResponse:
        """Create an owner, or replace what is known of it."""
        SET_OWNER.check(request)
        return owner_response(await self._keys.owners.set(call.caller, set_owner_from(request)))
