"""Servers behind Envoy are restarted one after the other, and no client notices."""

import contextlib
import socket
import threading
import time
from collections import Counter
from pathlib import Path

from tests.e2e.server_process import ServerProcess, run
from tests.gateway.envoy import EnvoyProcess, example
from tests.gateway.http import ask
from tests.gateway.stack import edge_server, keep_service_key
from tests.gateway.upstream import Upstream
from tollkeeper import Client

DRAIN_SECONDS = 1.5
"""Longer than Envoy's health check of the example takes to notice: 0.5 s and what an answer takes."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Load:
    """Clients that ask again and again until the block ends, and what they got."""

    def __init__(self, port: int, api_key: str, *, clients: int) -> None:
        self._port = port
        self._api_key = api_key
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        self.statuses: Counter[int | str] = Counter()

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        headers = [("authorization", f"Bearer {self._api_key}")]
        while not self._over.is_set():
            try:
                answer = ask(self._port, "/v1/models", host="conduit.localhost", headers=headers)
                self.statuses[answer.status] += 1
            except OSError as error:
                self.statuses[str(error)] += 1


def healthy(envoy: EnvoyProcess) -> int:
    return envoy.stat("cluster.tollkeeper-edge.membership_healthy")


def wait_until_healthy(envoy: EnvoyProcess, servers: int) -> None:
    deadline = time.monotonic() + 20
    while healthy(envoy) != servers:
        assert time.monotonic() < deadline, f"{healthy(envoy)} servers are healthy"
        time.sleep(0.02)


def test_a_rolling_restart_fails_no_request(own_stores: dict[str, str], tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    settings = own_stores | {"DRAIN_SECONDS": str(DRAIN_SECONDS)}

    def start(port: int) -> ServerProcess:
        return edge_server(tmp_path / "data", **settings, EDGE_LISTEN=f"127.0.0.1:{port}")

    root_key = run("tollkeeper-server", "create-root-key", **own_stores).stdout.strip()
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream())
        servers = [start(port) for port in ports]
        for server in servers:
            stack.enter_context(server)
        with Client(servers[0].address, token=root_key) as client:
            keep_service_key(client, tmp_path / "service-key")
            api_key = client.create_key(tenant_id="conduit").api_key
        config = example(
            service_key_file=tmp_path / "service-key",
            endpoints={
                "tollkeeper": [servers[0].address],
                "tollkeeper-edge": [f"127.0.0.1:{port}" for port in ports],
                "upstream": [upstream.address],
            },
        )
        envoy = stack.enter_context(EnvoyProcess(config))
        wait_until_healthy(envoy, 2)
        with Load(envoy.ports["public"], api_key, clients=2) as load:
            for index, port in enumerate(ports):
                assert servers[index].stop() == 0
                servers[index] = stack.enter_context(start(port))
                wait_until_healthy(envoy, 2)
        assert set(load.statuses) == {200}
        assert load.statuses[200] > 100
