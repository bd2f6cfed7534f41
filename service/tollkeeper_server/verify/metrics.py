"""What can be watched of clients that keep answers, in the registry that the metrics port exposes."""

from prometheus_client import Gauge

WATCHERS = Gauge("tollkeeper_watchers", "Clients that follow changes through this server, and may hold a lease of it.")
