"""What the KeyService answers about owners."""

from tollkeeper._owners import Owner, OwnerChange, RevokedKeys
from tollkeeper._results import values
from tollkeeper.v1 import key_service_pb2 as pb


def owner(record: pb.Owner) -> Owner:
    """What is known of an owner."""
    return Owner(
        owner_id=record.owner_id,
        tenant_id=record.tenant_id,
        display_name=record.display_name,
        limits=values.limits(record.limits),
        suspended=record.suspended,
        metadata=values.plain(record.metadata),
        created_at=values.time_of(record, "created_at"),
        updated_at=values.time_of(record, "updated_at"),
        revision=record.revision,
        etag=record.etag,
    )


def owner_change(response: pb.SetOwnerResponse) -> OwnerChange:
    """An owner after a change."""
    return OwnerChange(owner=owner(response.owner), **values.effect(response))


def revoked_keys(response: pb.RevokeKeysResponse) -> RevokedKeys:
    """The keys of an owner that were ended."""
    return RevokedKeys(key_ids=tuple(response.key_ids), **values.effect(response))
