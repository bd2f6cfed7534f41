"""What the KeyService answers about keys."""

from tollkeeper._error_details import status_error
from tollkeeper._errors import CallError, Internal
from tollkeeper._keys import (
    CreatedKey,
    EnabledKey,
    Key,
    KeyChange,
    KeyPage,
    KeyState,
    LeakedKeyOutcome,
    LeakReport,
    Propagation,
    RevokeReason,
    RotatedKey,
    Rotation,
)
from tollkeeper._results import values
from tollkeeper.v1 import key_pb2
from tollkeeper.v1 import key_service_pb2 as pb

KEY_STATES = values.members(key_pb2.KeyState.DESCRIPTOR, KeyState.__members__)
REVOKE_REASONS = values.members(key_pb2.RevokeReason.DESCRIPTOR, RevokeReason.__members__)
LEAKED_KEY_OUTCOMES = values.members(pb.LeakedKeyOutcome.DESCRIPTOR, LeakedKeyOutcome.__members__)

Narrowed = pb.UpdateKeyResponse | pb.DisableKeyResponse | pb.EndOverlapResponse | pb.RevokeKeyResponse


def created_key(response: pb.CreateKeyResponse) -> CreatedKey:
    """A new key with its API key."""
    return CreatedKey(
        key=key(response.key),
        api_key=response.api_key,
        fingerprint=response.fingerprint,
        revision=response.revision,
    )


def rotated_key(response: pb.RotateKeyResponse) -> RotatedKey:
    """A key with its new API key."""
    return RotatedKey(
        key=key(response.key),
        api_key=response.api_key,
        fingerprint=response.fingerprint,
        **values.effect(response),
    )


def key_change(response: Narrowed) -> KeyChange:
    """A key after a change."""
    return KeyChange(key=key(response.key), **values.effect(response))


def enabled_key(response: pb.EnableKeyResponse) -> EnabledKey:
    """A key that was switched on."""
    return EnabledKey(key=key(response.key), revision=response.revision)


def key_page(response: pb.ListKeysResponse) -> KeyPage:
    """One page of keys."""
    return KeyPage(keys=tuple(map(key, response.keys)), next_page_token=response.next_page_token)


def imported_keys(response: pb.ImportKeysResponse, *, expected: int) -> list[KeyChange | CallError]:
    """One outcome for each key, in order. Raises Internal if they are not as many as the keys."""
    if len(response.results) != expected:
        raise Internal("ImportKeys", "INTERNAL", f"{len(response.results)} answers to {expected} keys")
    effect = values.effect(response)
    return [
        KeyChange(key=key(result.key), **effect) if result.HasField("key") else status_error("ImportKeys", result.error)
        for result in response.results
    ]


def leak_report(response: pb.ReportLeakedKeysResponse, *, expected: int) -> LeakReport:
    """What became of leaked keys. Raises Internal if the outcomes are not as many as the keys."""
    if len(response.results) != expected:
        raise Internal("ReportLeakedKeys", "INTERNAL", f"{len(response.results)} answers to {expected} keys")
    return LeakReport(
        outcomes=tuple(
            LEAKED_KEY_OUTCOMES.get(result.outcome, LeakedKeyOutcome.UNSPECIFIED) for result in response.results
        ),
        propagation=values.PROPAGATIONS.get(response.propagation, Propagation.UNSPECIFIED),
        effective_at=values.time_of(response, "effective_at"),
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
        limits=values.limits(record.limits),
        metadata=values.plain(record.metadata),
        created_at=values.time_of(record, "created_at"),
        created_by=record.created_by,
        updated_at=values.time_of(record, "updated_at"),
        updated_by=record.updated_by,
        expires_at=values.time_of(record, "expires_at"),
        revoked_at=values.time_of(record, "revoked_at"),
        revoke_reason=REVOKE_REASONS.get(record.revoke_reason, RevokeReason.UNSPECIFIED),
        last_used_at=values.time_of(record, "last_used_at"),
        rotation=_rotation(record.rotation) if record.HasField("rotation") else None,
        revision=record.revision,
        etag=record.etag,
        api_key_created_at=values.time_of(record, "api_key_created_at"),
    )


def _rotation(rotation: key_pb2.Rotation) -> Rotation:
    return Rotation(
        overlap_ends_at=values.time_of(rotation, "overlap_ends_at"),
        old_last_used_at=values.time_of(rotation, "old_last_used_at"),
    )
