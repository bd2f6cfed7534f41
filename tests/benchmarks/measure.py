"""Bursts of calls, and what they cost: latency as the client sees it, CPU as the operating system counts it."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import psutil

HEADER = f"{'':<34} {'CPU us':>8} {'ratio':>7} {'p50 us':>8} {'p99 us':>8} {'calls/s':>8}   other CPU us"


def cpu_seconds(pid: int) -> float:
    """User and system CPU that the process has used so far, all its threads together."""
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.exists():
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    # schedstat counts nanoseconds, cpu_times hundredths of a second.
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def _cpu_seconds_of(pids: list[int]) -> dict[int, float]:
    """As ``cpu_seconds``, by process; those that have ended are left out, as workers of Postgres do now and then."""
    found = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            found[pid] = cpu_seconds(pid)
    return found


@dataclass(frozen=True, slots=True)
class Burst:
    """What one burst of calls cost."""

    cpu_us_per_call: float
    other_cpu_us_per_call: dict[str, float]
    calls_per_second: float
    latencies_us: list[float]


async def burst(
    call: Callable[[], Awaitable[object]], *, calls: int, callers: int, pid: int, others: dict[str, list[int]]
) -> Burst:
    """``calls`` calls by ``callers`` at once, each caller waiting for its answer before it asks again."""
    latencies: list[float] = []
    left = calls

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            started = time.perf_counter()
            await call()
            latencies.append((time.perf_counter() - started) * 1e6)

    pids = {"": [pid], **others}
    before = {name: _cpu_seconds_of(each) for name, each in pids.items()}
    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    elapsed = time.perf_counter() - started
    after = {name: _cpu_seconds_of(each) for name, each in pids.items()}
    spent = {
        name: sum(seconds - before[name][each] for each, seconds in after[name].items()) / calls * 1e6 for name in pids
    }
    return Burst(spent.pop(""), spent, calls / elapsed, latencies)


@dataclass(slots=True)
class Series:
    """The bursts of one way to ask, and their summary."""

    name: str
    bursts: list[Burst]

    @property
    def cpu_us(self) -> float:
        """Server CPU a call in microseconds: the median burst's."""
        return median(each.cpu_us_per_call for each in self.bursts)

    def ratio_to(self, base: "Series") -> float:
        """Server CPU against ``base``: the median of the ratios of bursts that ran side by side."""
        pairs = zip(self.bursts, base.bursts, strict=True)
        return median(mine.cpu_us_per_call / its.cpu_us_per_call for mine, its in pairs)

    def row(self, base: "Series") -> str:
        """One line of the table."""
        latencies = [latency for each in self.bursts for latency in each.latencies_us]
        percentiles = quantiles(latencies, n=100)
        rate = median(each.calls_per_second for each in self.bursts)
        others = ", ".join(
            f"{name} {median(each.other_cpu_us_per_call[name] for each in self.bursts):.0f}"
            for name in self.bursts[0].other_cpu_us_per_call
        )
        return (
            f"{self.name:<34} {self.cpu_us:>8.0f} {self.ratio_to(base):>7.2f} {percentiles[49]:>8.0f} "
            f"{percentiles[98]:>8.0f} {rate:>8.0f}   {others}"
        )
