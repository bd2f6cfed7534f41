"""The life of a canary: connect, watch until told to stop, end the keys that are left."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import REGISTRY

from tollkeeper._channel import authorization
from tollkeeper._tls import credentials_from_env
from tollkeeper_server.api.logs import configure_logging
from tollkeeper_server.canary.metrics import CanaryMetrics
from tollkeeper_server.canary.watcher import Canary
from tollkeeper_server.canary.ways import ways_to
from tollkeeper_server.departure import Departure
from tollkeeper_server.ports import metrics_endpoint
from tollkeeper_server.settings import PREFIX, Settings
from tollkeeper_server.startup import StartupError


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a canary looks at."""

    addresses: Sequence[str]
    """Servers, each as the client takes it."""
    edge_addresses: Sequence[str]
    """Where gateways are served."""
    profile: str
    """By which gateways' answers are given."""
    tenant_id: str | None
    """Whose keys the canary makes; None for the caller's own."""
    interval_seconds: float


async def watch(settings: Settings, watched: Watched) -> None:
    """Watch until SIGTERM or SIGINT; then end the keys that are left. Raises StartupError."""
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    token = os.environ.get(f"{PREFIX}TOKEN", "")
    if not token:
        raise StartupError(f"{PREFIX}TOKEN must be set: the API key of a caller that may create and verify keys")
    try:
        authorization(token)
        credentials = credentials_from_env()
    except ValueError as error:
        raise StartupError(str(error)) from None
    log = structlog.get_logger()
    ways = ways_to(
        watched.addresses, watched.edge_addresses, token=token, credentials=credentials, profile=watched.profile
    )
    with metrics_endpoint(settings) as metrics, Departure().ends_this():
        async with ways as (clients, found):
            log.info("watching", addresses=list(watched.addresses), metrics=str(metrics), paths=len(found))
            canary = Canary(clients, found, tenant_id=watched.tenant_id, metrics=CanaryMetrics(REGISTRY))
            await canary.run(interval_seconds=watched.interval_seconds)
    log.info("stopped")
