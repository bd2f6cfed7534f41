"""Metrics of the calls that this server answers."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tollkeeper_server.core.decision import DecisionCode

_SECONDS_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class CallMetrics:
    """Counts calls and decisions. No label carries what a caller sent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "tollkeeper_calls",
            "Calls answered, by method and gRPC status.",
            ("method", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "tollkeeper_call_seconds",
            "Time from a call's arrival to its answer, by method.",
            ("method",),
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge("tollkeeper_calls_in_flight", "Calls under way.", registry=registry)
        decisions = Counter(
            "tollkeeper_decisions", "Verifications decided, by decision code.", ("code",), registry=registry
        )
        self._decisions = {code: decisions.labels(code) for code in DecisionCode}

    def of(self, method: str) -> "MethodMetrics":
        """The metrics of one method."""
        return MethodMetrics(
            calls=self._calls, seconds=self._seconds.labels(method), in_flight=self._in_flight, method=method
        )

    def decided(self, code: DecisionCode) -> None:
        """Count a decision."""
        self._decisions[code].inc()


class MethodMetrics:
    """Counts the calls of one method; looks its labels up once, not at each call."""

    def __init__(self, *, calls: Counter, seconds: Histogram, in_flight: Gauge, method: str) -> None:
        self._calls = calls
        self._seconds = seconds
        self._in_flight = in_flight
        self._method = method
        self._by_code: dict[str, Counter] = {}

    def begin(self) -> None:
        """Count a call that arrived."""
        self._in_flight.inc()

    def end(self, code: str, *, seconds: float) -> None:
        """Count a call that was answered."""
        self._in_flight.dec()
        self._seconds.observe(seconds)
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = self._calls.labels(self._method, code)
        counter.inc()
