"""How a method of the client becomes a call to the server."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message

from tollkeeper._error_details import call_error
from tollkeeper._near_cache import NearCache

if TYPE_CHECKING:
    from tollkeeper.v1.audit_service_pb2_grpc import AuditServiceAsyncStub
    from tollkeeper.v1.key_service_pb2_grpc import KeyServiceAsyncStub
    from tollkeeper.v1.usage_service_pb2_grpc import UsageServiceAsyncStub
    from tollkeeper.v1.verification_service_pb2_grpc import VerificationServiceAsyncStub

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class AsyncStubs:
    """The generated stubs of every service, on the client's channel.

    They speak protobuf and raise gRPC's own errors. Give each call ``timeout`` and ``metadata=client.metadata``, and
    each mutation a ``request_id``: the channel repeats those that failed.
    """

    verification: "VerificationServiceAsyncStub"
    keys: "KeyServiceAsyncStub"
    usage: "UsageServiceAsyncStub"
    audit: "AuditServiceAsyncStub"


class AsyncCalls:
    """What the methods of every service need: the stubs, who calls, and how long a call may take."""

    _stubs: AsyncStubs
    _verify_rpc: Any
    """The stub's Verify, or what is called like it."""
    _metadata: tuple[tuple[str, str], ...]
    _timeout: float
    _verify_timeout: float
    _wait_for_ready: bool
    _near_cache: NearCache | None

    async def _call(
        self,
        rpc: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        timeout: float | None,
        timeout_default: float,
    ) -> Response:
        """The answer. Raises the CallError of the status if the call fails."""
        try:
            return await rpc(
                request,
                timeout=timeout_default if timeout is None else timeout,
                metadata=self._metadata,
                wait_for_ready=self._wait_for_ready,
            )
        except grpc.RpcError as error:
            method = request.DESCRIPTOR.name.removesuffix("Request")
            raise call_error(method, error) from error
