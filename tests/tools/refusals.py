"""What tests look at in a call that a server refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


class Details(dict[str, Any]):
    """``google.rpc`` details by the name of their type; each type comes once."""

    @property
    def reason(self) -> str:
        return str(self["ErrorInfo"].reason)

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self["ErrorInfo"].metadata)

    @property
    def request_id(self) -> str:
        return str(self["RequestInfo"].request_id)

    @property
    def fields(self) -> list[str]:
        return [violation.field for violation in self["BadRequest"].field_violations]


def details_of(status: status_pb2.Status) -> Details:
    """The details of a status; ErrorInfo and RequestInfo are always there."""
    found = Details()
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        assert name not in found
        found[name] = getattr(error_details_pb2, name)()
        assert packed.Unpack(found[name])
    assert found["ErrorInfo"].domain == "tollkeeper"
    assert found.request_id
    return found


@contextmanager
def refused(code: grpc.StatusCode) -> Iterator[Details]:
    """Expects a call inside the block to be refused with ``code``; its details are there after the block."""
    details = Details()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield details
    assert caught.value.code() is code, caught.value.details()
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert status.message == caught.value.details()
    details.update(details_of(status))
