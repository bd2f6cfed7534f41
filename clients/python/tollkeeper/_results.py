"""From protobuf answers to results. Pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import EnumDescriptor

from tollkeeper._decisions import (
    Decision,
    DecisionCode,
    Degradation,
    DegradationReason,
    KeyIdentity,
    QuotaReport,
)
from tollkeeper._error_details import status_error
from tollkeeper._errors import CallError, Internal
from tollkeeper._keys import (
    CreatedKey,
    Key,
    KeyPage,
    KeyState,
    Propagation,
    RevokedKey,
    RevokeReason,
    Rotation,
)
from tollkeeper._limits import CalendarWindow, Limit, LimitKind, LimitScope, LimitState
from tollkeeper.v1 import key_pb2, key_service_pb2, limit_pb2, verification_service_pb2

E = TypeVar("E")

_INTEGERS_EXACT_BELOW = 2**53


def _members(contract: EnumDescriptor, members: Mapping[str, E]) -> dict[int, E]:
    """Contract number to enum member. Numbers of later versions are absent: look up with a default."""
    prefix = contract.values_by_number[0].name.removesuffix("UNSPECIFIED")
    names = {value.number: value.name.removeprefix(prefix) for value in contract.values}
    return {number: members[name] for number, name in names.items() if name in members}


DECISION_CODES = _members(verification_service_pb2.DecisionCode.DESCRIPTOR, DecisionCode.__members__)
DEGRADATION_REASONS = _members(verification_service_pb2.DegradationReason.DESCRIPTOR, DegradationReason.__members__)
KEY_STATES = _members(key_pb2.KeyState.DESCRIPTOR, KeyState.__members__)
REVOKE_REASONS = _members(key_pb2.RevokeReason.DESCRIPTOR, RevokeReason.__members__)
PROPAGATIONS = _members(key_service_pb2.Propagation.DESCRIPTOR, Propagation.__members__)
LIMIT_KINDS = _members(limit_pb2.LimitKind.DESCRIPTOR, LimitKind.__members__)
LIMIT_SCOPES = _members(limit_pb2.LimitScope.DESCRIPTOR, LimitScope.__members__)
CALENDAR_WINDOWS = _members(limit_pb2.CalendarWindow.DESCRIPTOR, CalendarWindow.__members__)


def decision(response: verification_service_pb2.VerifyResponse) -> Decision:
    """The decision of a verification. A code that is not known becomes UNSPECIFIED, which denies."""
    return Decision(
        code=DECISION_CODES.get(response.code, DecisionCode.UNSPECIFIED),
        message=response.message,
        key=_key_identity(response.key) if response.HasField("key") else None,
        limits=_limit_states(response.limits),
        retry_after=_delta(response.retry_after) if response.HasField("retry_after") else None,
        reservation_id=response.reservation_id,
        revision=response.revision,
        degradations=_degradations(response.degradations),
        request_id=response.request_id,
    )


def decisions(response: verification_service_pb2.BatchVerifyResponse, *, expected: int) -> list[Decision | CallError]:
    """One outcome for each question, in order. Raises Internal if they are not as many as the questions."""
    if len(response.results) != expected:
        raise Internal("BatchVerify", "INTERNAL", f"{len(response.results)} answers to {expected} questions")
    return [_outcome(result) for result in response.results]


def quota_report(response: verification_service_pb2.CheckQuotaResponse) -> QuotaReport:
    """The limits as they stand."""
    return QuotaReport(
        code=DECISION_CODES.get(response.code, DecisionCode.UNSPECIFIED),
        limits=_limit_states(response.limits),
        retry_after=_delta(response.retry_after) if response.HasField("retry_after") else None,
        degradations=_degradations(response.degradations),
    )


def created_key(response: key_service_pb2.CreateKeyResponse) -> CreatedKey:
    """A new key with its API key."""
    return CreatedKey(
        key=key(response.key),
        api_key=response.api_key,
        fingerprint=response.fingerprint,
        revision=response.revision,
    )


def key_page(response: key_service_pb2.ListKeysResponse) -> KeyPage:
    """One page of keys."""
    return KeyPage(keys=tuple(key(record) for record in response.keys), next_page_token=response.next_page_token)


def revoked_key(response: key_service_pb2.RevokeKeyResponse) -> RevokedKey:
    """A key that was ended."""
    return RevokedKey(
        key=key(response.key),
        revision=response.revision,
        propagation=PROPAGATIONS.get(response.propagation, Propagation.UNSPECIFIED),
        effective_at=_time(response.effective_at) if response.HasField("effective_at") else None,
    )


def key(record: key_pb2.Key) -> Key:
    """The record about an API key."""
    return Key(
        key_id=record.key_id,
        tenant_id=record.tenant_id,
        owner_id=record.owner_id,
        name=record.name,
        description=record.description,
        environment=record.environment,
        api_key_hint=record.api_key_hint,
        state=KEY_STATES.get(record.state, KeyState.UNSPECIFIED),
        permissions=tuple(record.permissions),
        resources=tuple(record.resources),
        allowed_cidrs=tuple(record.allowed_cidrs),
        limits=tuple(_limit(limit) for limit in record.limits),
        metadata=_dict(record.metadata),
        created_at=_time(record.created_at) if record.HasField("created_at") else None,
        created_by=record.created_by,
        updated_at=_time(record.updated_at) if record.HasField("updated_at") else None,
        updated_by=record.updated_by,
        expires_at=_time(record.expires_at) if record.HasField("expires_at") else None,
        revoked_at=_time(record.revoked_at) if record.HasField("revoked_at") else None,
        revoke_reason=REVOKE_REASONS.get(record.revoke_reason, RevokeReason.UNSPECIFIED),
        last_used_at=_time(record.last_used_at) if record.HasField("last_used_at") else None,
        rotation=_rotation(record.rotation) if record.HasField("rotation") else None,
        revision=record.revision,
        etag=record.etag,
    )


def _outcome(result: verification_service_pb2.VerifyResult) -> Decision | CallError:
    match result.WhichOneof("result"):
        case "response":
            return decision(result.response)
        case "error":
            return status_error("Verify", result.error)
        case _:
            return Internal("Verify", "INTERNAL", "the answer is empty")


def _rotation(rotation: key_pb2.Rotation) -> Rotation:
    return Rotation(
        overlap_ends_at=_time(rotation.overlap_ends_at) if rotation.HasField("overlap_ends_at") else None,
        old_last_used_at=_time(rotation.old_last_used_at) if rotation.HasField("old_last_used_at") else None,
    )


def _key_identity(identity: key_pb2.KeyIdentity) -> KeyIdentity:
    return KeyIdentity(
        key_id=identity.key_id,
        tenant_id=identity.tenant_id,
        owner_id=identity.owner_id,
        name=identity.name,
        environment=identity.environment,
        permissions=tuple(identity.permissions),
        resources=tuple(identity.resources),
        metadata=_dict(identity.metadata),
        expires_at=_time(identity.expires_at) if identity.HasField("expires_at") else None,
    )


def _limit(limit: limit_pb2.Limit) -> Limit:
    return Limit(
        name=limit.name,
        kind=LIMIT_KINDS.get(limit.kind, LimitKind.UNSPECIFIED),
        unit=limit.unit,
        amount=limit.amount,
        window=CALENDAR_WINDOWS.get(limit.calendar) or _delta(limit.window),
        time_zone=limit.time_zone or "UTC",
        anchor=_time(limit.anchor) if limit.HasField("anchor") else None,
        shadow=limit.shadow,
    )


def _limit_states(states: Iterable[limit_pb2.LimitState]) -> tuple[LimitState, ...]:
    return tuple(
        LimitState(
            name=state.name,
            kind=LIMIT_KINDS.get(state.kind, LimitKind.UNSPECIFIED),
            unit=state.unit,
            limit=state.limit,
            used=state.used,
            remaining=state.remaining,
            reset_at=_time(state.reset_at) if state.HasField("reset_at") else None,
            exceeded=state.exceeded,
            shadow=state.shadow,
            scope=LIMIT_SCOPES.get(state.scope, LimitScope.UNSPECIFIED),
        )
        for state in states
    )


def _degradations(
    degradations: Iterable[verification_service_pb2.Degradation],
) -> tuple[Degradation, ...]:
    return tuple(
        Degradation(
            reason=DEGRADATION_REASONS.get(degradation.reason, DegradationReason.UNSPECIFIED),
            message=degradation.message,
        )
        for degradation in degradations
    )


def _time(timestamp: timestamp_pb2.Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)


def _delta(duration: duration_pb2.Duration) -> timedelta:
    return duration.ToTimedelta()


def _dict(struct: struct_pb2.Struct) -> dict[str, Any]:
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: struct_pb2.Value) -> Any:
    """A JSON value in Python's types. JSON has one type of number; whole ones become int."""
    match value.WhichOneof("kind"):
        case "struct_value":
            return _dict(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "number_value":
            number = value.number_value
            whole = number.is_integer() and abs(number) < _INTEGERS_EXACT_BELOW
            return int(number) if whole else number
        case _:
            return None
