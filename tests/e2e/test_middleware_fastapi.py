"""The FastAPI dependency in a real application, with a real Tollkeeper."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
import websockets.asyncio.client
from fastapi import Depends, FastAPI, Request, WebSocket
from websockets.exceptions import InvalidStatus

from tests.e2e.middleware_support import NOBODY, Keys, asking, bearer, make_keys, served
from tests.e2e.server_process import ServerProcess
from tollkeeper import AsyncClient, Decision
from tollkeeper.middleware import current_decision
from tollkeeper.middleware.fastapi import ApiKeys


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, token=server.root_key) as client:
        yield client


@pytest.fixture
async def keys(client: AsyncClient) -> Keys:
    return await make_keys(client)


def application(api_keys: ApiKeys) -> FastAPI:
    app = FastAPI(lifespan=api_keys.lifespan)
    reads = api_keys.needed(resource="billing", permissions=["read"])

    @app.get("/invoices")
    async def invoices(request: Request, decision: Annotated[Decision, Depends(reads)]) -> dict[str, str]:
        assert decision.key is not None
        assert request.state.tollkeeper is decision
        assert current_decision() is decision
        return {"owner": decision.key.owner_id}

    @app.post("/invoices", dependencies=[Depends(api_keys.needed(resource="billing", permissions=["write"]))])
    def create() -> str:  # runs in a thread
        return current_decision().code

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.websocket("/feed")
    async def feed(socket: WebSocket, decision: Annotated[Decision, Depends(reads)]) -> None:
        assert decision.key is not None
        await socket.accept()
        await socket.send_text(decision.key.owner_id)
        await socket.close()

    return app


async def test_the_dependency_is_the_decision(client: AsyncClient, keys: Keys) -> None:
    async with asking(application(ApiKeys(client))) as http:
        answer = await http.get("/invoices", headers=bearer(keys.allowed))
        assert (answer.status_code, answer.json()) == (200, {"owner": "acme"})
        assert answer.headers["ratelimit"].startswith('"per-minute";r=4')
        assert (await http.get("/health")).json() == "ok"
        created = await http.post("/invoices", headers=bearer(keys.permission_denied))
        assert (created.status_code, created.json()) == (200, "ALLOWED")


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("revoked", 401, "KEY_REVOKED"),
        ("ip_denied", 403, "IP_DENIED"),
        ("resource_denied", 403, "RESOURCE_DENIED"),
        ("permission_denied", 403, "PERMISSION_DENIED"),
        ("rate_limited", 429, "RATE_LIMITED"),
    ],
)
async def test_denied_requests_are_answered_by_status(
    kind: str, status: int, code: str, client: AsyncClient, keys: Keys
) -> None:
    api_key: str = getattr(keys, kind)
    async with asking(application(ApiKeys(client))) as http:
        answer = await http.get("/invoices", headers=bearer(api_key))
    assert (answer.status_code, answer.json()["detail"]["code"]) == (status, code)
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert api_key not in answer.text


async def test_without_an_api_key_nobody_gets_in(client: AsyncClient) -> None:
    async with asking(application(ApiKeys(client))) as http:
        answer = await http.get("/invoices")
    assert (answer.status_code, answer.json()["detail"]["code"]) == (401, "KEY_MISSING")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_trusted_proxies_tell_the_end_clients_address(client: AsyncClient, keys: Keys) -> None:
    headers = bearer(keys.ip_denied) | {"x-forwarded-for": "192.0.2.1, 10.1.2.3"}
    async with asking(application(ApiKeys(client, trusted_proxies=1))) as http:
        assert (await http.get("/invoices", headers=headers)).status_code == 200
    async with asking(application(ApiKeys(client, api_key_header="X-API-Key"))) as http:
        assert (await http.get("/invoices", headers={"x-api-key": keys.allowed})).status_code == 200


async def test_what_could_not_be_decided_is_never_let_through(keys: Keys) -> None:
    async with (
        AsyncClient(NOBODY, token="tk_caller", wait_for_ready=False) as nowhere,
        asking(application(ApiKeys(nowhere))) as http,
    ):
        answer = await http.get("/invoices", headers=bearer(keys.allowed))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["detail"]["code"] == "UNAVAILABLE"


async def test_a_real_server_with_websockets_and_a_client_of_the_applications_own(
    server: ServerProcess, keys: Keys
) -> None:
    app = application(ApiKeys(lambda: AsyncClient(server.address, token=server.root_key)))
    async with served(app) as place:
        connect = websockets.asyncio.client.connect
        async with connect(f"ws://{place}/feed", additional_headers=bearer(keys.allowed), proxy=None) as socket:
            assert await socket.recv() == "acme"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://{place}/feed", additional_headers=bearer(keys.revoked), proxy=None):
                pass
    assert refused.value.response.status_code == 401
    assert b"KEY_REVOKED" in (refused.value.response.body or b"")


async def test_where_a_server_cannot_answer_a_websocket_it_is_closed(client: AsyncClient, keys: Keys) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {keys.revoked}".encode())]
    scope = {"type": "websocket", "path": "/feed", "headers": headers, "client": ("192.0.2.1", 1), "query_string": b""}
    await application(ApiKeys(client))(scope, receive, send)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]


async def test_the_description_says_how_to_show_the_api_key(client: AsyncClient) -> None:
    described = application(ApiKeys(client)).openapi()
    assert described["components"]["securitySchemes"] == {
        "API key": {"type": "http", "scheme": "bearer", "description": "An API key"}
    }
    assert described["paths"]["/invoices"]["get"]["security"] == [{"API key": []}]
    assert "security" not in described["paths"]["/health"]["get"]
    by_header = application(ApiKeys(client, api_key_header="X-API-Key")).openapi()["components"]["securitySchemes"]
    assert by_header == {"API key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}
