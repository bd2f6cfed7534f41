"""Owners and what is asked of them, between the contract and the domain. All pure."""

from tollkeeper.v1 import key_service_pb2
from tollkeeper_server.api.convert import json_from, struct_from, timestamp_from
from tollkeeper_server.api.convert_keys import PROPAGATIONS, REASONS_BY_NUMBER
from tollkeeper_server.api.convert_limits import limit_from, limit_message
from tollkeeper_server.core.key import Owner
from tollkeeper_server.keys.owner_commands import OwnerChange, RevokedKeys, RevokeKeys, SetOwner


def set_owner_from(request: key_service_pb2.SetOwnerRequest) -> SetOwner:
    """What a valid request asks for."""
    owner = request.owner
    return SetOwner(
        tenant_id=request.tenant_id,
        owner_id=owner.owner_id,
        display_name=owner.display_name,
        limits=tuple(map(limit_from, owner.limits)),
        suspended=owner.suspended,
        metadata=json_from(owner.metadata),
        etag=owner.etag,
        request_id=request.request_id,
    )


def revoke_keys_from(request: key_service_pb2.RevokeKeysRequest) -> RevokeKeys:
    """What a valid request asks for."""
    return RevokeKeys(
        tenant_id=request.tenant_id,
        owner_id=request.owner_id,
        reason=REASONS_BY_NUMBER[request.reason],
        comment=request.comment,
        request_id=request.request_id,
    )


def owner_response(change: OwnerChange) -> key_service_pb2.SetOwnerResponse:
    """The owner after a change, and from when on that holds everywhere."""
    return key_service_pb2.SetOwnerResponse(
        owner=owner_message(change.owner),
        revision=change.revision,
        propagation=PROPAGATIONS[change.propagation],
        effective_at=timestamp_from(change.effective_at),
    )


def revoked_keys_response(revoked: RevokedKeys) -> key_service_pb2.RevokeKeysResponse:
    """The keys that were revoked, and since when they are dead everywhere."""
    return key_service_pb2.RevokeKeysResponse(
        key_ids=revoked.key_ids,
        revision=revoked.revision,
        propagation=PROPAGATIONS[revoked.propagation],
        effective_at=timestamp_from(revoked.effective_at),
    )


def owner_message(owner: Owner) -> key_service_pb2.Owner:
    """What is known of an owner."""
    return key_service_pb2.Owner(
        owner_id=owner.owner_id,
        tenant_id=owner.tenant_id,
        display_name=owner.display_name,
        limits=map(limit_message, owner.limits),
        suspended=owner.suspended,
        metadata=struct_from(owner.metadata),
        created_at=timestamp_from(owner.created_at),
        updated_at=timestamp_from(owner.updated_at),
        revision=owner.revision,
        etag=owner.etag,
    )
