"""Prints server CPU a call and latency of Verify beside a bare grpc.aio echo with the same messages.

    python -m tests.benchmarks [--calls 2000] [--rounds 7] [--write]

Runs a server of its own on embedded stores. Bursts take turns, so that a machine whose speed drifts slows all alike;
a ratio is the median over pairs that ran side by side. "CPU us" counts the server process alone; what Valkey and
Postgres spend on the same calls stands beside it. "Kept and settled" is two calls for so many verifications of a key
that limits count, all in one figure. "AsyncClient" asks over one stream, in batches that form by themselves; with a
near-cache it answers most by itself.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path

import grpc
import uvloop

from tests.benchmarks import kept_answers, report
from tests.benchmarks.measure import HEADER, Series, burst
from tests.benchmarks.processes import echo, server, stores_of
from tests.benchmarks.report import Figure
from tollkeeper import AsyncClient, Limit
from tollkeeper.v1 import verification_service_pb2 as pb
from tollkeeper.v1 import verification_service_pb2_grpc as pb_grpc

CALLERS = (1, 32)
BLOCK = 50
"""To how many verifications an answer is given that is kept."""
NEAR_CACHE_SECONDS = 3.0
RATES = [
    Limit.rate("per-second", 10**9, timedelta(seconds=1)),
    Limit.rate("per-minute", 10**9, timedelta(minutes=1)),
    Limit.rate("per-hour", 10**9, timedelta(hours=1)),
    Limit.rate("per-day", 10**9, timedelta(days=1)),
]
QUOTA = Limit.quota("per-day", 10**9, timedelta(days=1))

ECHO = "bare echo"
UNARY, UNARY_EXACT = "Verify, no limits", "Verify, four exact rate limits"
STREAM, STREAM_EXACT = "AsyncClient, no limits", "AsyncClient, four exact rate limits"
GOALS = {ECHO: "", UNARY: "<= 1.10 x", UNARY_EXACT: "<= 1.30 x", STREAM: "<= 15 us", STREAM_EXACT: ""}
"""What matters most, and what it may cost."""

Way = Callable[[], Awaitable[object]]
"""One call, or one verification by a client."""


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
        if not answer.HasField("kept"):  # Redis did not answer in time on a busy machine
            return
        used = pb.SettleRequest(reservation_id=answer.reservation_id, verifications=BLOCK, charges={"requests": BLOCK})
        await stub.Settle(used, metadata=metadata, timeout=10)

    return keep


async def measure(*, calls: int, rounds: int) -> list[Figure]:
    """Run everything, print the tables, and give what matters most."""
    with tempfile.TemporaryDirectory(prefix="tollkeeper-bench-") as directory, server(Path(directory)) as process:
        address, token = (Path(directory, name).read_text().strip() for name in ("address", "root-key"))
        async with AsyncClient(address, token=token) as client:
            plain, limited, budgeted = [
                (await client.create_key(name=name, tenant_id="bench", limits=limits)).api_key
                for name, limits in (("no limits", []), ("four limits", RATES), ("a quota", [QUOTA]))
            ]
            request = pb.VerifyRequest(api_key=limited)
            ways: dict[str, Way] = {
                UNARY: caller(address, token, pb.VerifyRequest(api_key=plain)),
                UNARY_EXACT: caller(address, token, request),
                STREAM: lambda: client.verify(plain),
                STREAM_EXACT: lambda: client.verify(limited),
                f"{BLOCK} kept and settled, four limits": keeper(address, token, limited),
                f"{BLOCK} kept and settled, a quota": keeper(address, token, budgeted),
            }
            with echo(await caller(address, token, request)()) as (echo_process, echo_address):
                targets: dict[str, tuple[Way, int]] = {ECHO: (caller(echo_address, token, request), echo_process.pid)}
                targets |= {name: (way, process.pid) for name, way in ways.items()}
                for callers in CALLERS:
                    series = await table(targets, stores_of(process), calls=calls, callers=callers, rounds=rounds)
        figures = [
            Figure(name=f"{name}, {callers} callers", cpu_us=series[name].cpu_us, ratio=ratio, goal=goal)
            for name, goal in GOALS.items()
            for ratio in [series[name].ratio_to(series[ECHO])]
        ]
        return figures + await kept(address, token, {"no limits": plain, "four limits": limited}, process, directory)


async def kept(
    address: str, token: str, api_keys: Mapping[str, str], process: "subprocess.Popen[bytes]", directory: str
) -> list[Figure]:
    """What the client answers by itself, as a table, and as what matters most."""
    print(f"\nAsyncClient with a near-cache, one caller, {NEAR_CACHE_SECONDS:.0f} seconds each; CPU a verification")
    print(f"{'':<34} {'client us':>10} {'server us':>10} {'Redis commands':>15} {'verifications':>15}")
    figures = []
    async with AsyncClient(address, token=token, near_cache=True) as client:
        for name, api_key in api_keys.items():
            cost = await kept_answers.measure(
                client, api_key, pid=process.pid, data_dir=Path(directory), seconds=NEAR_CACHE_SECONDS
            )
            print(
                f"{name:<34} {cost.client_cpu_us:>10.2f} {cost.server_cpu_us:>10.2f} {cost.redis_commands:>15.5f} "
                f"{cost.verifications:>15,}"
            )
            figures.append(Figure(name=f"near-cache, {name} (client)", cpu_us=cost.client_cpu_us, goal="<= 1.5 us"))
    return figures


async def table(
    targets: Mapping[str, tuple[Way, int]],
    stores: dict[str, list[int]],
    *,
    calls: int,
    callers: int,
    rounds: int,
) -> dict[str, Series]:
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
        print(each.row(series[ECHO]))
    return series


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help="calls in a burst")
    parser.add_argument("--rounds", type=int, default=7, help="bursts of each kind")
    parser.add_argument("--write", action="store_true", help="write table and plot to service/docs/benchmarks")
    arguments = parser.parse_args()
    figures = uvloop.run(measure(calls=arguments.calls, rounds=arguments.rounds))
    if arguments.write:
        report.write(figures, command="make bench")


if __name__ == "__main__":
    main()
