"""Servers in directories of their own."""

import base64
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess
from tests.gateway.stack import PublicApis, public_apis


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A development server that a module's tests share."""
    with (
        tempfile.TemporaryDirectory(prefix="tollkeeper-tests-") as directory,
        ServerProcess(Path(directory) / "data", LOG_LEVEL="debug") as process,
    ):
        yield process


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Where a development server may keep its data; the directory is not there yet."""
    with tempfile.TemporaryDirectory(prefix="tollkeeper-tests-") as directory:
        yield Path(directory) / "data"


@pytest.fixture
def own_stores(postgres_url: str, redis_url: str) -> dict[str, str]:
    """Settings of a server that runs on stores by URL, as in production."""
    secret = base64.b64encode(bytes(32)).decode()
    return {"POSTGRES_URL": postgres_url, "REDIS_URL": redis_url, "PEPPERS": f"1:{secret}", "TAG_KEYS": f"1:{secret}"}


@pytest.fixture(scope="session")
def apis() -> Iterator[PublicApis]:
    """Five public APIs behind a real Envoy, shared by all tests; each makes keys of its own."""
    with public_apis() as apis:
        yield apis
