"""Metrics of the calls that this server answers, counted in plain numbers: the event loop alone writes them."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tollkeeper_server.core.decision import DecisionCode

_SECONDS_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class MethodMetrics:
    """Counts the calls of one method."""

    __slots__ = ("answered", "buckets", "in_flight", "seconds")

    def __init__(self) -> None:
        self.in_flight = 0
        self.answered: defaultdict[str, int] = defaultdict(int)
        """How many by gRPC status code."""
        self.seconds = 0.0
        self.buckets = [0] * (len(_SECONDS_BOUNDS) + 1)

    def begin(self) -> None:
        """Count a call that arrived."""
        self.in_flight += 1

    def end(self, code: str, *, seconds: float) -> None:
        """Count a call that was answered."""
        self.in_flight -= 1
        self.answered[code] += 1
        self.seconds += seconds
        self.buckets[bisect_left(_SECONDS_BOUNDS, seconds)] += 1


class CallMetrics(Collector):
    """Tells ``registry`` of calls and decisions. No label carries what a caller sent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._methods: dict[str, MethodMetrics] = {}
        self._decisions = dict.fromkeys(DecisionCode, 0)
        registry.register(self)

    def of(self, method: str) -> MethodMetrics:
        """The metrics of one method."""
        return self._methods.setdefault(method, MethodMetrics())

    def decided(self, code: DecisionCode) -> None:
        """Count a decision."""
        self._decisions[code] += 1

    def collect(self) -> Iterator[Metric]:
        """Everything as it stands, for a scrape."""
        calls = CounterMetricFamily(
            "tollkeeper_calls", "Calls answered, by method and gRPC status.", labels=("method", "code")
        )
        seconds = HistogramMetricFamily(
            "tollkeeper_call_seconds", "Time from a call's arrival to its answer, by method.", labels=("method",)
        )
        in_flight = GaugeMetricFamily("tollkeeper_calls_in_flight", "Calls under way, by method.", labels=("method",))
        for name, method in self._methods.items():
            for code, number in tuple(method.answered.items()):
                calls.add_metric((name, code), number)
            seconds.add_metric((name,), _cumulative(method.buckets), method.seconds)
            in_flight.add_metric((name,), method.in_flight)
        decisions = CounterMetricFamily(
            "tollkeeper_decisions", "Verifications decided, by decision code.", labels=("code",)
        )
        for code, number in self._decisions.items():
            decisions.add_metric((code,), number)
        yield from (calls, seconds, in_flight, decisions)


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    bounds = [*map(str, _SECONDS_BOUNDS), "+Inf"]
    return list(zip(bounds, accumulate(buckets), strict=True))
