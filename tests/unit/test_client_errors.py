"""Failed calls become typed errors that say what to do, and nothing secret."""

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tollkeeper import (
    CallError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    Unavailable,
    Violation,
    _error_details,
)
from tollkeeper._error_details import call_error, status_error

INFO = error_details_pb2.ErrorInfo(reason="INVALID_FIELDS", domain="tollkeeper", metadata={"field": "name"})
UNREADABLE = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
REQUEST = error_details_pb2.RequestInfo(request_id="r1")


class FailedCall(grpc.RpcError):
    """A call that failed with this status and these trailing metadata."""

    def __init__(self, code: grpc.StatusCode, message: str | None, *metadata: tuple[str, str | bytes]) -> None:
        self._answer = (code, message, metadata)

    def code(self) -> grpc.StatusCode:
        return self._answer[0]

    def details(self) -> str | None:
        return self._answer[1]

    def trailing_metadata(self) -> Any:
        return self._answer[2] or None


def status(code: grpc.StatusCode, message: str, *details: Message) -> status_pb2.Status:
    packed = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed.details.add().Pack(detail)
    return packed


def failed(code: grpc.StatusCode, message: str, *details: Message) -> FailedCall:
    serialized = status(code, message, *details).SerializeToString()
    return FailedCall(code, message, ("x-other", "1"), ("grpc-status-details-bin", serialized))


def test_an_error_says_which_call_what_why_and_where_to_look() -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="limits[0].amount", description="at least 0")
    bad.field_violations.add(field="name", description="at most 128 characters")
    error = call_error(
        "CreateKey", failed(grpc.StatusCode.INVALID_ARGUMENT, "limits[0].amount: at least 0; ...", INFO, bad, REQUEST)
    )
    assert isinstance(error, InvalidArgument)
    assert str(error) == (
        "[CreateKey] INVALID_ARGUMENT limits[0].amount: at least 0; ... (INVALID_FIELDS) [request-id: r1]"
    )
    assert error.violations == (
        Violation("limits[0].amount", "at least 0"),
        Violation("name", "at most 128 characters"),
    )
    assert (error.method, error.status, error.reason) == ("CreateKey", "INVALID_ARGUMENT", "INVALID_FIELDS")
    assert (error.metadata, error.request_id) == ({"field": "name"}, "r1")


def test_an_error_says_when_to_come_back() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(timedelta(seconds=1.5))
    error = call_error("GetKey", failed(grpc.StatusCode.UNAVAILABLE, "away", retry))
    assert isinstance(error, Unavailable)
    assert error.retry_after == timedelta(seconds=1.5)


def test_every_status_of_grpc_has_an_error() -> None:
    assert _error_details.ERRORS.keys() == set(grpc.StatusCode) - {grpc.StatusCode.OK}


def test_an_error_of_a_server_that_never_answered_stays_readable() -> None:
    error = call_error("Verify", FailedCall(grpc.StatusCode.UNAVAILABLE, "connection refused"))
    assert str(error) == "[Verify] UNAVAILABLE connection refused"
    assert (error.reason, error.request_id, error.retry_after, error.violations) == ("", "", None, ())


def test_a_deadline_says_that_nobody_answered_in_time() -> None:
    error = call_error("Verify", FailedCall(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
    assert isinstance(error, DeadlineExceeded)
    assert str(error) == "[Verify] DEADLINE_EXCEEDED no answer within the timeout"


@pytest.mark.parametrize(
    "details",
    [
        b"\xff\xff\xff",
        status(grpc.StatusCode.OK, "fine").SerializeToString(),
        status_pb2.Status(code=5, details=[UNREADABLE]).SerializeToString(),
    ],
    ids=["not a status", "another status", "a detail that is not readable"],
)
def test_details_that_make_no_sense_do_not_hide_the_error(details: bytes) -> None:
    error = call_error("GetKey", FailedCall(grpc.StatusCode.NOT_FOUND, "no key", ("grpc-status-details-bin", details)))
    assert error.status == "NOT_FOUND"


@pytest.mark.parametrize("code", [0, 99])
def test_an_item_of_a_batch_with_a_status_that_is_no_error_is_an_error_still(code: int) -> None:
    error = status_error("Verify", status_pb2.Status(code=code, message="?"))
    assert isinstance(error, Internal)
    assert isinstance(error, CallError)
