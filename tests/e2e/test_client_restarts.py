"""Two real servers on the same stores, restarted one after the other under load: no call fails."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess, run
from tests.e2e.under_load import free_ports, load
from tollkeeper import AsyncClient


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_rolling_restarts_of_real_servers_fail_no_call(
    workers: str, own_stores: dict[str, str], tmp_path: Path
) -> None:
    token = run("tollkeeper-server", "create-root-key", cwd=None, **own_stores).stdout.strip()
    settings = own_stores | {"DRAIN_SECONDS": "0.5", "WORKERS": workers}
    listens = [f"127.0.0.1:{port}" for port in free_ports(2)]
    with ExitStack() as stack:
        servers = {listen: start(stack, tmp_path, listen, settings) for listen in listens}
        async with AsyncClient("ipv4:" + ",".join(listens), token=token) as client:
            created = await client.create_key(name="used")
            async with load(client, api_key=created.api_key, key_id=created.key.key_id) as outcomes:
                for listen in listens:
                    await outcomes.more()
                    assert await asyncio.to_thread(servers[listen].stop) == 0
                    servers[listen] = await asyncio.to_thread(start, stack, tmp_path, listen, settings)
    assert outcomes.keys() == {"ok"}, outcomes


def start(stack: ExitStack, data_dir: Path, listen: str, settings: dict[str, str]) -> ServerProcess:
    return stack.enter_context(ServerProcess(data_dir, LISTEN=listen, **settings))
