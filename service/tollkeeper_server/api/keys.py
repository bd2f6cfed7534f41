"""KeyService: the life of a key."""

from collections.abc import Callable
from datetime import datetime

from tollkeeper.v1 import key_service_pb2 as pb
from tollkeeper_server.api import not_yet
from tollkeeper_server.api.convert_keys import (
    create_key_from,
    created_key_response,
    key_message,
    key_page_response,
    list_keys_from,
    revoke_key_from,
    revoked_key_response,
)
from tollkeeper_server.api.handler import Call, rpc
from tollkeeper_server.api.validation import CREATE_KEY, GET_KEY, LIST_KEYS, REVOKE_KEY
from tollkeeper_server.core.caller import CallerPermission
from tollkeeper_server.keys.service import KeyService


class KeyServicer:
    """Checks and converts what is asked of keys; the KeyService does it."""

    def __init__(self, *, keys: KeyService, clock: Callable[[], datetime]) -> None:
        self._keys = keys
        self._clock = clock

    @rpc(CallerPermission.KEYS_WRITE)
    async def CreateKey(self, request: pb.CreateKeyRequest, call: Call) -> pb.CreateKeyResponse:
        """Make a key."""
        CREATE_KEY.check(request)
        not_yet.refuse_hard_limits(request.limits)
        created = await self._keys.create(call.caller, create_key_from(request))
        return created_key_response(created, now=self._clock())

    ImportKeys = not_yet.unary_rpc(CallerPermission.KEYS_WRITE)

    @rpc(CallerPermission.KEYS_READ)
    async def GetKey(self, request: pb.GetKeyRequest, call: Call) -> pb.GetKeyResponse:
        """Read a key."""
        GET_KEY.check(request)
        key = await self._keys.get(call.caller, request.key_id)
        return pb.GetKeyResponse(key=key_message(key, now=self._clock()))

    @rpc(CallerPermission.KEYS_READ)
    async def ListKeys(self, request: pb.ListKeysRequest, call: Call) -> pb.ListKeysResponse:
        """Read a page of keys."""
        LIST_KEYS.check(request)
        page = await self._keys.list(call.caller, list_keys_from(request))
        return key_page_response(page, now=self._clock())

    UpdateKey = not_yet.unary_rpc(CallerPermission.KEYS_WRITE)
    DisableKey = not_yet.unary_rpc(CallerPermission.KEYS_WRITE)
    EnableKey = not_yet.unary_rpc(CallerPermission.KEYS_WRITE)
    RotateKey = not_yet.unary_rpc(CallerPermission.KEYS_WRITE)
    EndOverlap = not_yet.unary_rpc(CallerPermission.KEYS_WRITE)
    ReportLeakedKeys = not_yet.unary_rpc(None)

    @rpc(CallerPermission.KEYS_WRITE)
    async def RevokeKey(self, request: pb.RevokeKeyRequest, call: Call) -> pb.RevokeKeyResponse:
        """End a key."""
        REVOKE_KEY.check(request)
        mutation = await self._keys.revoke(call.caller, revoke_key_from(request))
        return revoked_key_response(mutation, now=self._clock())

    RevokeKeys = not_yet.unary_rpc(CallerPermission.KEYS_WRITE)
    GetOwner = not_yet.unary_rpc(CallerPermission.KEYS_READ)
    SetOwner = not_yet.unary_rpc(CallerPermission.KEYS_WRITE)
