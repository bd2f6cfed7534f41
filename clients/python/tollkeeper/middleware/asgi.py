"""For ASGI applications, as those of Starlette, FastAPI, Litestar, Quart and Django.

from starlette.applications import Starlette
from tollkeeper import AsyncClient
from tollkeeper.middleware import Needs
from tollkeeper.middleware.asgi import TollkeeperMiddleware

app = Starlette(routes=[...])
app.add_middleware(TollkeeperMiddleware, client=AsyncClient.from_env, needs=Needs(resource="billing"))
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tollkeeper._async.client import AsyncClient
from tollkeeper._decisions import Decision
from tollkeeper.middleware import _http
from tollkeeper.middleware._admission import Needs, Refused, Source, admit, client_address, shown_api_key

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ANYTHING = Needs()


class TollkeeperMiddleware:
    """Lets requests and WebSockets through whose API key is ALLOWED, and answers 401, 403, 429 or 503 to all others.

    The application finds the decision in ``scope["state"]["tollkeeper"]``, in Starlette and FastAPI
    ``request.state.tollkeeper``, and by ``current_decision()``.
    """

    def __init__(
        self,
        app: App,
        *,
        client: AsyncClient | Callable[[], AsyncClient],
        needs: Needs | Callable[[Scope], Needs | None] = _ANYTHING,
        api_key_header: str = "authorization",
        trusted_proxies: int = 0,
        rate_headers: bool = True,
    ) -> None:
        """``client`` is a client; or makes one, as ``AsyncClient.from_env`` does, in the event loop that serves, and
        that one is closed with the application.

        ``needs`` is what every request needs, or tells it by the scope of each; None needs no API key at all.
        ``api_key_header`` is where the API key is: in ``authorization`` as ``Bearer <API key>``, in any other header
        plain. ``trusted_proxies`` is how many proxies in front add to ``x-forwarded-for``; with 0 the end client is
        whoever is connected. ``rate_headers`` tells the limits in ``RateLimit`` and ``RateLimit-Policy``.
        """
        self._app = app
        self._source = Source(client)
        self._needs = needs
        self._header = api_key_header.lower()
        self._trusted_proxies = trusted_proxies
        self._rate_headers = rate_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            raise NotImplementedError(f"nobody knows how to check an API key over {scope['type']}")
        needs = self._needs(scope) if callable(self._needs) else self._needs
        if needs is None:
            await self._app(scope, receive, send)
            return
        try:
            decision = await self._admit(scope, needs)
        except Refused as refused:
            await self._refuse(refused, scope, receive, send)
            return
        scope.setdefault("state", {})["tollkeeper"] = decision
        headers = _http.rate_headers(decision.limits) if self._rate_headers else {}
        await self._app(scope, receive, _adding(headers, send) if headers else send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closed(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._source.close()  # before the server is told that all is done, and ends the event loop
            await send(message)

        try:
            await self._app(scope, receive, send_closed)
        finally:
            await self._source.close()

    async def _admit(self, scope: Scope, needs: Needs) -> Decision:
        peer = scope.get("client")
        return await admit(
            self._source.client(),
            shown_api_key(_values(scope, self._header), header=self._header),
            needs,
            client_ip=client_address(
                peer[0] if peer else None,
                _values(scope, "x-forwarded-for") if self._trusted_proxies else (),
                trusted_proxies=self._trusted_proxies,
            ),
        )

    async def _refuse(self, refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
        socket = scope["type"] == "websocket"
        if socket:
            await receive()  # its connect
        if not _http.takes_status(scope):
            await send({"type": "websocket.close", "code": _http.close_code(refused), "reason": refused.code})
            return
        content = _http.body(refused)
        headers = _http.refusal_headers(refused, api_key_header=self._header, rates=self._rate_headers)
        headers |= {"content-type": "application/json", "content-length": str(len(content))}
        response = "websocket.http.response" if socket else "http.response"
        status = _http.STATUSES[refused.refusal]
        await send({"type": f"{response}.start", "status": status, "headers": _encoded(headers)})
        await send({"type": f"{response}.body", "body": content})


def _values(scope: Scope, header: str) -> list[str]:
    wanted = header.encode("latin-1")
    return [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == wanted]


def _adding(headers: _http.Headers, send: Send) -> Send:
    """``send``, with these headers in the answer."""

    async def sending(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            message = {**message, "headers": [*message.get("headers", ()), *_encoded(headers)]}
        await send(message)

    return sending


def _encoded(headers: _http.Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
