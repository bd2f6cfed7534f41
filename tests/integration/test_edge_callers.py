"""Gateways are callers: known by a key, allowed to verify, and deciding about the keys of their own tenant alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from envoy.service.auth.v3 import external_auth_pb2 as pb
from envoy.service.auth.v3 import external_auth_pb2_grpc as pb_grpc
from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from tests.integration.api_support import ROOT, SECRET, Log, Metadata
from tests.unit.test_profile_faults import GOOD
from tollkeeper_server.api.handler import Gate
from tollkeeper_server.api.metrics import CallMetrics
from tollkeeper_server.app import Application, application
from tollkeeper_server.core.errors import Unavailable
from tollkeeper_server.edge.client_address import ClientAddress
from tollkeeper_server.edge.library import ProfileLibrary
from tollkeeper_server.edge.server import register_edge
from tollkeeper_server.keys.commands import CreateKey
from tollkeeper_server.settings import Settings, StoreUrls


class NobodyKnows:
    """Stands for an authenticator whose store is down."""

    async def authenticate(self, token: str, *, address: str) -> Any:
        raise Unavailable("down", reason="POSTGRES_UNAVAILABLE")


class Edge:
    """The server for gateways in this process, and what it takes to call it."""

    def __init__(self, channel: grpc.aio.Channel, parts: Application, log: Log) -> None:
        self.parts = parts
        self.log = log
        self._check: Any = pb_grpc.AuthorizationStub(channel).Check
        self._rate: Any = rls_pb2_grpc.RateLimitServiceStub(channel).ShouldRateLimit
        self.health: Any = health_pb2_grpc.HealthStub(channel).Check

    async def key(self, tenant_id: str, *permissions: str) -> str:
        created = await self.parts.keys.create(ROOT, CreateKey(tenant_id=tenant_id, permissions=permissions))
        return created.api_key

    async def gateway(self, tenant_id: str, *permissions: str) -> Metadata:
        api_key = await self.key(tenant_id, *(permissions or ("tollkeeper:verify",)))
        return (("authorization", f"Bearer {api_key}"),)

    async def check(self, metadata: Metadata, *, profile: str, api_key: str = "") -> pb.CheckResponse:
        request = pb.CheckRequest()
        request.attributes.context_extensions["profile"] = profile
        http = request.attributes.request.http
        http.method, http.path, http.host = "GET", "/api/a", "somewhere"
        if api_key:
            http.headers["authorization"] = f"Bearer {api_key}"
        return await self._check(request, metadata=metadata, timeout=5)

    async def rate(self, metadata: Metadata, *, domain: str) -> rls_pb2.RateLimitResponse:
        return await self._rate(rls_pb2.RateLimitRequest(domain=domain), metadata=metadata, timeout=5)


@asynccontextmanager
async def edge_on(profiles: Path, postgres_url: str, redis_url: str, **gate: Any) -> AsyncIterator[Edge]:
    settings = Settings(peppers={1: SECRET}, tag_keys={1: SECRET})  # type: ignore[arg-type]
    log = Log()
    async with application(settings, StoreUrls(postgres=postgres_url, redis=redis_url)) as parts:
        server = grpc.aio.server()
        guard = Gate(
            authenticator=parts.authenticator,
            metrics=CallMetrics(CollectorRegistry()),
            access_log=log.access_log,
            log=log,  # type: ignore[arg-type]
        )
        health = register_edge(
            server,
            gate=replace(guard, **gate),
            verifier=parts.verifier,
            quotas=parts.quotas,
            keys=parts.keys,
            profiles=ProfileLibrary(profiles, log=structlog.get_logger()),
            client_address=ClientAddress.parse("peer"),
            clock=lambda: datetime.now(UTC),
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Edge(channel, parts, log)
        finally:
            health.close()
            await server.stop(None)


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """The profile "api" of no tenant, "acme" of the tenant acme, and "worded", which has words for an outage."""
    unavailable = '  - codes: [UNAVAILABLE]\n    status: 503\n    body: \'{"sorry": "${code}"}\'\n'
    for name, more in (("api", ""), ("acme", "tenant: acme\n"), ("worded", f"{unavailable}tenant: acme\n")):
        text = GOOD.replace("profile: api", f"profile: {name}").replace("hosts: [api.example.com]", "hosts: []")
        (tmp_path / f"{name}.yaml").write_text(text + more)
    return tmp_path


@pytest.fixture
async def edge(profiles: Path, postgres_url: str, redis_url: str) -> AsyncIterator[Edge]:
    async with edge_on(profiles, postgres_url, redis_url) as edge:
        yield edge


def code_of(response: pb.CheckResponse) -> str:
    return str(response.dynamic_metadata.fields["code"].string_value)


async def test_a_gateway_that_shows_no_key_or_one_that_may_not_verify_is_refused(edge: Edge) -> None:
    unknown = (("authorization", "Bearer tk_" + "x" * 40),)
    reader = await edge.gateway("acme", "tollkeeper:keys.read")
    for metadata, code in (
        ((), grpc.StatusCode.UNAUTHENTICATED),
        (unknown, grpc.StatusCode.UNAUTHENTICATED),
        (reader, grpc.StatusCode.PERMISSION_DENIED),
    ):
        for call in (edge.check(metadata, profile="acme"), edge.rate(metadata, domain="acme")):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is code


async def test_health_needs_no_key(edge: Edge) -> None:
    for service in ("", "envoy.service.auth.v3.Authorization", "envoy.service.ratelimit.v3.RateLimitService"):
        health = await edge.health(health_pb2.HealthCheckRequest(service=service))
        assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_gateway_decides_about_the_keys_of_its_own_tenant_alone(edge: Edge) -> None:
    acme, other = await edge.key("acme", "read"), await edge.key("other", "read")
    gateway = await edge.gateway("acme")
    for profile in ("api", "acme"):
        assert code_of(await edge.check(gateway, profile=profile, api_key=acme)) == "ALLOWED"
        assert code_of(await edge.check(gateway, profile=profile, api_key=other)) == "KEY_INVALID"
    stranger = await edge.gateway("other")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await edge.check(stranger, profile="acme", api_key=acme)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_gateway_of_the_root_tenant_needs_a_profile_that_names_a_tenant(edge: Edge) -> None:
    acme = await edge.key("acme", "read")
    gateway = await edge.gateway("tollkeeper")
    assert code_of(await edge.check(gateway, profile="acme", api_key=acme)) == "ALLOWED"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await edge.check(gateway, profile="api", api_key=acme)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_while_nobody_can_be_known_a_gateway_hears_so_in_the_words_of_the_profile(
    profiles: Path, postgres_url: str, redis_url: str
) -> None:
    async with edge_on(profiles, postgres_url, redis_url, authenticator=NobodyKnows()) as edge:
        metadata = (("authorization", "Bearer whoever"),)
        api_key = await edge.key("acme", "read")
        response = await edge.check(metadata, profile="worded", api_key=api_key)
        assert response.status.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert code_of(response) == "UNAVAILABLE"
        assert not response.HasField("ok_response")
        for call in (edge.check(metadata, profile="acme", api_key=api_key), edge.rate(metadata, domain="acme")):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_access_log_tells_what_was_decided_and_never_a_key(edge: Edge) -> None:
    api_key, gateway = await edge.key("acme", "read"), await edge.gateway("acme")
    await edge.check(gateway, profile="acme", api_key=api_key)
    await edge.check(gateway, profile="nothing", api_key=api_key)
    allowed, refused = edge.log.lines
    assert (allowed["method"], allowed["decision"]) == ("Check", "ALLOWED")
    assert refused["reason"] == "PROFILE_UNKNOWN"
    assert api_key not in str(edge.log.lines)
