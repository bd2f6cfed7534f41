"""What the KeyService is asked to do with keys that there are, here or elsewhere. All of it has a request id."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from tollkeeper._keys import ImportKey, LeakedKey, RevokeReason
from tollkeeper._requests import values
from tollkeeper._requests.keys import new_key
from tollkeeper.v1 import key_service_pb2 as pb

IMPORT_KEYS_MAX = 1_000
IMPORT_BYTES_MAX = 2 * 1024 * 1024
"""Half of what a server takes: room for what surrounds the keys, and for the answer, which repeats them."""


def disable_key(key_id: str, *, request_id: str | None) -> pb.DisableKeyRequest:
    """Switches a key off."""
    return pb.DisableKeyRequest(key_id=key_id, request_id=values.request_id(request_id))


def enable_key(key_id: str, *, request_id: str | None) -> pb.EnableKeyRequest:
    """Switches a key on."""
    return pb.EnableKeyRequest(key_id=key_id, request_id=values.request_id(request_id))


def rotate_key(key_id: str, *, overlap: timedelta, request_id: str | None) -> pb.RotateKeyRequest:
    """Asks for a new API key."""
    return pb.RotateKeyRequest(
        key_id=key_id, overlap=values.duration(overlap), request_id=values.request_id(request_id)
    )


def end_overlap(key_id: str, *, request_id: str | None) -> pb.EndOverlapRequest:
    """Ends the earlier API key of a rotation."""
    return pb.EndOverlapRequest(key_id=key_id, request_id=values.request_id(request_id))


def revoke_key(
    *,
    key_id: str | None,
    api_key: str | None,
    reason: RevokeReason,
    comment: str,
    request_id: str | None,
) -> pb.RevokeKeyRequest:
    """Ends exactly one key."""
    return pb.RevokeKeyRequest(
        **values.exactly_one(key_id=key_id, api_key=api_key),
        reason=values.revoke_reason(reason),
        comment=comment,
        request_id=values.request_id(request_id),
    )


def report_leaked_keys(leaked_keys: Iterable[LeakedKey], *, request_id: str | None) -> pb.ReportLeakedKeysRequest:
    """API keys that were found where they should not be."""
    return pb.ReportLeakedKeysRequest(
        leaked_keys=[pb.LeakedKey(api_key=each.api_key, url=each.url, source=each.source) for each in leaked_keys],
        request_id=values.request_id(request_id),
    )


def import_batches(
    keys: Iterable[ImportKey], *, request_id: str | None, tenant_id: str | None
) -> Iterator[pb.ImportKeysRequest]:
    """The keys, in order, in requests that are neither too many keys nor too many bytes for a server.

    The same keys make the same batches, each with a request id of its own.
    """
    name = values.request_id(request_id)
    batch: list[pb.ImportKey] = []
    number = size = 0
    for key in keys:
        item = _import_key(key)
        if batch and (len(batch) == IMPORT_KEYS_MAX or size + item.ByteSize() > IMPORT_BYTES_MAX):
            yield pb.ImportKeysRequest(keys=batch, request_id=f"{name}.{number}", tenant_id=tenant_id or "")
            number += 1
            batch, size = [], 0
        batch.append(item)
        size += item.ByteSize()
    if batch:
        yield pb.ImportKeysRequest(keys=batch, request_id=f"{name}.{number}", tenant_id=tenant_id or "")


def _import_key(key: ImportKey) -> pb.ImportKey:
    credential = values.exactly_one(
        raw_api_key=key.raw_api_key,
        sha256_hex=key.sha256_hex,
        sha256_base64url=key.sha256_base64url,
        sha512_hex=key.sha512_hex,
        hmac_sha256_hex=key.hmac_sha256_hex,
    )
    record = new_key(
        name=key.name,
        description=key.description,
        owner_id=key.owner_id,
        environment=key.environment,
        permissions=key.permissions,
        resources=key.resources,
        allowed_cidrs=key.allowed_cidrs,
        limits=key.limits,
        metadata=key.metadata,
        expires_at=key.expires_at,
        ttl=key.ttl,
    )
    ((how, text),) = credential.items()
    if how == "hmac_sha256_hex":
        return pb.ImportKey(key=record, hmac_sha256=pb.HmacDigest(hex=text, pepper_version=key.pepper_version))
    item = pb.ImportKey(key=record)
    setattr(item, how, text)
    return item
