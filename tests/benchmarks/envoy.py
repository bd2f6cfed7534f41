"""Prints what a request through Envoy costs: without a check, and with one by Tollkeeper; the CPU of each process.

    python -m tests.benchmarks.envoy [--calls 2000] [--rounds 5] [--callers 1 16]

Envoy has one worker and answers by itself where a request is allowed, so that no upstream is measured. "CPU us" counts
Envoy alone; Tollkeeper, Valkey and Postgres stand beside it. Bursts take turns, as in the benchmark of Verify.
"""

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import uvloop

from tests.benchmarks.measure import HEADER, Series, burst
from tests.benchmarks.processes import stores_of
from tests.e2e.server_process import ServerProcess
from tests.gateway.envoy import Config, EnvoyProcess, connection_manager, example
from tests.gateway.stack import edge_address, edge_server, keep_service_key
from tollkeeper import Client, Limit

PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
UNLIMITED = 10**9
Ask = Callable[[], Awaitable[object]]


class Connections:
    """Keeps connections to Envoy open, and asks over whichever is free."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> None:
        """Send one request and read its answer, which has to be a 200."""
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"a request was refused: {head.decode()}")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or 0))
        self._free.append((reader, writer))

    async def close(self) -> None:
        """Close them all."""
        for _, writer in self._free:
            writer.close()
            await writer.wait_closed()


def answer_by_itself(config: Config) -> None:
    """Envoy answers what is allowed, writes no access log, and has a host whose requests it does not check."""
    manager = connection_manager(config, "public")
    del manager["access_log"]
    for host in manager["route_config"]["virtual_hosts"]:
        host["routes"] = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    manager["route_config"]["virtual_hosts"].append(
        {
            "name": "unchecked",
            "domains": ["unchecked.localhost"],
            "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
            "typed_per_filter_config": {"envoy.filters.http.ext_authz": {"@type": PER_ROUTE, "disabled": True}},
        }
    )


def request(host: str, path: str, *headers: str) -> bytes:
    """A request as `curl` sends it."""
    lines = [f"GET {path} HTTP/1.1", f"host: {host}.localhost", "user-agent: curl/8.0", "accept: */*", *headers, "", ""]
    return "\r\n".join(lines).encode()


@contextlib.contextmanager
def gateway(directory: Path) -> Iterator[tuple[EnvoyProcess, ServerProcess, dict[str, bytes]]]:
    """Envoy, Tollkeeper, and a request for each row of the table."""
    with edge_server(directory / "data", LOG_LEVEL="info") as server:
        with server.client() as client:
            keep_service_key(client, directory / "service-key")
            requests = requests_with_keys(client)
        endpoints = {"tollkeeper": [server.address], "tollkeeper-edge": [edge_address(server)]}
        config = example(service_key_file=directory / "service-key", endpoints=endpoints)
        answer_by_itself(config)
        with EnvoyProcess(config) as envoy:
            yield envoy, server, requests


def requests_with_keys(client: Client) -> dict[str, bytes]:
    """A request for each row of the table."""
    plain = client.create_key(tenant_id="conduit").api_key
    limits = [
        Limit.rate("per-minute", UNLIMITED, timedelta(minutes=1)),
        Limit.rate("per-day", UNLIMITED, timedelta(days=1)),
    ]
    product = client.create_key(tenant_id="ila", prefix="ila", length=76, resources=["a"], limits=limits).api_key
    return {
        "Envoy, no check": request("unchecked", "/v1/models", f"authorization: Bearer {plain}"),
        "Check, no limits": request("conduit", "/v1/models", f"authorization: Bearer {plain}"),
        "Check, two limits in four headers": request("product-slug", "/api/a", f"x-api-key: {product}"),
    }


async def measure(*, requests: int, rounds: int, callers: list[int]) -> None:
    """Run everything and print a table for each number of callers."""
    with (
        tempfile.TemporaryDirectory(prefix="tollkeeper-bench-") as directory,
        gateway(Path(directory)) as (envoy, server, rows),
    ):
        async with connected(envoy.ports["public"]) as connections:
            asks: dict[str, Ask] = {name: partial(connections.ask, sent) for name, sent in rows.items()}
            others = {"Tollkeeper": [server.process.pid], **stores_of(server.process)}
            for count in callers:
                await table(asks, others, pid=envoy.process.pid, requests=requests, callers=count, rounds=rounds)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connections]:
    """Connections that are closed in the end."""
    connections = Connections(port)
    try:
        yield connections
    finally:
        await connections.close()


async def table(
    asks: dict[str, Ask], others: dict[str, list[int]], *, pid: int, requests: int, callers: int, rounds: int
) -> None:
    """Bursts of every kind in turn, ``rounds`` times, and their table."""
    series = {name: Series(name, []) for name in asks}
    for ask in asks.values():
        await burst(ask, calls=requests // 4, callers=callers, pid=pid, others=others)  # warms up
    for _ in range(rounds):
        for name, ask in asks.items():
            series[name].bursts.append(await burst(ask, calls=requests, callers=callers, pid=pid, others=others))
    print(
        f"\n{callers} client{'s' if callers > 1 else ''} at once, {rounds} rounds of {requests} requests; CPU of Envoy"
    )
    print(HEADER)
    base = next(iter(series.values()))
    for each in series.values():
        print(each.row(base))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.envoy", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help="requests in a burst")
    parser.add_argument("--rounds", type=int, default=5, help="bursts of each kind")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16], help="clients at once")
    arguments = parser.parse_args()
    uvloop.run(measure(requests=arguments.calls, rounds=arguments.rounds, callers=arguments.callers))


if __name__ == "__main__":
    main()
