"""For routes of FastAPI: a dependency that is the decision. Needs the extra ``fastapi``.

from typing import Annotated
from fastapi import Depends, FastAPI
from tollkeeper import AsyncClient, Decision
from tollkeeper.middleware.fastapi import ApiKeys

keys = ApiKeys(AsyncClient.from_env)
app = FastAPI(lifespan=keys.lifespan)

@app.get("/invoices")
async def invoices(decision: Annotated[Decision, Depends(keys.needed(permissions=["read"]))]) -> str:
    return f"those of {decision.key.owner_id}"
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import HTTPException, Response, WebSocketException
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from tollkeeper._async.client import AsyncClient
from tollkeeper._decisions import Decision
from tollkeeper.middleware import _http
from tollkeeper.middleware._admission import (
    AUTHORIZATION,
    Needs,
    Refused,
    Source,
    admit,
    client_address,
    shown_api_key,
)


class ApiKeys:
    """Where API keys are found and who decides about them; :meth:`needed` makes the dependencies of an application."""

    def __init__(
        self,
        client: AsyncClient | Callable[[], AsyncClient],
        *,
        api_key_header: str = AUTHORIZATION,
        trusted_proxies: int = 0,
        rate_headers: bool = True,
    ) -> None:
        """The arguments mean what they mean for ``TollkeeperMiddleware``."""
        self.source = Source(client)
        self.header = api_key_header.lower()
        self.trusted_proxies = trusted_proxies
        self.rate_headers = rate_headers

    def needed(
        self,
        *,
        resource: str = "",
        permissions: Sequence[str] = (),
        charges: Mapping[str, int] | None = None,
        reserve: bool = False,
    ) -> "NeededApiKey":
        """A dependency that lets requests and WebSockets through whose API key is ALLOWED, and gives the decision.

        All others are answered 401, 403, 429 or 503.
        """
        return NeededApiKey(self, Needs(resource=resource, permissions=permissions, charges=charges, reserve=reserve))

    @asynccontextmanager
    async def lifespan(self, _app: Any) -> AsyncIterator[None]:
        """Closes the client with the application, if it was made here. Yours may do it by ``async with`` in its own."""
        try:
            yield
        finally:
            await self.source.close()


class NeededApiKey(SecurityBase):
    """A dependency; in the OpenAPI description it is a security scheme. :meth:`ApiKeys.needed` makes one."""

    def __init__(self, keys: ApiKeys, needs: Needs) -> None:
        self._keys = keys
        self._needs = needs
        self.scheme_name = "API key"
        if keys.header == AUTHORIZATION:
            self.model = HTTPBearerModel(description="An API key")
        else:
            self.model = APIKey.model_validate({"in": APIKeyIn.header, "name": keys.header})

    async def __call__(self, connection: HTTPConnection, response: Response) -> Decision:
        """The decision, which is also in ``request.state.tollkeeper``. Raises HTTPException, or WebSocketException."""
        keys = self._keys
        try:
            decision = await admit(
                keys.source.client(),
                shown_api_key(connection.headers.getlist(keys.header), header=keys.header),
                self._needs,
                client_ip=client_address(
                    connection.client.host if connection.client else None,
                    connection.headers.getlist("x-forwarded-for"),
                    trusted_proxies=keys.trusted_proxies,
                ),
            )
        except Refused as refused:
            raise self._refusal(refused, connection) from None
        connection.state.tollkeeper = decision
        if keys.rate_headers:
            response.headers.update(_http.rate_headers(decision.limits))
        return decision

    def _refusal(self, refused: Refused, connection: HTTPConnection) -> Exception:
        if not _http.takes_status(connection.scope):
            return WebSocketException(_http.close_code(refused), reason=refused.code)
        headers = _http.refusal_headers(refused, api_key_header=self._keys.header, rates=self._keys.rate_headers)
        return HTTPException(_http.STATUSES[refused.refusal], detail=_http.error(refused), headers=headers)
