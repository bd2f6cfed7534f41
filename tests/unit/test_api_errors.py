"""Every fault has one status, with the details that the contract promises, and small enough to arrive."""

from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2

from tests.tools.refusals import details_of
from tollkeeper_server.api.errors import STATUS_CODES, DeadlineExceeded, Internal, status_code, status_of
from tollkeeper_server.core.errors import (
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TollkeeperError,
    Unavailable,
    Violation,
)

STATUS_BYTES_MAX = 5000


def test_every_fault_has_a_status_code_of_its_own() -> None:
    assert set(STATUS_CODES) == set(TollkeeperError.__subclasses__())
    assert len(set(STATUS_CODES.values())) == len(STATUS_CODES)


def test_a_fault_that_is_a_kind_of_another_has_its_status_code() -> None:
    class Lost(Unavailable):
        """Known to its own part alone."""

    assert status_code(Lost("away", reason="LOST")) is grpc.StatusCode.UNAVAILABLE


def test_every_status_names_reason_domain_and_request() -> None:
    fault = NotFound("there is no such key", reason="KEY_NOT_FOUND", metadata={"key_id": "key_1"})
    status = status_of(fault, request_id="r-1")
    assert status.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert status.message == "there is no such key"
    assert details_of(status) == {
        "ErrorInfo": error_details_pb2.ErrorInfo(
            reason="KEY_NOT_FOUND", domain="tollkeeper", metadata={"key_id": "key_1"}
        ),
        "RequestInfo": error_details_pb2.RequestInfo(request_id="r-1"),
    }


def test_violations_come_all_at_once() -> None:
    fault = InvalidArgument([Violation("name", "must be short"), Violation("limits[2].window", "must be given")])
    status = status_of(fault, request_id="r")
    bad_request = details_of(status)["BadRequest"]
    assert [(each.field, each.description) for each in bad_request.field_violations] == [
        ("name", "must be short"),
        ("limits[2].window", "must be given"),
    ]
    assert status.message == "name: must be short; limits[2].window: must be given"


def test_more_violations_than_fit_in_a_status_are_counted() -> None:
    violations = [Violation(f"permissions[{index}]", "must be 1 to 64 of these characters") for index in range(500)]
    status = status_of(InvalidArgument(violations), request_id="r" * 64)
    bad_request = details_of(status)["BadRequest"]
    shown = len(bad_request.field_violations) - 1
    assert shown > 10
    assert bad_request.field_violations[-1].description == f"{500 - shown} more"
    assert status.message.endswith("and 497 more")
    assert status.ByteSize() < STATUS_BYTES_MAX


def test_no_text_grows_beyond_what_clients_take() -> None:
    fault = NotFound("ü" * 10_000, reason="KEY_NOT_FOUND", metadata={"key_id": "ü" * 10_000})
    assert status_of(fault, request_id="r").ByteSize() < STATUS_BYTES_MAX


@pytest.mark.parametrize(
    "fault",
    [
        Unavailable("away", reason="POSTGRES_UNAVAILABLE", retry_after=timedelta(milliseconds=1500)),
        ResourceExhausted("busy", reason="OVERLOADED", retry_after=timedelta(milliseconds=1500)),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_where_waiting_helps_the_status_says_how_long(fault: TollkeeperError) -> None:
    retry = details_of(status_of(fault, request_id="r"))["RetryInfo"]
    assert retry.retry_delay.ToTimedelta() == timedelta(milliseconds=1500)


@pytest.mark.parametrize("fault", [DeadlineExceeded(), Internal(), NotFound("x", reason="KEY_NOT_FOUND")])
def test_where_waiting_does_not_help_nothing_is_said_of_it(fault: TollkeeperError) -> None:
    assert "RetryInfo" not in details_of(status_of(fault, request_id="r"))
