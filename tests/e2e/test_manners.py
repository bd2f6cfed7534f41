"""A server's manners: what it tells of itself and to whom, how much it takes, and how it leaves."""

import asyncio
import signal
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.e2e.server_process import ServerProcess, run
from tollkeeper import AsyncClient
from tollkeeper.v1 import key_service_pb2, key_service_pb2_grpc, verification_service_pb2, verification_service_pb2_grpc

IS_BLOCKED = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'audit_events'::regclass"
"""Whether a mutation waits to be written to the audit log."""

Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def caller(server: ServerProcess) -> Metadata:
    return (("authorization", f"Bearer {server.root_key}"),)


def listed_services(channel: grpc.Channel, caller: Metadata | None = None) -> set[str]:
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="*")])
    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, metadata=caller, timeout=10)
    return {service.name for answer in answers for service in answer.list_services_response.service}


def test_reflection_tells_known_callers_what_is_served(channel: grpc.Channel, caller: Metadata) -> None:
    assert listed_services(channel, caller) == {
        "tollkeeper.v1.VerificationService",
        "tollkeeper.v1.KeyService",
        "tollkeeper.v1.UsageService",
        "tollkeeper.v1.AuditService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_reflection_tells_strangers_nothing(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        listed_services(channel)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_health_is_told_to_anyone_for_the_server_and_each_service(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "tollkeeper.v1.VerificationService", "tollkeeper.v1.KeyService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_metrics_count_calls_by_method_and_decisions_by_code(server: ServerProcess) -> None:
    with server.client() as client:
        client.verify(client.create_key().api_key)
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as page:
        text = page.read().decode()
    assert 'tollkeeper_calls_total{code="OK",method="Verify"}' in text
    assert 'tollkeeper_decisions_total{code="ALLOWED"}' in text
    assert "tollkeeper_redis_up 1.0" in text


def test_the_largest_batch_fits(channel: grpc.Channel, caller: Metadata) -> None:
    largest = verification_service_pb2.VerifyRequest(
        api_key="k" * 4096,
        resource="r" * 128,
        required_permissions=["p" * 62 + f"{number:02}" for number in range(32)],
        client_ip="2001:0db8:ffff:ffff:ffff:ffff:255.255.255.255",
        charges={"u" * 30 + f"{number:02}": 10**15 for number in range(16)},
        min_revision=1,
        dry_run=True,
        request_id="i" * 64,
        tenant_id="t" * 64,
    )
    batch = verification_service_pb2.BatchVerifyRequest(requests=[largest] * 1000)
    results = verification_service_pb2_grpc.VerificationServiceStub(channel).BatchVerify(
        batch, metadata=caller, timeout=60
    )
    assert {result.response.code for result in results.results} == {verification_service_pb2.DECISION_CODE_KEY_INVALID}


def test_a_message_beyond_eight_mebibytes_is_refused(channel: grpc.Channel, caller: Metadata) -> None:
    keys = key_service_pb2_grpc.KeyServiceStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        keys.CreateKey(key_service_pb2.CreateKeyRequest(description="d" * 2**23), metadata=caller, timeout=10)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_metadata_beyond_eight_kibibytes_is_refused(channel: grpc.Channel, caller: Metadata) -> None:
    keys = key_service_pb2_grpc.KeyServiceStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        keys.ListKeys(key_service_pb2.ListKeysRequest(), metadata=(*caller, ("x-long", "l" * 8 * 1024)), timeout=10)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_reflection_is_off_beside_own_stores_unless_it_is_asked_for(own_stores: dict[str, str], tmp_path: Path) -> None:
    token = run("tollkeeper-server", "create-root-key", **own_stores).stdout.strip()
    caller = (("authorization", f"Bearer {token}"),)
    with ServerProcess(tmp_path, **own_stores) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            listed_services(channel, caller)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with (
        ServerProcess(tmp_path, REFLECTION="on", **own_stores) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert "tollkeeper.v1.KeyService" in listed_services(channel, caller)


def test_who_watches_health_is_told_before_the_server_leaves(data_dir: Path) -> None:
    with ServerProcess(data_dir) as server, grpc.insecure_channel(server.address) as channel:
        seen = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(seen).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(seen).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert server.process.poll() is None
        assert not list(seen)
        assert server.ended() == 0


async def test_what_is_under_way_when_the_server_is_told_to_stop_is_finished(
    own_stores: dict[str, str], tmp_path: Path
) -> None:
    token = run("tollkeeper-server", "create-root-key", **own_stores).stdout.strip()
    blocker = await asyncpg.connect(own_stores["POSTGRES_URL"])
    with ServerProcess(tmp_path, DRAIN_SECONDS="0", **own_stores) as server:
        async with AsyncClient(server.address, token=token, timeout=30) as client:
            await blocker.execute("BEGIN; LOCK TABLE audit_events IN EXCLUSIVE MODE")
            creating = asyncio.create_task(client.create_key(name="late"))
            await eventually(lambda: blocker.fetchval(IS_BLOCKED))
            server.process.send_signal(signal.SIGTERM)
            await eventually(lambda: refuses_connections(server.address))
            await blocker.execute("COMMIT")
            assert (await creating).key.name == "late"
        assert await asyncio.to_thread(server.ended) == 0
    await blocker.close()


async def refuses_connections(address: str) -> bool:
    """Whether nobody listens there. Not tried: grpcio 1.78 can crash over connections that end as it shuts down."""
    port = int(address.rpartition(":")[2])
    return all(
        each.status != psutil.CONN_LISTEN or getattr(each.laddr, "port", 0) != port
        for each in psutil.net_connections(kind="tcp")
    )


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 (what is awaited happens in other processes)
            await asyncio.sleep(0.01)
