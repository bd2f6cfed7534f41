"""What the tests of the middleware share: keys of every kind, and a real HTTP server around an application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import uvicorn

from tollkeeper import AsyncClient, Limit

NOBODY = "127.0.0.1:1"
"""An address where no server is."""


@dataclass(frozen=True)
class Keys:
    """API keys, named by what becomes of a request for ``billing`` with ``read`` from 192.0.2.1."""

    allowed: str
    revoked: str
    disabled: str
    ip_denied: str
    resource_denied: str
    permission_denied: str
    rate_limited: str
    quota_exceeded: str


async def make_keys(client: AsyncClient) -> Keys:
    """Keys for one test."""

    async def make(**fields: Any) -> tuple[str, str]:
        given = {"permissions": ["read"], "resources": ["billing"], **fields}
        created = await client.create_key(**given)
        return created.api_key, created.key.key_id

    revoked, revoked_id = await make()
    await client.revoke_key(revoked_id)
    disabled, disabled_id = await make()
    await client.disable_key(disabled_id)
    return Keys(
        allowed=(await make(limits=[Limit.rate("per-minute", 5, timedelta(minutes=1))], owner_id="acme"))[0],
        revoked=revoked,
        disabled=disabled,
        ip_denied=(await make(allowed_cidrs=["10.0.0.0/8"]))[0],
        resource_denied=(await make(resources=["shipping"]))[0],
        permission_denied=(await make(permissions=["write"]))[0],
        rate_limited=(await make(limits=[Limit.rate("none", 0, timedelta(minutes=1))]))[0],
        quota_exceeded=(await make(limits=[Limit.quota("none", 0, timedelta(days=1), unit="requests")]))[0],
    )


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve an application over HTTP on loopback; gives its host and port."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="on"))
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:  # noqa: ASYNC110 (it tells nobody)
                await asyncio.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        await serving


def asking(app: Any, *, peer: str = "192.0.2.1") -> httpx.AsyncClient:
    """A client of an ASGI application, which sees it at address ``peer``."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(peer, 4711)), base_url="http://api.example")


def bearer(api_key: str) -> dict[str, str]:
    """The header that carries the API key."""
    return {"authorization": f"Bearer {api_key}"}
