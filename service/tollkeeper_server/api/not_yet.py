"""What the contract promises and this server cannot do yet. It is refused in so many words, never half done."""

from collections.abc import AsyncIterator
from typing import Any, NoReturn

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


def _refuse(feature: str) -> NoReturn:
    raise Unimplemented(f"{feature} is not available yet", reason="NOT_YET_AVAILABLE", metadata={"feature": feature})
