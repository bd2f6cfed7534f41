"""Keys and what is asked of them, between the contract and the domain. All pure."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import Message

from tollkeeper.v1 import key_pb2, key_service_pb2
from tollkeeper_server.api.convert import (
    enum_map,
    inverse,
    json_from,
    optional_datetime,
    optional_timestamp,
    struct_from,
    timedelta_from,
    timestamp_from,
)
from tollkeeper_server.api.convert_limits import limit_from, limit_message
from tollkeeper_server.api.fields import network_from
from tollkeeper_server.core.credential import PREFIX_DEFAULT
from tollkeeper_server.core.key import Key, KeyState, RevokeReason
from tollkeeper_server.keys.commands import (
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    CreatedKey,
    CreateKey,
    KeyPage,
    ListKeys,
    Mutation,
    NameKey,
    Propagation,
    RevokeKey,
    RotatedKey,
    RotateKey,
    UpdateKey,
)

KEY_STATES = enum_map(KeyState, key_pb2.KeyState, prefix="KEY_STATE_")
REVOKE_REASONS = enum_map(RevokeReason, key_pb2.RevokeReason, prefix="REVOKE_REASON_")
PROPAGATIONS = enum_map(Propagation, key_service_pb2.Propagation, prefix="PROPAGATION_")

NamingRequest: TypeAlias = (
    key_service_pb2.DisableKeyRequest | key_service_pb2.EnableKeyRequest | key_service_pb2.EndOverlapRequest
)

_STATES_BY_NUMBER = inverse(KEY_STATES)
REASONS_BY_NUMBER = inverse(REVOKE_REASONS)


def create_key_from(request: key_service_pb2.CreateKeyRequest) -> CreateKey:
    """What a valid request asks for."""
    return CreateKey(
        tenant_id=request.tenant_id,
        owner_id=request.owner_id,
        name=request.name,
        description=request.description,
        environment=request.environment,
        prefix=request.prefix or PREFIX_DEFAULT,
        length=request.length,
        permissions=tuple(request.permissions),
        resources=tuple(request.resources),
        allowed_cidrs=tuple(map(network_from, request.allowed_cidrs)),
        limits=tuple(map(limit_from, request.limits)),
        metadata=json_from(request.metadata),
        expires_at=optional_datetime(request, "expires_at"),
        ttl=timedelta_from(request.ttl) if request.HasField("ttl") else None,
        request_id=request.request_id,
    )


def list_keys_from(request: key_service_pb2.ListKeysRequest) -> ListKeys:
    """What a valid request asks for; a page size beyond the greatest means the greatest."""
    return ListKeys(
        tenant_id=request.tenant_id,
        owner_id=request.owner_id,
        environment=request.environment,
        state=_STATES_BY_NUMBER.get(request.state),
        prefix=request.prefix,
        page_size=min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX),
        page_token=request.page_token,
        expires_before=optional_datetime(request, "expires_before"),
        created_before=optional_datetime(request, "created_before"),
        api_key_created_before=optional_datetime(request, "api_key_created_before"),
    )


_UPDATES: dict[str, Callable[[key_pb2.Key], Any]] = {
    "name": lambda key: key.name,
    "description": lambda key: key.description,
    "permissions": lambda key: tuple(key.permissions),
    "resources": lambda key: tuple(key.resources),
    "allowed_cidrs": lambda key: tuple(map(network_from, key.allowed_cidrs)),
    "limits": lambda key: tuple(map(limit_from, key.limits)),
    "metadata": lambda key: json_from(key.metadata),
    "expires_at": lambda key: optional_datetime(key, "expires_at"),
}


def update_key_from(request: key_service_pb2.UpdateKeyRequest) -> UpdateKey:
    """What a valid request asks for."""
    return UpdateKey(
        key_id=request.key.key_id,
        changes={path: _UPDATES[path](request.key) for path in request.update_mask.paths},
        etag=request.key.etag,
        request_id=request.request_id,
    )


def name_key_from(request: NamingRequest) -> NameKey:
    """What a valid request names."""
    return NameKey(key_id=request.key_id, request_id=request.request_id)


def rotate_key_from(request: key_service_pb2.RotateKeyRequest) -> RotateKey:
    """What a valid request asks for."""
    return RotateKey(key_id=request.key_id, overlap=timedelta_from(request.overlap), request_id=request.request_id)


def revoke_key_from(request: key_service_pb2.RevokeKeyRequest) -> RevokeKey:
    """What a valid request asks for."""
    return RevokeKey(
        key_id=request.key_id,
        api_key=request.api_key,
        reason=REASONS_BY_NUMBER[request.reason],
        comment=request.comment,
        request_id=request.request_id,
    )


def created_key_response(created: CreatedKey, *, now: datetime) -> key_service_pb2.CreateKeyResponse:
    """The new key and, this once, its API key."""
    return key_service_pb2.CreateKeyResponse(
        key=key_message(created.key, now=now),
        api_key=created.api_key,
        fingerprint=created.fingerprint,
        revision=created.revision,
    )


def key_page_response(page: KeyPage, *, now: datetime) -> key_service_pb2.ListKeysResponse:
    """One page of keys."""
    return key_service_pb2.ListKeysResponse(
        keys=[key_message(key, now=now) for key in page.keys], next_page_token=page.next_page_token
    )


ResponseT = TypeVar("ResponseT", bound=Message)


def mutation_response(response: type[ResponseT], mutation: Mutation, *, now: datetime) -> ResponseT:
    """The key after a change, and from when on that holds everywhere."""
    return response(
        key=key_message(mutation.key, now=now),
        revision=mutation.revision,
        propagation=PROPAGATIONS[mutation.propagation],
        effective_at=timestamp_from(mutation.effective_at),
    )


def rotated_key_response(rotated: RotatedKey, *, now: datetime) -> key_service_pb2.RotateKeyResponse:
    """The key with, this once, its new API key."""
    return key_service_pb2.RotateKeyResponse(
        key=key_message(rotated.key, now=now),
        api_key=rotated.api_key,
        fingerprint=rotated.fingerprint,
        revision=rotated.revision,
        propagation=PROPAGATIONS[rotated.propagation],
        effective_at=timestamp_from(rotated.effective_at),
    )


def key_message(key: Key, *, now: datetime) -> key_pb2.Key:
    """The record, in the state that it has at ``now``."""
    return key_pb2.Key(
        key_id=key.key_id,
        tenant_id=key.tenant_id,
        owner_id=key.owner_id,
        name=key.name,
        description=key.description,
        environment=key.environment,
        api_key_hint=key.hint,
        state=KEY_STATES[key.state_at(now)],
        permissions=key.permissions,
        resources=key.resources,
        allowed_cidrs=map(str, key.allowed_cidrs),
        limits=map(limit_message, key.limits),
        metadata=struct_from(key.metadata),
        created_at=timestamp_from(key.created_at),
        created_by=key.created_by,
        updated_at=timestamp_from(key.updated_at),
        updated_by=key.updated_by,
        expires_at=optional_timestamp(key.expires_at),
        revoked_at=optional_timestamp(key.revoked_at),
        revoke_reason=REVOKE_REASONS[key.revoke_reason],
        last_used_at=optional_timestamp(key.last_used_at),
        rotation=_rotation_message(key, now=now),
        revision=key.revision,
        etag=key.etag,
        api_key_created_at=optional_timestamp(key.api_key_created_at),
    )


def ended_key_message(key: key_pb2.Key) -> key_pb2.Key:
    """What is told of a revoked key to someone who may not read it."""
    return key_pb2.Key(key_id=key.key_id, state=key.state, revoked_at=key.revoked_at, revoke_reason=key.revoke_reason)


def _rotation_message(key: Key, *, now: datetime) -> key_pb2.Rotation | None:
    rotation = key.rotation_at(now)
    if rotation is None:
        return None
    return key_pb2.Rotation(
        overlap_ends_at=timestamp_from(rotation.overlap_ends_at),
        old_last_used_at=optional_timestamp(rotation.old_last_used_at),
    )


def identity_message(key: Key) -> key_pb2.KeyIdentity:
    """What a verification tells of a proven key."""
    return key_pb2.KeyIdentity(
        key_id=key.key_id,
        tenant_id=key.tenant_id,
        owner_id=key.owner_id,
        name=key.name,
        environment=key.environment,
        permissions=key.permissions,
        resources=key.resources,
        metadata=struct_from(key.metadata),
        expires_at=optional_timestamp(key.expires_at),
    )
