"""The README's examples of middleware, as they are written there, with a real Tollkeeper."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.e2e.server_process import ServerProcess
from tollkeeper import AsyncClient, CalendarWindow, Limit

README = (Path(__file__).resolve().parents[2] / "clients" / "python" / "README.md").read_text()
SECTION = README.partition("\n## In front of your service\n")[2].partition("\n## ")[0]
EXAMPLES = dict(zip(("asgi", "fastapi", "grpc"), re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL), strict=True))


@pytest.fixture(autouse=True)
def environment(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLKEEPER_ADDRESS", server.address)
    monkeypatch.setenv("TOLLKEEPER_TOKEN", server.root_key)


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, token=server.root_key) as client:
        yield client


def run(example: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": example}
    exec(compile(EXAMPLES[example], f"README.md ({example})", "exec"), names)
    return names


def bearer(api_key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"}


async def test_the_asgi_example(client: AsyncClient) -> None:
    created = await client.create_key(owner_id="acme", resources=["billing"], permissions=["read"])
    app = run("asgi")["app"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.example") as http:
        assert (await http.get("/health")).text == "ok"
        assert (await http.get("/invoices")).status_code == 401
        assert (await http.get("/invoices", headers=bearer(created.api_key))).text == "acme"
        await client.revoke_key(created.key.key_id)
        assert (await http.get("/invoices", headers=bearer(created.api_key))).status_code == 401


async def test_the_fastapi_example(client: AsyncClient) -> None:
    created = await client.create_key(
        owner_id="acme",
        resources=["billing"],
        permissions=["read"],
        limits=[Limit.spend("daily", "1.00", CalendarWindow.DAY)],
    )
    names = run("fastapi")
    app = names["app"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.example") as http:
        assert (await http.get("/invoices", headers=bearer(created.api_key))).json() == "acme"
        assert (await http.post("/chat", headers=bearer(created.api_key))).status_code == 403
    everything = await client.create_key(limits=[Limit.spend("daily", "1.00", CalendarWindow.DAY)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.example") as http:
        assert (await http.post("/chat", headers=bearer(everything.api_key))).status_code == 200
    report = await client.check_quota(key_id=everything.key.key_id)
    assert report.limit("daily").used == 12_500
    async with names["keys"].lifespan(app):
        pass


async def test_the_grpc_example(client: AsyncClient) -> None:
    created = await client.create_key(owner_id="acme", resources=["billing"])
    names = run("grpc")
    server = names["server"]()
    handlers: dict[str, Any] = {"WhoAmI": grpc.unary_unary_rpc_method_handler(names["whoami"])}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("example.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask: Any = channel.unary_unary("/example.Service/WhoAmI")
            metadata = [("authorization", f"Bearer {created.api_key}")]
            assert await ask(b"", metadata=metadata, timeout=10) == b"acme"
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(b"", timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        await server.stop(None)
