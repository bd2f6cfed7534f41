"""For servers of ``grpc.aio``.

from tollkeeper.middleware import Needs, current_decision
from tollkeeper.middleware.grpc import TollkeeperInterceptor

server = grpc.aio.server(interceptors=[TollkeeperInterceptor(client, needs=Needs(resource="billing"))])
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from tollkeeper._async.client import AsyncClient
from tollkeeper.middleware._admission import (
    AUTHORIZATION,
    Needs,
    Refusal,
    Refused,
    Source,
    admit,
    client_address,
    shown_api_key,
)

ERROR_DOMAIN = "tollkeeper"
"""Of the ``google.rpc.ErrorInfo`` with which a call is refused; its reason is the decision code."""

STATUSES = {
    Refusal.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Refusal.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.UNDECIDED: grpc.StatusCode.UNAVAILABLE,
}

_ANYTHING = Needs()

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class TollkeeperInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls through whose API key is ALLOWED; refuses all others as UNAUTHENTICATED, PERMISSION_DENIED,
    RESOURCE_EXHAUSTED or UNAVAILABLE, with ``google.rpc`` details.

    Handlers, which have to be asynchronous, find the decision by ``current_decision()``.
    """

    def __init__(
        self,
        client: AsyncClient | Callable[[], AsyncClient],
        *,
        needs: Needs | Callable[[str], Needs | None] = _ANYTHING,
        api_key_header: str = AUTHORIZATION,
        trusted_proxies: int = 0,
    ) -> None:
        """``needs`` is what every call needs, or tells it by the method, as ``/package.Service/Method``; None needs no
        API key at all, as for health checks. The rest means what it means for ``TollkeeperMiddleware``, with metadata
        for headers. A client that is made here is closed by :meth:`close`.
        """
        self._source = Source(client)
        self._needs = needs
        self._header = api_key_header.lower()
        self._trusted_proxies = trusted_proxies

    async def close(self) -> None:
        """Close the client if it was made here; call it after the server has stopped."""
        await self._source.close()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Put the check before the handler of a method."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        needs = self._needs(method) if callable(self._needs) else self._needs
        if handler is None or needs is None:
            return handler
        return self._guarded(handler, needs, method)

    def _guarded(self, handler: Handler, needs: Needs, method: str) -> Handler:
        requests = "stream" if handler.request_streaming else "unary"
        responses = "stream" if handler.response_streaming else "unary"
        answer = getattr(handler, f"{requests}_{responses}")

        async def generate(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._admit(context, needs)
            async with aclosing(answer(request, context)) as messages:
                async for message in messages:
                    yield message

        async def respond(request: Any, context: Context) -> Any:
            await self._admit(context, needs)
            return await answer(request, context)

        if not inspect.isasyncgenfunction(answer) and not inspect.iscoroutinefunction(answer):
            raise TypeError(f"the handler of {method} must be asynchronous: others cannot be checked")
        guarded = generate if inspect.isasyncgenfunction(answer) else respond
        made: Handler = getattr(grpc, f"{requests}_{responses}_rpc_method_handler")(
            guarded, handler.request_deserializer, handler.response_serializer
        )
        return made

    async def _admit(self, context: Context, needs: Needs) -> None:
        try:
            await admit(
                self._source.client(),
                shown_api_key(_values(context, self._header), header=self._header),
                needs,
                client_ip=client_address(
                    _peer(context.peer()),
                    _values(context, "x-forwarded-for"),
                    trusted_proxies=self._trusted_proxies,
                ),
            )
        except Refused as refused:
            await _abort(context, refused)


async def _abort(context: Context, refused: Refused) -> NoReturn:
    status = STATUSES[refused.refusal]
    details: list[AnyMessage] = [AnyMessage()]
    details[0].Pack(error_details_pb2.ErrorInfo(reason=refused.code, domain=ERROR_DOMAIN))
    if refused.retry_after is not None:
        wait = Duration()
        wait.FromTimedelta(refused.retry_after)
        details.append(AnyMessage())
        details[1].Pack(error_details_pb2.RetryInfo(retry_delay=wait))
    rich = status_pb2.Status(code=status.value[0], message=refused.message, details=details)
    trailing = (("grpc-status-details-bin", rich.SerializeToString()),)
    await context.abort(status, refused.message, trailing_metadata=trailing)


def _values(context: Context, name: str) -> Sequence[str]:
    return [value for key, value in context.invocation_metadata() or () if key == name and isinstance(value, str)]


def _peer(name: str) -> str | None:
    """The IP address in gRPC's name for the other end; None if it has none, as a Unix socket."""
    scheme, _, place = unquote(name).partition(":")
    return place.rpartition(":")[0].strip("[]") if scheme in ("ipv4", "ipv6") else None
