"""Prints how many keys a second a server creates, and what a page of ListKeys costs among 100,000 keys.

    python -m tests.benchmarks.keys [--calls 5000] [--rounds 2] [--callers 1 64]

Runs a server of its own on embedded stores that write to disk as in production. One process asks as fast as it is
answered; it and the stores share the machine with the server.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import uvloop

from tests.benchmarks.measure import cpu_seconds
from tests.benchmarks.processes import server
from tollkeeper.v1 import key_pb2, key_service_pb2_grpc
from tollkeeper.v1 import key_service_pb2 as pb

MANY = 100_000
IMPORT_MAX = 1_000
PAGE_SIZE = 100
TENANT = "bench"
LISTINGS: dict[str, dict[str, Any]] = {
    "all": {},
    "one owner": {"owner_id": "o7"},
    "ACTIVE": {"state": key_pb2.KEY_STATE_ACTIVE},
}
TIMEOUT_SECONDS = 60


class Caller:
    """A channel and a credential."""

    def __init__(self, address: str, token: str) -> None:
        self._stub: Any = key_service_pb2_grpc.KeyServiceStub(grpc.aio.insecure_channel(address))
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def ask(self, method: str, request: Any) -> Any:
        return await getattr(self._stub, method)(request, metadata=self._metadata, timeout=TIMEOUT_SECONDS)


async def create(caller: Caller, *, keys: int, callers: int) -> tuple[float, list[float]]:
    """Create so many keys, so many at a time; gives the seconds that it took, and each call's."""
    numbers, seconds = iter(range(keys)), list[float]()

    async def one_caller() -> None:
        for number in numbers:
            request = pb.CreateKeyRequest(
                tenant_id=TENANT,
                owner_id=f"o{number % 100}",
                name=f"key {number}",
                permissions=["read"],
                request_id=f"{time.time_ns()}-{number}",
            )
            started = time.perf_counter()
            await caller.ask("CreateKey", request)
            seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(one_caller() for _ in range(callers)))
    return time.perf_counter() - started, seconds


async def fill(caller: Caller, *, keys: int) -> float:
    """Import so many keys; gives the seconds that it took."""
    started = time.perf_counter()
    for first in range(0, keys, IMPORT_MAX):
        items = [
            pb.ImportKey(key=pb.CreateKeyRequest(owner_id=f"o{number % 100}"), raw_api_key=f"imported-key-{number:09}")
            for number in range(first, min(first + IMPORT_MAX, keys))
        ]
        answer = await caller.ask("ImportKeys", pb.ImportKeysRequest(tenant_id=TENANT, keys=items))
        assert all(result.WhichOneof("result") == "key" for result in answer.results)
    return time.perf_counter() - started


async def walk(caller: Caller, **filters: Any) -> list[float]:
    """Read every page; gives the seconds that each took."""
    request, seconds = pb.ListKeysRequest(tenant_id=TENANT, page_size=PAGE_SIZE, **filters), list[float]()
    while True:
        started = time.perf_counter()
        page = await caller.ask("ListKeys", request)
        seconds.append(time.perf_counter() - started)
        if not page.next_page_token:
            return seconds
        request.page_token = page.next_page_token


def milliseconds(seconds: list[float], part: float = 0.5) -> str:
    """A quantile."""
    return f"{sorted(seconds)[int(part * (len(seconds) - 1))] * 1000:.1f} ms"


async def measure(*, calls: int, rounds: int, callers: list[int]) -> None:
    """Run everything and print it."""
    with tempfile.TemporaryDirectory(prefix="tollkeeper-bench-") as directory, server(Path(directory)) as process:
        address, token = (Path(directory, name).read_text().strip() for name in ("address", "root-key"))
        caller = Caller(address, token)
        await create(caller, keys=calls // 4, callers=max(callers))  # warms up
        for at_once in callers:
            before, keys = cpu_seconds(process.pid), calls if at_once > 1 else calls // 10
            bursts = [await create(caller, keys=keys, callers=at_once) for _ in range(rounds)]
            seconds = [each for _, burst in bursts for each in burst]
            print(f"\nCreateKey, {at_once} caller{'s' if at_once > 1 else ''} at once, {rounds} rounds")
            print(f"    {len(seconds) / sum(took for took, _ in bursts):,.0f} a second,", end=" ")
            print(f"{milliseconds(seconds)} median, {milliseconds(seconds, 0.99)} at the 99th percentile,", end=" ")
            print(f"{(cpu_seconds(process.pid) - before) / len(seconds) * 1e6:.0f} us of server CPU a call")
        filled = await fill(caller, keys=MANY)
        print(f"\nImportKeys, {IMPORT_MAX:,} a call\n    {MANY / filled:,.0f} keys a second")
        print(f"\nListKeys, pages of {PAGE_SIZE}, in their order")
        for name, filters in LISTINGS.items():
            pages = await walk(caller, **filters)
            tenth = max(1, len(pages) // 10)
            first, last = statistics.median(pages[:tenth]), statistics.median(pages[-tenth:])
            print(f"    {name:<10}{len(pages):>6} pages, first tenth {first * 1000:.2f} ms, last {last * 1000:.2f} ms")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.keys", description=__doc__)
    parser.add_argument("--calls", type=int, default=5000, help="keys to create in a round")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of creations")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 64], help="callers at once")
    arguments = parser.parse_args()
    uvloop.run(measure(calls=arguments.calls, rounds=arguments.rounds, callers=arguments.callers))


if __name__ == "__main__":
    main()
