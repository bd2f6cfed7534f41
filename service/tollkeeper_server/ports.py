"""The ports that a server listens on: whether they can be had, asked before any work is done in vain."""

import contextlib
import socket
from collections.abc import Iterator

from prometheus_client import REGISTRY, start_http_server

from tollkeeper_server.settings import PREFIX, Address, Settings
from tollkeeper_server.startup import StartupError


def check_ports(settings: Settings) -> None:
    """Raise StartupError unless this process could listen wherever it is to."""
    check_port(settings.listen, setting="LISTEN")
    if settings.edge_listen is not None:
        check_port(settings.edge_listen, setting="EDGE_LISTEN")
    _metrics_address(settings)


def check_port(address: Address, *, setting: str) -> None:
    """Raise StartupError unless this process could listen on ``address``."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StartupError(f"cannot listen on {address}: {reason}; {PREFIX}{setting} names another place") from error


@contextlib.contextmanager
def metrics_endpoint(settings: Settings) -> Iterator[Address]:
    """Serve Prometheus metrics during the block. Raises StartupError if a port that was chosen cannot be had."""
    address = _metrics_address(settings)
    endpoint, thread = start_http_server(address.port, address.host, registry=REGISTRY)
    try:
        yield Address(address.host, endpoint.server_port)
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()


def _metrics_address(settings: Settings) -> Address:
    """The place that was chosen, or the default one, or a free port beside it."""
    try:
        check_port(settings.metrics_listen, setting="METRICS_LISTEN")
    except StartupError:
        if "metrics_listen" in settings.model_fields_set:
            raise
        return Address(settings.metrics_listen.host, 0)
    return settings.metrics_listen
