"""What the KeyService is asked about owners. Every mutation has a request id."""

from collections.abc import Iterable, Mapping
from typing import Any

from tollkeeper._keys import RevokeReason
from tollkeeper._limits import Limit
from tollkeeper._requests import values
from tollkeeper.v1 import key_service_pb2 as pb


def get_owner(owner_id: str, *, tenant_id: str | None) -> pb.GetOwnerRequest:
    """Names an owner."""
    return pb.GetOwnerRequest(owner_id=owner_id, tenant_id=tenant_id or "")


def set_owner(
    owner_id: str,
    *,
    display_name: str,
    limits: Iterable[Limit],
    suspended: bool,
    metadata: Mapping[str, Any] | None,
    etag: str,
    request_id: str | None,
    tenant_id: str | None,
) -> pb.SetOwnerRequest:
    """All that is to be known of an owner."""
    return pb.SetOwnerRequest(
        owner=pb.Owner(
            owner_id=owner_id,
            display_name=display_name,
            limits=values.limits(limits),
            suspended=suspended,
            metadata=values.struct(metadata),
            etag=etag,
        ),
        request_id=values.request_id(request_id),
        tenant_id=tenant_id or "",
    )


def revoke_keys(
    owner_id: str,
    *,
    reason: RevokeReason,
    comment: str,
    request_id: str | None,
    tenant_id: str | None,
) -> pb.RevokeKeysRequest:
    """Ends all keys of an owner."""
    return pb.RevokeKeysRequest(
        owner_id=owner_id,
        reason=values.revoke_reason(reason),
        comment=comment,
        request_id=values.request_id(request_id),
        tenant_id=tenant_id or "",
    )
