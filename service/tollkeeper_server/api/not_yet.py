"""What the contract promises and this server cannot do yet. It is refused in so many words, never half done."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, NoReturn

from tollkeeper.v1 import limit_pb2, verification_service_pb2
from tollkeeper_server.api.handler import Call, Handler, rpc
from tollkeeper_server.core.caller import CallerPermission
from tollkeeper_server.core.errors import Unimplemented


def unary_rpc(permission: CallerPermission | None) -> Handler:
    """Answers an RPC that is not there yet."""

    @rpc(permission)
    async def answer(_servicer: Any, _request: Any, _call: Call) -> NoReturn:
        _refuse("this call")

    return answer


def stream_rpc(permission: CallerPermission) -> Handler:
    """As ``unary_rpc``, for streams."""

    @rpc(permission)
    async def answer(_servicer: Any, _requests: Any, _call: Call) -> AsyncIterator[NoReturn]:
        _refuse("this call")
        yield  # type: ignore[unreachable]  # makes it a generator

    return answer


def refuse_hard_limits(limits: Iterable[limit_pb2.Limit]) -> None:
    """Raise Unimplemented for QUOTA and SPEND limits."""
    if any(limit.kind != limit_pb2.LIMIT_KIND_RATE for limit in limits):
        _refuse("a limit of kind QUOTA or SPEND")


def refuse_reservation(request: verification_service_pb2.VerifyRequest) -> None:
    """Raise Unimplemented for a charge to be settled later."""
    if request.reserve:
        _refuse("reserve")


def _refuse(feature: str) -> NoReturn:
    raise Unimplemented(f"{feature} is not available yet", reason="NOT_YET_AVAILABLE", metadata={"feature": feature})
