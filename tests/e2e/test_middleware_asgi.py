"""The ASGI middleware before a real application, with a real Tollkeeper: who gets in, and what the others are told."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import websockets.asyncio.client
from websockets.exceptions import InvalidStatus

from tests.e2e.middleware_support import NOBODY, Keys, asking, bearer, make_keys, served
from tests.e2e.server_process import ServerProcess
from tollkeeper import AsyncClient, DecisionCode, Unavailable
from tollkeeper.middleware import Needs, current_decision
from tollkeeper.middleware._admission import _REFUSALS
from tollkeeper.middleware.asgi import TollkeeperMiddleware

NEEDS = Needs(resource="billing", permissions=["read"])


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, token=server.root_key) as client:
        yield client


@pytest.fixture
async def keys(client: AsyncClient) -> Keys:
    return await make_keys(client)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Tells whose key it was let in with, as a handler would find it; over WebSockets too."""
    if scope["type"] == "lifespan":
        for answer in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{answer}.complete"})
        return
    decision = scope.get("state", {}).get("tollkeeper")
    owner = "nobody" if decision is None else decision.key.owner_id
    assert decision is None or current_decision() is decision
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": owner})
        await send({"type": "websocket.close"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": owner.encode()})


async def test_an_allowed_request_reaches_the_application_with_its_decision(client: AsyncClient, keys: Keys) -> None:
    async with asking(TollkeeperMiddleware(app, client=client, needs=NEEDS)) as http:
        answer = await http.get("/", headers=bearer(keys.allowed))
    assert (answer.status_code, answer.text, answer.headers["x-own"]) == (200, "acme", "1")
    assert answer.headers["ratelimit-policy"] == '"per-minute";q=5'
    assert answer.headers["ratelimit"] in ('"per-minute";r=4;t=60', '"per-minute";r=4;t=59')


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("revoked", 401, "KEY_REVOKED"),
        ("disabled", 401, "KEY_DISABLED"),
        ("ip_denied", 403, "IP_DENIED"),
        ("resource_denied", 403, "RESOURCE_DENIED"),
        ("permission_denied", 403, "PERMISSION_DENIED"),
        ("rate_limited", 429, "RATE_LIMITED"),
        ("quota_exceeded", 429, "QUOTA_EXCEEDED"),
    ],
)
async def test_a_denied_request_is_answered_in_json_and_goes_no_further(
    kind: str, status: int, code: str, client: AsyncClient, keys: Keys
) -> None:
    api_key: str = getattr(keys, kind)
    async with asking(TollkeeperMiddleware(app, client=client, needs=NEEDS)) as http:
        answer = await http.get("/", headers=bearer(api_key))
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get("www-authenticate") == ('Bearer error="invalid_token"' if status == 401 else None)
    assert ("ratelimit" in answer.headers) == (status == 429)
    if "retry-after" in answer.headers:
        assert int(answer.headers["retry-after"]) == answer.json()["error"]["retry_after"] > 0
    assert api_key not in answer.text + str(answer.headers)


async def test_who_waits_as_long_as_told_gets_in(client: AsyncClient, keys: Keys) -> None:
    async with asking(TollkeeperMiddleware(app, client=client, needs=NEEDS)) as http:
        answers = [await http.get("/", headers=bearer(keys.allowed)) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert 0 < int(answers[5].headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    ("headers", "code", "challenge"),
    [
        ([], "KEY_MISSING", "Bearer"),
        ([("authorization", "Basic YTpi")], "KEY_MISSING", "Bearer"),
        ([("authorization", "Bearer ")], "KEY_MISSING", "Bearer"),
        ([("authorization", "Bearer tk_1"), ("authorization", "Bearer tk_2")], "KEY_MISSING", "Bearer"),
        ([("x-api-key", "tk_1")], "KEY_MISSING", "Bearer"),
        ([("authorization", "Bearer tk_unknown")], "KEY_INVALID", 'Bearer error="invalid_token"'),
        ([("authorization", "bearer tk_unknown")], "KEY_INVALID", 'Bearer error="invalid_token"'),
        ([("authorization", f"Bearer {'k' * 5000}")], "KEY_INVALID", 'Bearer error="invalid_token"'),
        ([("authorization", "Bearer tk_\u00e4")], "KEY_INVALID", 'Bearer error="invalid_token"'),
    ],
)
async def test_without_a_good_api_key_nobody_gets_in(
    headers: list[tuple[str, str]], code: str, challenge: str, client: AsyncClient
) -> None:
    sent = [(name, value.encode("latin-1")) for name, value in headers]
    async with asking(TollkeeperMiddleware(app, client=client)) as http:
        answer = await http.get("/", headers=sent)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == code
    assert answer.headers["www-authenticate"] == challenge


async def test_a_header_of_choice_carries_the_api_key_plain(client: AsyncClient, keys: Keys) -> None:
    middleware = TollkeeperMiddleware(app, client=client, needs=NEEDS, api_key_header="X-API-Key", rate_headers=False)
    async with asking(middleware) as http:
        allowed = await http.get("/", headers={"x-api-key": keys.allowed})
        other = await http.get("/", headers=bearer(keys.allowed))
    assert (allowed.status_code, allowed.text) == (200, "acme")
    assert "ratelimit" not in allowed.headers
    assert other.status_code == 401
    assert "www-authenticate" not in other.headers


async def test_what_is_needed_is_told_by_route_and_may_be_nothing(client: AsyncClient, keys: Keys) -> None:
    def needs(scope: Any) -> Needs | None:
        if scope["path"] == "/health":
            return None
        permission = "write" if scope["method"] == "POST" else "read"
        return Needs(resource="billing", permissions=[permission], charges={"requests": 3})

    async with asking(TollkeeperMiddleware(app, client=client, needs=needs)) as http:
        assert (await http.get("/health")).text == "nobody"
        assert (await http.post("/", headers=bearer(keys.allowed))).status_code == 403
        answer = await http.get("/", headers=bearer(keys.allowed))
        assert answer.headers["ratelimit"].startswith('"per-minute";r=2')
        assert (await http.get("/", headers=bearer(keys.allowed))).status_code == 429


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "status"),
    [
        (0, "10.1.2.3", [], 200),
        (0, "192.0.2.1", ["10.1.2.3"], 403),  # anyone can say so
        (1, "192.0.2.9", ["192.0.2.1, 10.1.2.3"], 200),
        (1, "10.0.0.9", ["10.1.2.3, 192.0.2.1"], 403),
        (2, "192.0.2.9", ["10.1.2.3", "192.0.2.8"], 200),
        (2, "10.0.0.9", ["10.1.2.3"], 403),  # not through both
        (1, "10.0.0.9", ["somebody"], 403),
        (0, "unix", [], 403),
    ],
)
async def test_the_end_clients_address_is_of_the_peer_or_told_by_trusted_proxies(
    proxies: int, peer: str, forwarded: list[str], status: int, client: AsyncClient, keys: Keys
) -> None:
    middleware = TollkeeperMiddleware(app, client=client, needs=NEEDS, trusted_proxies=proxies)
    headers = [*bearer(keys.ip_denied).items(), *(("x-forwarded-for", value) for value in forwarded)]
    async with asking(middleware, peer=peer) as http:
        assert (await http.get("/", headers=headers)).status_code == status


