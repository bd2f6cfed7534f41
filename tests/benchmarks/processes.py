"""The processes that benchmarks measure: a server on stores of its own, and a bare echo."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tollkeeper.v1 import verification_service_pb2 as pb

START_SECONDS = 60


@contextlib.contextmanager
def server(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server on embedded stores in ``data_dir``, once it serves."""
    environment = {
        **os.environ,
        "TOLLKEEPER_DATA_DIR": str(data_dir),
        "TOLLKEEPER_LISTEN": "127.0.0.1:0",
        "TOLLKEEPER_METRICS_LISTEN": "127.0.0.1:0",
        "TOLLKEEPER_LOG_FORMAT": "json",
    }
    command = [str(Path(sys.executable).parent / "tollkeeper-server"), "serve"]
    with (data_dir / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + START_SECONDS
    try:
        while not (data_dir / "address").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start:\n" + (data_dir / "server.log").read_text())
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@contextlib.contextmanager
def echo(answer: pb.VerifyResponse) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A bare echo that gives ``answer``, and its address."""
    command = [sys.executable, "-m", "tests.benchmarks.echo", answer.SerializeToString().hex()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, f"127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.communicate(timeout=10)


def stores_of(process: subprocess.Popen[bytes] | psutil.Popen) -> dict[str, list[int]]:
    """Process ids of the stores that the server started, by name."""
    children = psutil.Process(process.pid).children(recursive=True)
    return {
        name: [child.pid for child in children if child.name().startswith(start)]
        for name, start in (("Valkey", "valkey"), ("Postgres", "postgres"))
    }
