"""Keys of other systems and leaked keys, between the contract and the domain. All pure."""

from base64 import urlsafe_b64decode
from datetime import datetime

from tollkeeper.v1 import key_service_pb2
from tollkeeper_server.api.convert import timestamp_from
from tollkeeper_server.api.convert_keys import PROPAGATIONS, create_key_from, key_message
from tollkeeper_server.api.errors import status_of
from tollkeeper_server.api.validate_imports import IMPORT_KEY
from tollkeeper_server.core.errors import InvalidArgument, TollkeeperError
from tollkeeper_server.core.key import Key
from tollkeeper_server.keys.import_commands import (
    Credential,
    ImportedKeys,
    ImportKey,
    ImportKeys,
    LeakedKey,
    ReportedKeys,
    ReportLeakedKeys,
)
from tollkeeper_server.keys.workspace import Algorithm

_REVOKED = key_service_pb2.LEAKED_KEY_OUTCOME_REVOKED
_NOT_OURS = key_service_pb2.LEAKED_KEY_OUTCOME_NOT_OURS


def import_keys_from(request: key_service_pb2.ImportKeysRequest) -> ImportKeys:
    """What a request asks for whose items may have faults; those stay in their place."""
    return ImportKeys(
        tenant_id=request.tenant_id,
        items=tuple(_import_or_fault(item, at=f"keys[{index}].") for index, item in enumerate(request.keys)),
        request_id=request.request_id,
    )


def imported_keys_response(
    imported: ImportedKeys, *, now: datetime, request_id: str
) -> key_service_pb2.ImportKeysResponse:
    """What became of each."""
    return key_service_pb2.ImportKeysResponse(
        results=[_result(result, now=now, request_id=request_id) for result in imported.results],
        revision=imported.revision,
        propagation=PROPAGATIONS[imported.propagation],
        effective_at=timestamp_from(imported.effective_at),
    )


def report_leaked_keys_from(request: key_service_pb2.ReportLeakedKeysRequest) -> ReportLeakedKeys:
    """What a valid request reports."""
    return ReportLeakedKeys(
        leaked_keys=tuple(
            LeakedKey(api_key=leaked.api_key, url=leaked.url, source=leaked.source) for leaked in request.leaked_keys
        ),
        request_id=request.request_id,
    )


def reported_keys_response(reported: ReportedKeys) -> key_service_pb2.ReportLeakedKeysResponse:
    """Which of them were ours."""
    return key_service_pb2.ReportLeakedKeysResponse(
        results=[key_service_pb2.LeakedKeyResult(outcome=_REVOKED if ours else _NOT_OURS) for ours in reported.ours],
        propagation=PROPAGATIONS[reported.propagation],
        effective_at=timestamp_from(reported.effective_at),
    )


def _import_or_fault(item: key_service_pb2.ImportKey, *, at: str) -> ImportKey | TollkeeperError:
    try:
        IMPORT_KEY.check(item, at=at)
    except InvalidArgument as fault:
        return fault
    return ImportKey(key=create_key_from(item.key), credential=_credential_from(item))


def _credential_from(item: key_service_pb2.ImportKey) -> Credential:
    kind = item.WhichOneof("credential")
    if kind == "raw_api_key":
        return Credential(raw_api_key=item.raw_api_key)
    if kind == "sha256_hex":
        return Credential(digest=bytes.fromhex(item.sha256_hex), algorithm=Algorithm.SHA256)
    if kind == "sha256_base64url":
        return Credential(digest=urlsafe_b64decode(item.sha256_base64url + "="), algorithm=Algorithm.SHA256)
    if kind == "sha512_hex":
        return Credential(digest=bytes.fromhex(item.sha512_hex), algorithm=Algorithm.SHA512)
    hmac = item.hmac_sha256
    return Credential(digest=bytes.fromhex(hmac.hex), pepper_version=hmac.pepper_version)


def _result(result: Key | TollkeeperError, *, now: datetime, request_id: str) -> key_service_pb2.ImportKeyResult:
    if isinstance(result, TollkeeperError):
        return key_service_pb2.ImportKeyResult(error=status_of(result, request_id=request_id))
    return key_service_pb2.ImportKeyResult(key=key_message(result, now=now))
