"""From a failed gRPC call to a typed error: status, ``google.rpc`` details and all."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tollkeeper._errors import (
    Aborted,
    AlreadyExists,
    CallError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Violation,
)

ERRORS: dict[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # A server that goes down cancels what it could not finish; a caller's own cancellation never gets here.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.UNKNOWN: Internal,
    grpc.StatusCode.DATA_LOSS: Internal,
    grpc.StatusCode.OUT_OF_RANGE: Internal,
}

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in ERRORS}
_DETAILS_KEY = "grpc-status-details-bin"


class _FailedCall(Protocol):
    """What every grpc.RpcError of a finished call can tell, sync and async."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def call_error(method: str, error: grpc.RpcError) -> CallError:
    """The typed error of a failed call."""
    call = cast("_FailedCall", error)
    code = call.code()
    status = status_pb2.Status(code=code.value[0], message=call.details() or "")
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            status = _parsed(value, fallback=status)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and not status.details:
        status.message = "no answer within the timeout"
    return status_error(method, status)


def status_error(method: str, status: status_pb2.Status) -> CallError:
    """The typed error of a ``google.rpc.Status``, as a call or one item of a batch carries it."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    facts: dict[str, Any] = {}
    for detail in status.details:
        facts |= _facts(detail)
    return ERRORS[code](method, code.name, status.message, **facts)


def _parsed(serialized: bytes, *, fallback: status_pb2.Status) -> status_pb2.Status:
    try:
        status = status_pb2.Status.FromString(serialized)
    except DecodeError:
        return fallback
    # The code on the wire is the one that proxies and retries acted on.
    return status if status.code == fallback.code else fallback


def _facts(detail: Any) -> dict[str, Any]:
    """What one detail says, as arguments of CallError; nothing for a detail that is not known or not readable."""
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    call = error_details_pb2.RequestInfo()
    try:
        if detail.Unpack(info):
            return {"reason": info.reason, "metadata": dict(info.metadata)}
        if detail.Unpack(request):
            violations = [Violation(each.field, each.description) for each in request.field_violations]
            return {"violations": violations}
        if detail.Unpack(retry):
            delay: timedelta = retry.retry_delay.ToTimedelta()
            return {"retry_after": delay}
        if detail.Unpack(call):
            return {"request_id": call.request_id}
    except DecodeError:
        pass
    return {}
