"""Envoy as a process of its own, on ports of its own."""

import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

from tests.e2e.server_process import START_SECONDS, STOP_SECONDS

ROOT = Path(__file__).resolve().parents[2]
ENVOY = ROOT / ".envoy" / "envoy" / "_bin" / "envoy"
DEPLOY = ROOT / "service" / "deploy"
DESCRIPTOR_SET = ROOT / "protos" / "tollkeeper.v1.binpb"

Config = dict[str, Any]


def example(
    *, service_key_file: Path, endpoints: Mapping[str, Sequence[str]], ports: Mapping[str, int] | None = None
) -> Config:
    """The shipped configuration as it is, but for paths and addresses.

    ``endpoints`` are host:port by cluster, ``ports`` those to listen on by listener; a free one for those left out.
    """
    config: Config = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())
    static = config["static_resources"]
    static["secrets"][0]["generic_secret"]["secret"]["filename"] = str(service_key_file)
    (transcoder,) = (each for each in http_filters(config, "management") if each["name"].endswith("json_transcoder"))
    transcoder["typed_config"]["proto_descriptor"] = str(DESCRIPTOR_SET)
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    for listener in static["listeners"]:
        listener["address"]["socket_address"]["port_value"] = (ports or {}).get(listener["name"], 0)
    for name, addresses in endpoints.items():
        lead(cluster(config, name), addresses)
    return config


def lead(to: Config, addresses: Sequence[str]) -> None:
    """Lead the cluster to these addresses, host:port each."""
    to["load_assignment"]["endpoints"] = [{"lb_endpoints": list(map(_endpoint, addresses))}]


def cluster(config: Config, name: str) -> Config:
    """The cluster called ``name``."""
    return _named(config["static_resources"]["clusters"], name)


def connection_manager(config: Config, listener: str) -> Config:
    """What turns connections of ``listener`` into requests."""
    listeners = config["static_resources"]["listeners"]
    manager: Config = _named(listeners, listener)["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def http_filters(config: Config, listener: str) -> list[Config]:
    """What requests of ``listener`` go through."""
    filters: list[Config] = connection_manager(config, listener)["http_filters"]
    return filters


def virtual_hosts(config: Config) -> list[Config]:
    """The public APIs."""
    hosts: list[Config] = connection_manager(config, "public")["route_config"]["virtual_hosts"]
    return hosts


def ext_authz(config: Config) -> Config:
    """The filter that asks Tollkeeper."""
    filter_config: Config = _named(http_filters(config, "public"), "envoy.filters.http.ext_authz")["typed_config"]
    return filter_config


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    """What Envoy itself says of a configuration."""
    command = [str(_binary()), "--mode", "validate", "-c", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)


class EnvoyProcess:
    """Envoy with ``config``; entering the block waits until it is live and finds its clusters healthy."""

    def __init__(self, config: Config, *, concurrency: int = 1) -> None:
        self._config = config
        self._concurrency = concurrency

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="tollkeeper-envoy-")
        directory = Path(self._directory.name)
        (directory / "envoy.json").write_text(json.dumps(self._config))
        self._log = (directory / "log").open("w+")
        command = [str(_binary()), "--config-path", f"{directory}/envoy.json", "--concurrency", str(self._concurrency)]
        command += ["--use-dynamic-base-id", "--admin-address-path", f"{directory}/admin"]
        command += ["--file-flush-interval-msec", "50"]
        self.process = psutil.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            self._wait_until_live(directory / "admin")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(STOP_SECONDS)
        self._log.close()
        self._directory.cleanup()

    @property
    def log(self) -> str:
        """All that it has logged so far, access log included."""
        return (Path(self._directory.name) / "log").read_text()

    def access_log(self, request_id: str) -> dict[str, Any]:
        """The line of the access log about one request."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            for line in self.log.splitlines():
                if line.startswith("{") and request_id in line:
                    entry: dict[str, Any] = json.loads(line)
                    return entry
            assert time.monotonic() < deadline, f"nothing is logged of {request_id}"
            time.sleep(0.02)

    def admin(self, path: str) -> str:
        """What the admin endpoint answers."""
        with urllib.request.urlopen(f"http://{self._admin}{path}", timeout=5) as response:
            text: str = response.read().decode()
            return text

    def stat(self, name: str) -> int:
        """A counter or gauge."""
        return int(self.admin(f"/stats?filter=^{name}$").rpartition(":")[2])

    def _wait_until_live(self, admin_file: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_live(admin_file):
            assert self.process.poll() is None, f"Envoy ended: {self.log}"
            assert time.monotonic() < deadline, f"Envoy does not start: {self.log}"
            time.sleep(0.02)
        listeners = json.loads(self.admin("/listeners?format=json"))["listener_statuses"]
        self.ports = {each["name"]: each["local_address"]["socket_address"]["port_value"] for each in listeners}

    def _is_live(self, admin_file: Path) -> bool:
        try:
            self._admin = admin_file.read_text()
            return bool(self._admin) and self.admin("/ready").strip() == "LIVE"
        except OSError:
            return False


def _binary() -> Path:
    assert ENVOY.exists(), "Envoy is not installed: run `make envoy`"
    return ENVOY


def _endpoint(address: str) -> Config:
    host, _, port = address.rpartition(":")
    return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}


def _named(items: list[Config], name: str) -> Config:
    (item,) = (each for each in items if each["name"] == name)
    return item
