"""What can be watched of counting usage, in the registry that the metrics port exposes."""

from prometheus_client import Counter, Gauge, Histogram

USAGE_LOST = Counter(
    "tollkeeper_usage_lost_total",
    "What was not counted: too many keys at once, too many units of one key, or uses of kept answers while Postgres was"
    " away.",
)
USAGE_WAITING = Gauge(
    "tollkeeper_usage_waiting", "Minutes of keys that are counted in memory and not yet in the database."
)
USAGE_BATCH_SECONDS = Histogram(
    "tollkeeper_usage_batch_seconds",
    "Time to add a batch of usage to the database, failed ones included.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
USAGE_BATCHES_FAILED = Counter(
    "tollkeeper_usage_batches_failed_total", "Batches of usage that the database did not take; they are sent again."
)
