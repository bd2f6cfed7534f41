"""The ports that a server listens on: whether they can be had, asked before any work is done in vain."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import REGISTRY, start_http_server

from tollkeeper_server.settings import PREFIX, Address, Settings
from tollkeeper_server.startup import StartupError


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a running server is found; where each worker has a port of its own, in the order of the workers."""

    grpc: Address
    metrics: tuple[Address, ...]
    edge: tuple[Address, ...] = ()
    """For gateways."""

    def log_fields(self) -> dict[str, str]:
        """Every place that there is."""
        places = {"address": (self.grpc,), "metrics": self.metrics, "edge": self.edge}
        return {name: ", ".join(map(str, addresses)) for name, addresses in places.items() if addresses}


def check_ports(settings: Settings) -> None:
    """Raise StartupError unless this process and its workers could listen wherever they are to."""
    check_port(settings.listen, setting="LISTEN")
    for worker in range(settings.workers):
        if settings.edge_listen is not None:
            check_port(settings.edge_listen.of_worker(worker), setting="EDGE_LISTEN")
        metrics_address(settings, worker=worker)


def check_port(address: Address, *, setting: str) -> None:
    """Raise StartupError unless this process could listen on ``address``."""
    _bound(address, setting=setting).close()


@contextlib.contextmanager
def shared_port(address: Address, *, setting: str) -> Iterator[Address]:
    """Keep the port of ``address`` for the workers of this process, and give it, where it is 0, a number.

    Raises StartupError if anyone listens there, even one who would share. While it is kept, other servers find it
    taken: they ask for it alone. It is not listened on, so no connection ends up here.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise StartupError(f"this system has no ports that processes can share: {PREFIX}WORKERS must be 1")
    with _bound(address, setting=setting) as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield Address(address.host, kept.getsockname()[1])


def _bound(address: Address, *, setting: str) -> socket.socket:
    """A socket that has ``address`` for itself."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(place)
        except BaseException:
            bound.close()
            raise
    except (OSError, OverflowError) as error:  # a worker's port may lie beyond the last one
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise StartupError(f"cannot listen on {address}: {reason}; {PREFIX}{setting} names another place") from error
    return bound


@contextlib.contextmanager
def metrics_endpoint(settings: Settings) -> Iterator[Address]:
    """Serve Prometheus metrics during the block. Raises StartupError if a port that was chosen cannot be had."""
    address = metrics_address(settings)
    endpoint, thread = start_http_server(address.port, address.host, registry=REGISTRY)
    try:
        yield Address(address.host, endpoint.server_port)
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()


def metrics_address(settings: Settings, *, worker: int = 0) -> Address:
    """The place that was chosen, or the default one, or a free port beside it. Raises StartupError."""
    address = settings.metrics_listen.of_worker(worker)
    try:
        check_port(address, setting="METRICS_LISTEN")
    except StartupError:
        if "metrics_listen" in settings.model_fields_set:
            raise
        return Address(address.host, 0)
    return address
