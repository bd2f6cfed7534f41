"""What the canary has seen, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAY = ("path", "address")


class CanaryMetrics:
    """Counters of one watcher. ``path`` is a way of verifying, ``address`` the server asked."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.probes = Counter(
            "tollkeeper_canary_probes", "Verifications of canary keys that were decided.", _WAY, registry=registry
        )
        self.stale_allows = Counter(
            "tollkeeper_canary_stale_allows",
            "Verifications that started after the revocation held everywhere, and were ALLOWED.",
            _WAY,
            registry=registry,
        )
        self.failures = Counter(
            "tollkeeper_canary_failures",
            "What could not be done, by gRPC status; DENIED is a key that was not revoked and yet denied.",
            (*_WAY, "status"),
            registry=registry,
        )
        self.revoke_to_deny = Histogram(
            "tollkeeper_canary_revoke_to_deny_seconds",
            "Time from sending RevokeKey to the first denial.",
            _WAY,
            buckets=_SECONDS,
            registry=registry,
        )
        self.revoke = Histogram(
            "tollkeeper_canary_revoke_seconds",
            "Time that RevokeKey took to return, and to its effective_at if it was PENDING.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.rounds = Counter("tollkeeper_canary_rounds", "Canary keys that were made and ended.", registry=registry)
        self.last_round = Gauge(
            "tollkeeper_canary_last_round_timestamp_seconds",
            "When the last round was finished, or else the canary begun, in seconds since 1970.",
            registry=registry,
        )
        self.last_round.set_to_current_time()

    def expect(self, path: str, address: str) -> None:
        """Show zeros from the start, so that the first event is an increase."""
        for metric in (self.probes, self.stale_allows, self.revoke_to_deny):
            metric.labels(path, address)
