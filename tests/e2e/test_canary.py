"""The canary: it sees that revoked keys are dead on every path, reports those that are not, and leaves no key alive."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from tests.e2e.server_process import COMMANDS, ServerProcess, environment, run
from tests.faults.history.rig import SECRETS, Server
from tests.gateway.stack import edge_address
from tests.integration.keys_support import ROOT, keys_on
from tollkeeper import Client, KeyState

PATHS = {"unary", "batch", "stream", "near_cache", "edge"}
PROFILE = """\
profile: canary
tenant: canary
credentials:
  - header: Authorization
    scheme: Bearer
routes:
  - path: /
answers:
  - codes: [KEY_MISSING, KEY_INVALID, KEY_REVOKED, KEY_DISABLED, KEY_EXPIRED, CREDENTIALS_CONFLICT]
    status: 401
  - codes: [IP_DENIED, RESOURCE_DENIED, PERMISSION_DENIED, PATH_AMBIGUOUS, ROUTE_UNKNOWN]
    status: 403
  - codes: [RATE_LIMITED, QUOTA_EXCEEDED, SPEND_LIMIT_EXCEEDED]
    status: 429
"""
WAIT_SECONDS = 60


class Canary:
    """A canary in a process of its own."""

    def __init__(self, process: psutil.Popen, log: Any) -> None:
        self.process = process
        self._log = log

    def events(self, name: str) -> list[dict[str, Any]]:
        written = os.pread(self._log.fileno(), 1 << 24, 0).split(b"\n")[:-1]
        return [event for event in map(orjson.loads, written) if event["event"] == name]

    def samples(self, name: str) -> dict[str, float]:
        """Values of a metric by path."""
        (watching,) = self.events("watching")
        with urllib.request.urlopen(f"http://{watching['metrics']}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = [line.rsplit(" ", 1) for line in lines if line.startswith(f"{name}{{") or line.startswith(f"{name} ")]
        return {labels.partition('path="')[2].partition('"')[0]: float(value) for labels, value in found}

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not (self.events("watching") and condition()):
            assert self.process.poll() is None, "the canary ended"
            assert time.monotonic() < deadline, f"not in time: {self._log.name}"
            time.sleep(0.05)


@contextlib.contextmanager
def canary(server: ServerProcess, token: str, *options: str) -> Iterator[Canary]:
    settings = environment(TOKEN=token, METRICS_LISTEN="127.0.0.1:0", LOG_FORMAT="json")
    command = [COMMANDS / "tollkeeper-server", "canary", "--address", server.address, *options]
    with tempfile.TemporaryFile() as log:
        process = psutil.Popen(command, env=settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield Canary(process, log)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
            process.wait(WAIT_SECONDS)


@pytest.fixture
async def tokens(postgres_url: str) -> tuple[str, str]:
    """API keys of root, and of a caller that may do what a canary does."""
    async with keys_on(postgres_url) as keys:
        root = await keys.create(ROOT, tenant_id="", permissions=("tollkeeper:*",))
        permissions = ("tollkeeper:keys.write", "tollkeeper:verify")
        caller = await keys.create(ROOT, tenant_id="canary", permissions=permissions)
    return root.api_key, caller.api_key


def test_every_path_is_looked_down_and_no_key_is_left(
    postgres_url: str, redis_url: str, tokens: tuple[str, str], tmp_path: Path
) -> None:
    root, caller = tokens
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "canary.yaml").write_text(PROFILE)
    edge = {"EDGE_LISTEN": "127.0.0.1:0", "PROFILES": str(profiles)}
    with ServerProcess(tmp_path, POSTGRES_URL=postgres_url, REDIS_URL=redis_url, **SECRETS, **edge) as server:
        with canary(server, caller, "--edge-address", edge_address(server), "--interval", "0.3") as watcher:
            deny = "tollkeeper_canary_revoke_to_deny_seconds_count"
            watcher.until(lambda: set(watcher.samples(deny)) == PATHS and min(watcher.samples(deny).values()) >= 3)
            assert set(watcher.samples("tollkeeper_canary_stale_allows_total").values()) == {0.0}
            assert watcher.samples("tollkeeper_canary_failures_total") == {}
            assert min(watcher.samples("tollkeeper_canary_probes_total").values()) >= 9
            watcher.process.send_signal(signal.SIGTERM)
            assert watcher.process.wait(WAIT_SECONDS) == 0
            assert len(watcher.events("stopped")) == 1
        with Client(server.address, token=root) as client:
            assert list(client.list_keys(tenant_id="canary", owner_id="tollkeeper-canary", state=KeyState.ACTIVE)) == []
            assert len(list(client.list_keys(tenant_id="canary", owner_id="tollkeeper-canary"))) >= 3


def test_a_revoked_key_that_is_allowed_is_reported(
    postgres_url: str, redis_url: str, tokens: tuple[str, str], tmp_path: Path
) -> None:
    late = partial(Server, tmp_path, postgres_url, redis_url, fault="mutations do not wait,changes are slow")
    with late(listen="127.0.0.1:0") as server, canary(server, tokens[1], "--interval", "0.3") as watcher:
        stale = "tollkeeper_canary_stale_allows_total"
        watcher.until(lambda: min(watcher.samples(stale).values()) > 0)
        assert set(watcher.samples(stale)) == PATHS - {"edge"}
        reported = watcher.events("canary_stale_allow")
        assert {event["path"] for event in reported} == PATHS - {"edge"}
        assert all(event["key_id"].startswith("key_") and event["seconds_after"] >= 0 for event in reported)


def test_a_canary_without_a_caller_is_told_what_it_needs() -> None:
    finished = run("tollkeeper-server", "canary", "--address", "127.0.0.1:1", METRICS_LISTEN="127.0.0.1:0")
    assert finished.returncode == 1
    assert finished.stderr.startswith("tollkeeper-server: TOLLKEEPER_TOKEN must be set")
