"""Near-caches in processes of their own: stopped, forked, ended without a word; and a server that is restarted."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.e2e.server_process import ServerProcess
from tollkeeper import Client, CreatedKey, DecisionCode, Propagation

LEASE_SECONDS = 2.0


class NearClient:
    """See ``near_cache_client``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    @classmethod
    def start(cls, server: ServerProcess, created: CreatedKey, *, kind: str) -> Self:
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.e2e.near_cache_client", server.address, kind]
        client = cls(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        client.say(server.root_key)
        client.say(created.api_key)
        if client.hear() != "kept":
            _, errors = client.process.communicate()
            pytest.fail(f"it ended with {client.process.returncode}: {errors}")
        return client

    def say(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def verify(self) -> str:
        self.say()
        return self.hear()


@contextmanager
def near_client(server: ServerProcess, created: CreatedKey, *, kind: str = "async") -> Iterator[NearClient]:
    client = NearClient.start(server, created, kind=kind)
    try:
        yield client
        _, errors = client.process.communicate(timeout=10)
        assert client.process.returncode == 0, errors
        assert "Traceback" not in errors
    finally:
        client.process.kill()
        client.process.communicate()


def revoke(manager: Client, created: CreatedKey) -> float:
    """Seconds that it took."""
    started = time.monotonic()
    assert manager.revoke_key(created.key.key_id).propagation is Propagation.EVERYWHERE
    return time.monotonic() - started


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_client_that_stands_still_delays_a_revocation_by_its_lease_at_most_and_then_denies(
    server: ServerProcess, kind: str
) -> None:
    with server.client() as manager:
        created = manager.create_key(name="k", tenant_id="acme")
        with near_client(server, created, kind=kind) as client:
            assert client.verify() == "ALLOWED"
            client.process.send_signal(signal.SIGSTOP)
            try:
                seconds = revoke(manager, created)
                client.say()
            finally:
                client.process.send_signal(signal.SIGCONT)
            print(f"revoked in {seconds:.3f} s with a client that stands still")
            assert seconds < LEASE_SECONDS + 0.2
            assert client.hear() == "KEY_REVOKED"


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_client_that_ended_by_itself_delays_nothing(server: ServerProcess, kind: str) -> None:
    with server.client() as manager:
        created = manager.create_key(name="k", tenant_id="acme")
        with near_client(server, created, kind=kind):
            pass
        assert revoke(manager, created) < 0.5


def test_a_client_that_was_killed_delays_a_revocation_by_its_lease_at_most(server: ServerProcess) -> None:
    with server.client() as manager:
        created = manager.create_key(name="k", tenant_id="acme")
        client = NearClient.start(server, created, kind="async")
        client.process.kill()
        client.process.communicate()
        assert revoke(manager, created) < LEASE_SECONDS + 0.2


def test_a_restarted_server_is_found_again_and_watched_as_before(data_dir: Path) -> None:
    with ServerProcess(data_dir) as server:
        with server.client() as manager:
            created = manager.create_key(name="k", tenant_id="acme")
        with Client(server.address, token=server.root_key, near_cache=True, verify_timeout=20) as client:
            until_kept(client, created)
            server.environment["TOLLKEEPER_LISTEN"] = server.address
            assert server.stop() == 0
            server.close()
            server.start()
            server.wait_until_serving()
            until_kept(client, created)
            assert revoke(client, created) < LEASE_SECONDS + 0.2
            assert client.verify(created.api_key).code is DecisionCode.KEY_REVOKED


def until_kept(client: Client, created: CreatedKey) -> None:
    deadline = time.monotonic() + 20
    before = client.verify(created.api_key)
    while (decision := client.verify(created.api_key)) is not before:
        assert time.monotonic() < deadline, "nothing is kept"
        before = decision
        time.sleep(0.01)


def test_threads_share_a_near_cache_and_see_a_revocation_when_it_returns(server: ServerProcess) -> None:
    with Client(server.address, token=server.root_key, near_cache=True) as client, server.client() as manager:
        for _ in range(5):
            created = manager.create_key(name="k", tenant_id="acme")
            until_kept(client, created)
            over = threading.Event()
            wrong: list[str] = []

            def verify(created: CreatedKey = created, over: threading.Event = over, wrong: list[str] = wrong) -> None:
                while not (was_over := over.is_set()):
                    client.verify(created.api_key)
                if client.verify(created.api_key).allowed and was_over:
                    wrong.append("allowed after the revocation had returned")

            threads = [threading.Thread(target=verify) for _ in range(4)]
            for thread in threads:
                thread.start()
            revoke(manager, created)
            over.set()
            for thread in threads:
                thread.join(30)
            assert not wrong


def test_a_forked_process_has_no_near_cache_and_does_not_hang(server: ServerProcess) -> None:
    with server.client() as manager:
        created = manager.create_key(name="k", tenant_id="acme")
    client = Client(server.address, token=server.root_key, near_cache=True)
    until_kept(client, created)
    near = client._near_cache
    assert near is not None
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert client._near_caching is not None
            client._near_caching.close()
            code = 0 if not near.holds_lease() and len(near) == 0 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    until_kept(client, created)
    client.close()
