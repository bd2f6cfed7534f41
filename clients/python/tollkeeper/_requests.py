"""From Python arguments to protobuf requests. Pure, but for the request ids it makes up.

Bounds are the server's to check, so that there is one place that knows them. What cannot be said in the contract, as
a time without a time zone, is refused here with TypeError or ValueError.
"""

import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2

from tollkeeper._decisions import Verification
from tollkeeper._keys import KeyState, RevokeReason
from tollkeeper._limits import CalendarWindow, Limit
from tollkeeper.v1 import key_pb2, key_service_pb2, limit_pb2, verification_service_pb2

_REQUESTS_UNIT = "requests"


def verify(question: Verification) -> verification_service_pb2.VerifyRequest:
    """One verification. It always has a request id, so that a repeated one is charged once."""
    return verification_service_pb2.VerifyRequest(
        api_key=question.api_key,
        resource=question.resource,
        required_permissions=_words(question.permissions, "permissions"),
        client_ip="" if question.client_ip is None else str(question.client_ip),
        charges=_charges(question.charges),
        reserve=question.reserve,
        dry_run=question.dry_run,
        min_revision=question.min_revision,
        request_id=question.request_id or _new_request_id(),
        tenant_id=question.tenant_id or "",
    )


def batch_verify(questions: Iterable[Verification]) -> verification_service_pb2.BatchVerifyRequest:
    """Many verifications."""
    return verification_service_pb2.BatchVerifyRequest(requests=[verify(question) for question in questions])


def check_quota(
    *,
    key_id: str | None,
    api_key: str | None,
    owner_id: str | None,
    charges: Mapping[str, int] | None,
    tenant_id: str | None,
) -> verification_service_pb2.CheckQuotaRequest:
    """Asks for limits only, of exactly one subject."""
    _exactly_one(key_id=key_id, api_key=api_key, owner_id=owner_id)
    request = verification_service_pb2.CheckQuotaRequest(charges=_charges(charges), tenant_id=tenant_id or "")
    if key_id is not None:
        request.key_id = key_id
    if api_key is not None:
        request.api_key = api_key
    if owner_id is not None:
        request.owner_id = owner_id
    return request


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
) -> key_service_pb2.CreateKeyRequest:
    """A new key. It always has a request id, so that it can be repeated."""
    if expires_at is not None and ttl is not None:
        raise TypeError("give expires_at or ttl, not both")
    request = key_service_pb2.CreateKeyRequest(
        name=name,
        description=description,
        owner_id=owner_id,
        environment=environment,
        permissions=_words(permissions, "permissions"),
        resources=_words(resources, "resources"),
        allowed_cidrs=_words(allowed_cidrs, "allowed_cidrs"),
        limits=[_limit(limit) for limit in limits],
        metadata=None if metadata is None else _struct(metadata),
        prefix=prefix,
        length=length,
        request_id=request_id or _new_request_id(),
        tenant_id=tenant_id or "",
    )
    if expires_at is not None:
        request.expires_at.CopyFrom(_timestamp(expires_at, "expires_at"))
    if ttl is not None:
        request.ttl.CopyFrom(_duration(ttl))
    return request


def get_key(key_id: str) -> key_service_pb2.GetKeyRequest:
    """Names a key."""
    return key_service_pb2.GetKeyRequest(key_id=key_id)


def list_keys(
    *,
    owner_id: str,
    environment: str,
    state: KeyState,
    prefix: str,
    page_size: int,
    page_token: str,
    tenant_id: str | None,
) -> key_service_pb2.ListKeysRequest:
    """Which keys to list; empty filters match every key."""
    return key_service_pb2.ListKeysRequest(
        owner_id=owner_id,
        environment=environment,
        state=key_pb2.KeyState.Value(f"KEY_STATE_{state.name}"),
        prefix=prefix,
        page_size=page_size,
        page_token=page_token,
        tenant_id=tenant_id or "",
    )


def revoke_key(
    *,
    key_id: str | None,
    api_key: str | None,
    reason: RevokeReason,
    comment: str,
    request_id: str | None,
) -> key_service_pb2.RevokeKeyRequest:
    """Ends exactly one key. It always has a request id, so that it can be repeated."""
    _exactly_one(key_id=key_id, api_key=api_key)
    request = key_service_pb2.RevokeKeyRequest(
        reason=key_pb2.RevokeReason.Value(f"REVOKE_REASON_{reason.name}"),
        comment=comment,
        request_id=request_id or _new_request_id(),
    )
    if key_id is not None:
        request.key_id = key_id
    if api_key is not None:
        request.api_key = api_key
    return request


def _limit(limit: Limit) -> limit_pb2.Limit:
    message = limit_pb2.Limit(
        name=limit.name,
        kind=limit_pb2.LimitKind.Value(f"LIMIT_KIND_{limit.kind.name}"),
        unit=limit.unit,
        amount=limit.amount,
        shadow=limit.shadow,
    )
    if isinstance(limit.window, CalendarWindow):
        message.calendar = limit_pb2.CalendarWindow.Value(f"CALENDAR_WINDOW_{limit.window.name}")
        message.time_zone = limit.time_zone
    else:
        message.window.CopyFrom(_duration(limit.window))
    if limit.anchor is not None:
        message.anchor.CopyFrom(_timestamp(limit.anchor, "anchor"))
    return message


def _charges(charges: Mapping[str, int] | None) -> Mapping[str, int] | None:
    # The contract cannot tell an empty map from an absent one, which charges one request.
    return {_REQUESTS_UNIT: 0} if charges is not None and not charges else charges


def _words(words: Iterable[str], name: str) -> list[str]:
    if isinstance(words, str):
        raise TypeError(f"{name} is a sequence of strings, not one string")
    return list(words)


def _exactly_one(**subjects: str | None) -> None:
    if sum(subject is not None for subject in subjects.values()) != 1:
        raise TypeError(f"give exactly one of {', '.join(subjects)}")


def _timestamp(moment: datetime, name: str) -> timestamp_pb2.Timestamp:
    if moment.tzinfo is None:
        raise ValueError(f"{name} needs a time zone")
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message


def _duration(delta: timedelta) -> duration_pb2.Duration:
    message = duration_pb2.Duration()
    message.FromTimedelta(delta)
    return message


def _struct(metadata: Mapping[str, Any]) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    message.update(dict(metadata))
    return message


def _new_request_id() -> str:
    return secrets.token_hex(16)
