"""Faults as gRPC statuses with ``google.rpc`` details: the one place where they are mapped.

Every status carries ErrorInfo and RequestInfo; BadRequest names the fields at fault, RetryInfo tells when to come back.
A unary call gets its status in trailing metadata, which clients bound to a few KiB, so details are cut to fit.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tollkeeper_server.api.convert import duration_from
from tollkeeper_server.core import errors
from tollkeeper_server.core.errors import InvalidArgument, ResourceExhausted, TollkeeperError, Unavailable, Violation

Context = grpc.aio.ServicerContext[Any, Any]

ERROR_DOMAIN = "tollkeeper"

_DETAILS_METADATA = "grpc-status-details-bin"
_PUSHBACK_METADATA = "grpc-retry-pushback-ms"
_TEXT_MAX = 600
_METADATA_VALUE_MAX = 256
_VIOLATIONS_MAX = 2048
"""Room for all violations together. All three count characters."""
_VIOLATIONS_IN_TEXT = 3


class DeadlineExceeded(TollkeeperError):
    """The work was not done in time; what it changed, if anything, is not known."""

    def __init__(self) -> None:
        super().__init__("the call was not finished in time", reason="DEADLINE_EXCEEDED")


class Internal(TollkeeperError):
    """A mistake of ours. Says nothing about it: the log has it under the same request id."""

    def __init__(self) -> None:
        super().__init__("an unexpected error happened; the server's log has it", reason="INTERNAL")


STATUS_CODES: dict[type[TollkeeperError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Internal: grpc.StatusCode.INTERNAL,
}


def status_code(fault: TollkeeperError) -> grpc.StatusCode:
    """The gRPC status code of a fault: that of its class, or of the nearest one that has a code."""
    return next(STATUS_CODES[kind] for kind in type(fault).__mro__ if kind in STATUS_CODES)


def status_of(fault: TollkeeperError, *, request_id: str) -> status_pb2.Status:
    """The whole status of a fault, as items of batches carry it."""
    number, _ = status_code(fault).value
    status = status_pb2.Status(code=number, message=_text(fault))
    for detail in _details(fault, request_id):
        status.details.add().Pack(detail)
    return status


async def abort(context: Context, fault: TollkeeperError, *, request_id: str) -> NoReturn:
    """End the call with the fault's status."""
    status = status_of(fault, request_id=request_id)
    trailing = [(_DETAILS_METADATA, status.SerializeToString())]
    if isinstance(fault, ResourceExhausted | Unavailable):
        trailing.append((_PUSHBACK_METADATA, str(fault.retry_after // timedelta(milliseconds=1))))
    await context.abort(status_code(fault), status.message, tuple(trailing))


def _text(fault: TollkeeperError) -> str:
    if not isinstance(fault, InvalidArgument) or len(fault.violations) <= _VIOLATIONS_IN_TEXT:
        return _cut(fault.message, _TEXT_MAX)
    shown = "; ".join(f"{each.field}: {each.description}" for each in fault.violations[:_VIOLATIONS_IN_TEXT])
    return f"{_cut(shown, _TEXT_MAX)}; and {len(fault.violations) - _VIOLATIONS_IN_TEXT} more"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _details(fault: TollkeeperError, request_id: str) -> Iterator[Message]:
    facts = {name: _cut(value, _METADATA_VALUE_MAX) for name, value in fault.metadata.items()}
    yield error_details_pb2.ErrorInfo(reason=fault.reason, domain=ERROR_DOMAIN, metadata=facts)
    if isinstance(fault, InvalidArgument):
        yield _bad_request(fault.violations)
    if isinstance(fault, ResourceExhausted | Unavailable):
        yield error_details_pb2.RetryInfo(retry_delay=duration_from(fault.retry_after))
    yield error_details_pb2.RequestInfo(request_id=request_id)


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    """As many violations as fit; if not all do, the last one says how many are left out."""
    bad_request = error_details_pb2.BadRequest()
    room = _VIOLATIONS_MAX
    for shown, violation in enumerate(violations):
        room -= len(violation.field) + len(violation.description)
        if room < 0:
            bad_request.field_violations.add(description=f"{len(violations) - shown} more")
            break
        bad_request.field_violations.add(field=violation.field, description=violation.description)
    return bad_request