@pytest.mark.parametrize("waits", [False, True], ids=["no server", "no server in time"])
async def test_what_could_not_be_decided_is_never_let_through(
    waits: bool, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    reached = False

    async def never(scope: Any, receive: Any, send: Any) -> None:
        nonlocal reached
        reached = True

    async with AsyncClient(NOBODY, token="tk_caller", wait_for_ready=waits, verify_timeout=0.3) as nowhere:
        with caplog.at_level(logging.DEBUG):
            async with asking(TollkeeperMiddleware(never, client=nowhere, needs=NEEDS)) as http:
                answer = await http.get("/", headers=bearer(keys.allowed))
    assert not reached
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {
        "error": {
            "code": "UNAVAILABLE",
            "message": "the API key could not be checked; try again later",
            "retry_after": 1,
        }
    }
    assert "could not be checked" in caplog.text
    assert keys.allowed not in caplog.text + answer.text
    assert "tk_caller" not in caplog.text


async def test_a_real_server_takes_it_and_the_client_it_makes_ends_with_it(
    server: ServerProcess, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLKEEPER_ADDRESS", server.address)
    monkeypatch.setenv("TOLLKEEPER_TOKEN", server.root_key)
    made: list[AsyncClient] = []

    def make() -> AsyncClient:
        made.append(AsyncClient.from_env(near_cache=True))
        return made[-1]

    async with (
        served(TollkeeperMiddleware(app, client=make, needs=NEEDS)) as place,
        httpx.AsyncClient(base_url=f"http://{place}", trust_env=False) as http,
    ):
        assert (await http.get("/", headers=bearer(keys.allowed))).text == "acme"
        assert (await http.get("/", headers=bearer(keys.revoked))).status_code == 401
    assert len(made) == 1
    with pytest.raises(Unavailable, match="the client is closed"):
        await made[0].verify(keys.disabled)


async def test_websockets_are_let_in_by_key_and_refused_with_a_status_before_they_open(
    client: AsyncClient, keys: Keys
) -> None:
    async with served(TollkeeperMiddleware(app, client=client, needs=NEEDS)) as place:
        connect = websockets.asyncio.client.connect
        async with connect(f"ws://{place}/", additional_headers=bearer(keys.allowed), proxy=None) as socket:
            assert await socket.recv() == "acme"
            assert socket.response is not None
            assert "per-minute" in socket.response.headers["ratelimit"]
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://{place}/", additional_headers=bearer(keys.revoked), proxy=None):
                pass
    assert refused.value.response.status_code == 401
    assert refused.value.response.body is not None
    assert json.loads(refused.value.response.body)["error"]["code"] == "KEY_REVOKED"


@pytest.mark.parametrize(("kind", "close"), [("revoked", 1008), ("rate_limited", 1013)])
async def test_where_a_server_cannot_answer_a_websocket_it_is_closed(
    kind: str, close: int, client: AsyncClient, keys: Keys
) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {getattr(keys, kind)}".encode())]
    scope = {"type": "websocket", "path": "/", "headers": headers, "client": ("192.0.2.1", 1)}
    await TollkeeperMiddleware(app, client=client, needs=NEEDS)(scope, receive, send)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", close)]


async def test_a_protocol_that_is_not_known_is_not_let_through(client: AsyncClient) -> None:
    middleware = TollkeeperMiddleware(app, client=client)
    with pytest.raises(NotImplementedError, match="webtransport"):
        await middleware({"type": "webtransport"}, _nothing, _nothing)


async def _nothing(*_: Any) -> Any:
    raise AssertionError("nothing is to be received or sent")


def test_every_decision_that_denies_has_a_status_of_its_own() -> None:
    assert _REFUSALS.keys() == set(DecisionCode) - {DecisionCode.ALLOWED}
