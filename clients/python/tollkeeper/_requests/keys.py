"""What the KeyService is asked about keys: made, read, listed and changed. Every mutation has a request id."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from tollkeeper._keys import UNCHANGED, KeyState
from tollkeeper._limits import Limit
from tollkeeper._requests import values
from tollkeeper.v1 import key_pb2
from tollkeeper.v1 import key_service_pb2 as pb


def create_key(
    *,
    name: str,
    description: str,
    owner_id: str,
    environment: str,
    permissions: Iterable[str],
    resources: Iterable[str],
    allowed_cidrs: Iterable[str],
    limits: Iterable[Limit],
    metadata: Mapping[str, Any] | None,
    expires_at: datetime | None,
    ttl: timedelta | None,
    prefix: str,
    length: int,
    request_id: str | None,
    tenant_id: str | None,
) -> pb.CreateKeyRequest:
    """A new key."""
    request = new_key(
        name=name,
        description=description,
        owner_id=owner_id,
        environment=environment,
        permissions=permissions,
        resources=resources,
        allowed_cidrs=allowed_cidrs,
        limits=limits,
        metadata=metadata,
        expires_at=expires_at,
        ttl=ttl,
    )
    request.prefix = prefix
    request.length = length
    request.request_id = values.request_id(request_id)
    request.tenant_id = tenant_id or ""
    return request


def new_key(
    *,
    name: str,
    description: str,
    owner_id: str,
    environment: str,
    permissions: Iterable[str],
    resources: Iterable[str],
    allowed_cidrs: Iterable[str],
    limits: Iterable[Limit],
    metadata: Mapping[str, Any] | None,
    expires_at: datetime | None,
    ttl: timedelta | None,
) -> pb.CreateKeyRequest:
    """The record of a new key, and nothing about its API key."""
    if expires_at is not None and ttl is not None:
        raise TypeError("give expires_at or ttl, not both")
    return pb.CreateKeyRequest(
        name=name,
        description=description,
        owner_id=owner_id,
        environment=environment,
        permissions=values.words(permissions, "permissions"),
        resources=values.words(resources, "resources"),
        allowed_cidrs=values.words(allowed_cidrs, "allowed_cidrs"),
        limits=values.limits(limits),
        metadata=values.struct(metadata),
        expires_at=values.timestamp(expires_at, "expires_at"),
        ttl=values.duration(ttl),
    )


def get_key(key_id: str) -> pb.GetKeyRequest:
    """Names a key."""
    return pb.GetKeyRequest(key_id=key_id)


def list_keys(
    *,
    owner_id: str,
    environment: str,
    state: KeyState,
    prefix: str,
    expires_before: datetime | None,
    created_before: datetime | None,
    api_key_created_before: datetime | None,
    page_size: int,
    page_token: str,
    tenant_id: str | None,
) -> pb.ListKeysRequest:
    """Which keys to list; empty filters match every key."""
    return pb.ListKeysRequest(
        owner_id=owner_id,
        environment=environment,
        state=key_pb2.KeyState.Value(f"KEY_STATE_{state.name}"),
        prefix=prefix,
        expires_before=values.timestamp(expires_before, "expires_before"),
        created_before=values.timestamp(created_before, "created_before"),
        api_key_created_before=values.timestamp(api_key_created_before, "api_key_created_before"),
        page_size=page_size,
        page_token=page_token,
        tenant_id=tenant_id or "",
    )


def update_key(key_id: str, fields: Mapping[str, Any], *, etag: str, request_id: str | None) -> pb.UpdateKeyRequest:
    """New values by the names of their fields; those that are UNCHANGED are not named."""
    given = {name: value for name, value in fields.items() if value is not UNCHANGED}
    request = pb.UpdateKeyRequest(
        key=key_pb2.Key(key_id=key_id, etag=etag, **{name: _field(name, value) for name, value in given.items()}),
        request_id=values.request_id(request_id),
    )
    request.update_mask.paths.extend(given)
    return request


def _field(name: str, value: Any) -> Any:
    match name:
        case "permissions" | "resources" | "allowed_cidrs":
            return values.words(value, name)
        case "limits":
            return values.limits(value)
        case "metadata":
            return values.struct(value)
        case "expires_at":
            return values.timestamp(value, name)
        case _:
            return value
