"""When calls pile up before a slow store, what can wait is refused first, and what cannot wait last."""

import asyncio
import urllib.request
from datetime import timedelta
from pathlib import Path

import asyncpg
import grpc
import pytest

from tests.e2e.server_process import ServerProcess, run
from tests.e2e.under_load import eventually
from tollkeeper import AsyncClient, ResourceExhausted
from tollkeeper.v1 import verification_service_pb2


def under_way(server: ServerProcess, method: str) -> int:
    """How many calls of ``method`` the server has begun and not answered."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    name = f'tollkeeper_calls_in_flight{{method="{method}"}} '
    return next((int(float(line.removeprefix(name))) for line in lines if line.startswith(name)), 0)


async def verified(client: AsyncClient, api_key: str) -> bool:
    """Whether it is allowed, by a call of its own: the client would send it along a stream."""
    request = verification_service_pb2.VerifyRequest(api_key=api_key)
    answer = await client.stubs.verification.Verify(request, metadata=client.metadata, timeout=9)
    return answer.code == verification_service_pb2.DECISION_CODE_ALLOWED


async def test_management_gives_way_first_then_quota_checks_then_verifications(
    own_stores: dict[str, str], tmp_path: Path
) -> None:
    token = run("tollkeeper-server", "create-root-key", **own_stores).stdout.strip()
    blocker = await asyncpg.connect(own_stores["POSTGRES_URL"])
    settings = own_stores | {"CALLS_MAX": "10", "POSTGRES_POOL_SIZE": "20"}
    with ServerProcess(tmp_path, **settings) as server:
        async with AsyncClient(server.address, token=token, timeout=9, verify_timeout=9) as client:
            created = [await client.create_key() for _ in range(6)]
            known = created.pop().api_key
            await blocker.execute("BEGIN; LOCK TABLE audit_events IN EXCLUSIVE MODE")  # no mutation gets through

            waiting = [asyncio.create_task(client.create_key()) for _ in range(5)]
            await eventually(lambda: under_way(server, "CreateKey") == 5)
            with pytest.raises(ResourceExhausted) as refused:
                await client.get_key(created[0].key.key_id)
            assert (refused.value.reason, refused.value.retry_after) == ("OVERLOADED", timedelta(seconds=1))
            assert (await client.check_quota(api_key=known)).allowed
            assert await verified(client, known)

            revoking = [asyncio.create_task(client.revoke_key(each.key.key_id)) for each in created[:2]]
            await eventually(lambda: under_way(server, "RevokeKey") == 2)
            with pytest.raises(ResourceExhausted):
                await client.check_quota(api_key=known)
            assert await verified(client, known)

            revoking += [asyncio.create_task(client.revoke_key(each.key.key_id)) for each in created[2:]]
            await eventually(lambda: under_way(server, "RevokeKey") == 5)
            with pytest.raises(grpc.aio.AioRpcError) as last:
                await verified(client, known)
            assert last.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

            await blocker.execute("COMMIT")
            await asyncio.gather(*waiting, *revoking)
            assert (await client.get_key(created[0].key.key_id)).revoked_at is not None
            assert await verified(client, known)
    await blocker.close()
