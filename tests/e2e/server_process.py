"""A server as its users run it: a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tollkeeper import Client

START_SECONDS = 60.0
STOP_SECONDS = 30.0
COMMANDS = Path(sys.executable).parent
FREE_PORTS = {"LISTEN": "127.0.0.1:0", "METRICS_LISTEN": "127.0.0.1:0"}


class ServerProcess:
    """``tollkeeper-server serve`` with ports of its own; entering the block waits until it serves.

    Settings are those of the environment without the prefix. With no URLs among them it is a development server on
    ``data_dir``.
    """

    credentials: grpc.ChannelCredentials | None = None
    """How to talk to it where it is served with TLS."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.command: list[str | Path] = [COMMANDS / "tollkeeper-server", "serve"]
        self.environment = environment(DATA_DIR=str(data_dir), **{**FREE_PORTS, **settings})

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_serving()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server if it still runs, without a drain, and forget what it wrote."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(psutil.TimeoutExpired):
                self.process.wait(0.1)  # or the two signals would be one
        if self.process.poll() is None:
            self.stop()
        self._stdout.close()
        self._stderr.close()

    def start(self) -> None:
        self._stdout = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed when the block ends)
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = psutil.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
            start_new_session=True,
        )

    def wait_until_serving(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.events("serving"):
            assert self.process.poll() is None, f"the server ended: {self.stderr}"
            assert time.monotonic() < deadline, f"the server does not serve: {self.stderr}"
            time.sleep(0.02)
        (serving,) = self.events("serving")
        self.address, self.metrics_addresses = serving["address"], serving["metrics"].split(", ")
        with self.channel(self.address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=START_SECONDS)
        assert health.status == health_pb2.HealthCheckResponse.SERVING

    def channel(self, address: str) -> grpc.Channel:
        if self.credentials is None:
            return grpc.insecure_channel(address)
        return grpc.secure_channel(address, self.credentials)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; gives the exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        code: int = self.process.wait(STOP_SECONDS)
        return code

    def family(self) -> list[psutil.Process]:
        """The process and all that it has started."""
        return [self.process, *self.process.children(recursive=True)]

    @property
    def stdout(self) -> str:
        return _content(self._stdout)

    @property
    def stderr(self) -> str:
        return _content(self._stderr)

    def events(self, name: str) -> list[dict[str, Any]]:
        """What was logged under ``name`` so far."""
        lines = self.stderr.splitlines(keepends=True)
        logged = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [event for event in logged if event["event"] == name]

    @property
    def metrics_address(self) -> str:
        """Of the first worker, where there are several."""
        address: str = self.metrics_addresses[0]
        return address

    @property
    def root_key(self) -> str:
        return (self.data_dir / "root-key").read_text().strip()

    def client(self) -> Client:
        """A client of this development server, as root."""
        return Client(self.address, token=self.root_key, credentials=self.credentials)


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with these settings and no others."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOLLKEEPER_")}
    return inherited | {f"TOLLKEEPER_{name}": value for name, value in settings.items()}


def run(*command: str, cwd: Path | str | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment to its end."""
    name, *arguments = command
    return subprocess.run(
        [COMMANDS / name, *arguments],
        cwd=cwd,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


def refusal(*command: str, **settings: str) -> str:
    """What the server's command says when it cannot do its work: one line without the password, and a failing code."""
    finished = run("tollkeeper-server", *command, **{**FREE_PORTS, **settings})
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.startswith("tollkeeper-server: ")
    assert finished.stderr.count("\n") == 1
    assert "hunter2" not in finished.stderr
    return finished.stderr


def _content(file: Any) -> str:
    """Read all of ``file`` without moving the position that the server writes at."""
    text: str = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()
    return text
