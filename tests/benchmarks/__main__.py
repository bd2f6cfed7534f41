"""Prints server CPU a call and latency of Verify beside a bare grpc.aio echo with the same messages.

    python -m tests.benchmarks [--calls 2000] [--rounds 7]

Runs a server of its own on embedded stores. Bursts take turns, so that a machine whose speed drifts slows all alike;
a ratio is the median over pairs that ran side by side. "CPU us" counts the server process alone; what Valkey and
Postgres spend on the same calls stands beside it. "Kept and settled" is two calls for so many verifications of a key
that limits count, all in one figure. "AsyncClient" asks over one stream, in batches that form by themselves.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import grpc
import psutil
import uvloop

from tests.benchmarks.measure import HEADER, Series, burst
from tollkeeper import AsyncClient, Limit
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper.v1 import verification_service_pb2_grpc as pb_grpc

CALLERS = (1, 32)
BLOCK = 50
"""To how many verifications an answer is given that is kept."""
START_SECONDS = 60
LIMITS = [
    Limit.rate("per-second", 10**9, timedelta(seconds=1)),
    Limit.rate("per-minute", 10**9, timedelta(minutes=1)),
    Limit.rate("per-hour", 10**9, timedelta(hours=1)),
    Limit.rate("per-day", 10**9, timedelta(days=1)),
]


@contextlib.contextmanager
def server(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server on embedded stores in ``data_dir``, once it serves."""
    environment = {
        **os.environ,
        "TOLLKEEPER_DATA_DIR": str(data_dir),
        "TOLLKEEPER_LISTEN": "127.0.0.1:0",
        "TOLLKEEPER_METRICS_LISTEN": "127.0.0.1:0",
        "TOLLKEEPER_LOG_FORMAT": "json",
    }
    command = [str(Path(sys.executable).parent / "tollkeeper-server"), "serve"]
    with (data_dir / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + START_SECONDS
    try:
        while not (data_dir / "address").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start:\n" + (data_dir / "server.log").read_text())
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@contextlib.contextmanager
def echo(answer: pb.VerifyResponse) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A bare echo that gives ``answer``, and its address."""
    command = [sys.executable, "-m", "tests.benchmarks.echo", answer.SerializeToString().hex()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, f"127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.communicate(timeout=10)


def stores_of(process: subprocess.Popen[bytes] | psutil.Popen) -> dict[str, list[int]]:
    """Process ids of the stores that the server started, by name."""
    children = psutil.Process(process.pid).children(recursive=True)
    return {
        name: [child.pid for child in children if child.name().startswith(start)]
        for name, start in (("Valkey", "valkey"), ("Postgres", "postgres"))
    }


def caller(address: str, token: str, request: pb.VerifyRequest) -> Callable[[], Awaitable[pb.VerifyResponse]]:
    """Calls Verify with ``request`` over one channel of its own, as thinly as grpc.aio can."""
    stub = pb_grpc.VerificationServiceStub(grpc.aio.insecure_channel(address))
    metadata = (("authorization", f"Bearer {token}"),)
    return lambda: stub.Verify(request, metadata=metadata, timeout=10)


def keeper(address: str, token: str, api_key: str) -> Callable[[], Awaitable[object]]:
    """Keeps an answer for BLOCK verifications, and settles them all."""
    stub = pb_grpc.VerificationServiceStub(grpc.aio.insecure_channel(address))
    metadata = (("authorization", f"Bearer {token}"),)

    async def keep() -> None:
        request = pb.VerifyRequest(api_key=api_key, keep=BLOCK)
        answer = await stub.Verify(request, metadata=metadata, timeout=10)
        used = pb.SettleRequest(reservation_id=answer.reservation_id, verifications=BLOCK, charges={"requests": BLOCK})
        await stub.Settle(used, metadata=metadata, timeout=10)

    return keep


async def measure(*, calls: int, rounds: int) -> None:
    """Run everything and print the tables."""
    with tempfile.TemporaryDirectory(prefix="tollkeeper-bench-") as directory, server(Path(directory)) as process:
        address, token = (Path(directory, name).read_text().strip() for name in ("address", "root-key"))
        async with AsyncClient(address, token=token) as client:
            plain = await client.create_key(name="no limits", tenant_id="bench", permissions=["read"])
            limited = await client.create_key(name="four limits", tenant_id="bench", limits=LIMITS)
            budgeted = await client.create_key(
                name="a quota", tenant_id="bench", limits=[Limit.quota("per-day", 10**9, timedelta(days=1))]
            )
            ways: dict[str, Callable[[], Awaitable[object]]] = {
                "Verify, no limits": caller(
                    address, token, pb.VerifyRequest(api_key=plain.api_key, required_permissions=["read"])
                ),
                "Verify, four exact rate limits": caller(address, token, pb.VerifyRequest(api_key=limited.api_key)),
                f"{BLOCK} kept and settled, four limits": keeper(address, token, limited.api_key),
                f"{BLOCK} kept and settled, a quota": keeper(address, token, budgeted.api_key),
                "AsyncClient, no limits": lambda: client.verify(plain.api_key, permissions=["read"]),
                "AsyncClient, four exact rate limits": lambda: client.verify(limited.api_key),
            }
            request = pb.VerifyRequest(api_key=limited.api_key)
            with echo(await caller(address, token, request)()) as (echo_process, echo_address):
                floor: Callable[[], Awaitable[object]] = caller(echo_address, token, request)
                targets = {"bare echo": (floor, echo_process.pid)}
                targets |= {name: (way, process.pid) for name, way in ways.items()}
                for callers in CALLERS:
                    await table(targets, stores_of(process), calls=calls, callers=callers, rounds=rounds)


async def table(
    targets: Mapping[str, tuple[Callable[[], Awaitable[object]], int]],
    stores: dict[str, list[int]],
    *,
    calls: int,
    callers: int,
    rounds: int,
) -> None:
    """Bursts of every target in turn, ``rounds`` times, and their table."""
    series = {name: Series(name, []) for name in targets}
    for call, pid in targets.values():
        await burst(call, calls=calls // 4, callers=callers, pid=pid, others=stores)  # warms up
    for _ in range(rounds):
        for name, (call, pid) in targets.items():
            series[name].bursts.append(await burst(call, calls=calls, callers=callers, pid=pid, others=stores))
    print(f"\n{callers} caller{'s' if callers > 1 else ''} at once, {rounds} rounds of {calls} calls")
    print(HEADER)
    for each in series.values():
        print(each.row(series["bare echo"]))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help="calls in a burst")
    parser.add_argument("--rounds", type=int, default=7, help="bursts of each kind")
    arguments = parser.parse_args()
    uvloop.run(measure(calls=arguments.calls, rounds=arguments.rounds))


if __name__ == "__main__":
    main()
