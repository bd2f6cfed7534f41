"""What can be watched of limits, in the registry that the metrics port exposes."""

from prometheus_client import Counter, Gauge, Histogram

REDIS_UP = Gauge("tollkeeper_redis_up", "1 while Redis answers, 0 while limits are held without it.")
REDIS_OUTAGES = Counter("tollkeeper_redis_outages_total", "Times that Redis stopped answering.")
CHARGE_BATCH_SIZE = Histogram(
    "tollkeeper_charge_batch_size", "Charges that went to Redis in one call.", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
CHARGE_BATCH_SECONDS = Histogram(
    "tollkeeper_charge_batch_seconds",
    "Time that a call of Redis took, failed ones included.",
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
)
RATE_CHARGES_LOCAL = Counter(
    "tollkeeper_rate_charges_local_total",
    "Charges to RATE limits that were held by this server's local share of them, not by Redis.",
)
CHARGES_DIRECT = Counter(
    "tollkeeper_quota_charges_direct_total", "Charges to QUOTA and SPEND limits that went to the ledger itself."
)
RESERVATIONS_FORGOTTEN = Counter(
    "tollkeeper_reservations_forgotten_total", "Reservations that nobody settled in time: they stay charged as held."
)
BLOCKS = Counter("tollkeeper_quota_blocks_total", "Blocks of QUOTA and SPEND limits that were debited in the ledger.")
