"""Keys and what is asked of them, between the contract and the domain. All pure."""

from datetime import datetime

from tollkeeper.v1 import key_pb2, key_service_pb2
from tollkeeper_server.api.convert import (
    datetime_from,
    enum_map,
    inverse,
    json_from,
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
    Propagation,
    RevokeKey,
)

KEY_STATES = enum_map(KeyState, key_pb2.KeyState, prefix="KEY_STATE_")
REVOKE_REASONS = enum_map(RevokeReason, key_pb2.RevokeReason, prefix="REVOKE_REASON_")
PROPAGATIONS = enum_map(Propagation, key_service_pb2.Propagation, prefix="PROPAGATION_")

_STATES_BY_NUMBER = inverse(KEY_STATES)
_REASONS_BY_NUMBER = inverse(REVOKE_REASONS)


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
        expires_at=datetime_from(request.expires_at) if request.HasField("expires_at") else None,
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
    )


def revoke_key_from(request: key_service_pb2.RevokeKeyRequest) -> RevokeKey:
    """What a valid request asks for."""
    return RevokeKey(
        key_id=request.key_id,
        api_key=request.api_key,
        reason=_REASONS_BY_NUMBER[request.reason],
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


def revoked_key_response(mutation: Mutation, *, now: datetime) -> key_service_pb2.RevokeKeyResponse:
    """The revoked key, and since when it is dead everywhere."""
    return key_service_pb2.RevokeKeyResponse(
        key=key_message(mutation.key, now=now),
        revision=mutation.revision,
        propagation=PROPAGATIONS[mutation.propagation],
        effective_at=timestamp_from(mutation.effective_at),
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
        revision=key.revision,
        etag=str(key.revision),
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
