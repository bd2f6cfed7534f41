"""`tollkeeper-server serve --workers`: several processes, one server."""

import asyncio
import contextlib
import re
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import psutil
import pytest

from tests.e2e.server_process import FREE_PORTS, ServerProcess, refusal, run
from tests.e2e.under_load import eventually, load
from tests.gateway.stack import PROFILES
from tollkeeper import AsyncClient
from tollkeeper.v1 import (
    key_service_pb2,
    key_service_pb2_grpc,
    verification_service_pb2,
    verification_service_pb2_grpc,
)

CONNECTIONS = 16
"""So many that the kernel gives each of two workers some: all but once in 30,000 times."""

Verifications = verification_service_pb2_grpc.VerificationServiceStub


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A development server with two workers, which tests may kill one by one."""
    directory = tmp_path_factory.mktemp("workers")
    with ServerProcess(directory / "data", WORKERS="2", EDGE_LISTEN="127.0.0.1:0", PROFILES=str(PROFILES)) as process:
        yield process


@pytest.fixture
def settings(own_stores: dict[str, str], tmp_path: Path) -> dict[str, str]:
    return own_stores | {"WORKERS": "2", "DRAIN_SECONDS": "2"}


def workers(server: ServerProcess) -> dict[int, int]:
    """Process ids of the workers that served last, by number."""
    return {event["worker"]: event["pid"] for event in server.events("worker_serving")}


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def answered(server: ServerProcess, method: str = "Verify") -> list[int]:
    """How many calls each worker has answered, by its own metrics."""
    pages = [
        urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
        for address in server.metrics_addresses
    ]
    found = [re.search(rf'^tollkeeper_calls_total{{code="OK",method="{method}"}} (\d+)', page, re.M) for page in pages]
    return [int(each[1]) if each else 0 for each in found]


@contextlib.asynccontextmanager
async def connections(server: ServerProcess) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Connections of their own; the kernel spreads them over the workers."""
    async with AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        yield [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options=options))
            for _ in range(CONNECTIONS)
        ]


async def test_both_workers_answer_on_one_port(server: ServerProcess) -> None:
    caller = (("authorization", f"Bearer {server.root_key}"),)
    before = answered(server)
    async with connections(server) as channels:
        for channel in channels:
            request = verification_service_pb2.VerifyRequest(api_key="tk_unknown")
            await Verifications(channel).Verify(request, metadata=caller, timeout=10)
        after = answered(server)
    counts = [now - then for now, then in zip(after, before, strict=True)]
    assert sum(counts) == CONNECTIONS
    assert min(counts) > 0


async def test_each_worker_has_ports_of_its_own_for_gateways_and_metrics(server: ServerProcess) -> None:
    (serving,) = server.events("serving")
    assert len(set(serving["edge"].split(", "))) == 2
    assert len(set(server.metrics_addresses)) == 2
    for address in serving["edge"].split(", "):
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 10)


async def test_a_key_revoked_through_one_worker_is_dead_at_the_other_when_that_returns(server: ServerProcess) -> None:
    caller = (("authorization", f"Bearer {server.root_key}"),)
    async with connections(server) as channels:
        for turn in range(10):
            keys = key_service_pb2_grpc.KeyServiceStub(channels[turn])
            created = await keys.CreateKey(key_service_pb2.CreateKeyRequest(name="k"), metadata=caller, timeout=10)
            request = verification_service_pb2.VerifyRequest(api_key=created.api_key)
            for expected in ("DECISION_CODE_ALLOWED", "DECISION_CODE_KEY_REVOKED"):
                before = answered(server)
                answers = await asyncio.gather(
                    *(Verifications(channel).Verify(request, metadata=caller, timeout=10) for channel in channels)
                )
                told = {verification_service_pb2.DecisionCode.Name(answer.code) for answer in answers}
                assert told == {expected}
                assert all(now > then for now, then in zip(answered(server), before, strict=True)), "one was not asked"
                revoke = key_service_pb2.RevokeKeyRequest(key_id=created.key.key_id)
                if expected == "DECISION_CODE_ALLOWED":
                    await keys.RevokeKey(revoke, metadata=caller, timeout=10)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_worker_that_ends_is_replaced_and_no_call_fails(
    number: signal.Signals, settings: dict[str, str], tmp_path: Path
) -> None:
    token = run("tollkeeper-server", "create-root-key", **settings).stdout.strip()
    with ServerProcess(tmp_path, **settings) as server:
        async with AsyncClient(server.address, token=token) as client:
            created = await client.create_key(name="used")
            async with load(client, api_key=created.api_key, key_id=created.key.key_id) as outcomes:
                for worker in (0, 1):
                    await outcomes.more()
                    ending = workers(server)[worker]
                    psutil.Process(ending).send_signal(number)
                    await eventually(lambda: workers(server)[worker] != ending)  # noqa: B023 (awaited right here)
                    assert not psutil.pid_exists(ending)
        assert outcomes.keys() == {"ok"}, outcomes
        ended = [event["ended_by"] for event in server.events("worker_ended")]
        assert ended == ["SIGKILL" if number is signal.SIGKILL else "exit code 0"] * 2
        assert server.stop() == 0


async def test_a_worker_that_is_stuck_is_replaced(settings: dict[str, str], tmp_path: Path) -> None:
    with ServerProcess(tmp_path, **settings) as server:
        stuck = workers(server)[1]
        psutil.Process(stuck).suspend()
        await eventually(lambda: workers(server)[1] != stuck)
        assert [event["pid"] for event in server.events("worker_stuck")] == [stuck]
        assert not psutil.pid_exists(stuck)
        assert server.stop() == 0


def test_ctrl_c_ends_parent_workers_and_stores(data_dir: Path) -> None:
    with ServerProcess(data_dir, WORKERS="2") as server:
        family = server.family()
        assert set(workers(server).values()) <= {process.pid for process in family}
        assert server.stop(signal.SIGINT) == 0
        assert not alive(family)
        assert not (data_dir / "address").exists()
        assert not server.events("worker_ended")
        assert not server.events("worker_killed")


def test_a_second_ctrl_c_does_not_wait_for_the_drain(data_dir: Path) -> None:
    with ServerProcess(data_dir, WORKERS="2", DRAIN_SECONDS="120") as server:
        family = server.family()
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(psutil.TimeoutExpired):
            server.process.wait(0.5)
        assert server.stop(signal.SIGINT) == 0
        assert not alive(family)


def test_workers_leave_when_their_parent_was_killed(settings: dict[str, str], tmp_path: Path) -> None:
    with ServerProcess(tmp_path, **settings) as server:
        family = server.family()
        server.stop(signal.SIGKILL)
        wait_until_gone(family)
    with ServerProcess(tmp_path, **{**settings, "LISTEN": server.address}):
        pass


def test_a_signal_while_workers_start_ends_them(settings: dict[str, str], tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, **settings)
    server.start()
    try:
        while len(server.process.children()) < 2:
            assert server.process.poll() is None
            time.sleep(0.01)
        family = server.family()
        assert server.stop() == 0
        assert not alive(family)
        assert server.stderr == ""
    finally:
        server.close()


def test_a_worker_that_cannot_start_again_is_tried_until_it_can(settings: dict[str, str], tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    shutil.copytree(PROFILES, profiles)
    with ServerProcess(tmp_path, **settings, EDGE_LISTEN="127.0.0.1:0", PROFILES=str(profiles)) as server:
        ending, staying = workers(server)[0], workers(server)[1]
        (profiles / "broken.yaml").write_text("profile: 1\n")
        psutil.Process(ending).kill()
        wait_for(lambda: len(server.events("worker_not_started")) >= 2)
        assert "broken.yaml" in server.events("worker_not_started")[0]["reason"]
        assert psutil.pid_exists(staying)
        (profiles / "broken.yaml").unlink()
        wait_for(lambda: workers(server)[0] != ending)
        assert workers(server)[1] == staying


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "even by one that would share it"])
@pytest.mark.parametrize("setting", ["LISTEN", "METRICS_LISTEN", "EDGE_LISTEN"])
def test_a_taken_port_is_told_in_one_line(setting: str, shares: bool, data_dir: Path) -> None:
    with socket.socket() as taken:
        if shares:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refusal("serve", "--workers", "2", **{"DATA_DIR": str(data_dir), setting: address})
    assert f"cannot listen on {address}: address already in use; TOLLKEEPER_{setting} names another place" in line
    assert not data_dir.exists()


def test_the_port_of_another_server_with_workers_is_taken(server: ServerProcess, data_dir: Path) -> None:
    for workers_wanted in ("1", "2"):
        line = refusal("serve", WORKERS=workers_wanted, DATA_DIR=str(data_dir), LISTEN=server.address)
        assert f"cannot listen on {server.address}: address already in use" in line


def test_the_port_of_the_second_worker_is_looked_at_as_well(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal("serve", WORKERS="2", DATA_DIR=str(data_dir), METRICS_LISTEN=f"127.0.0.1:{port - 1}")
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in line


def test_what_keeps_all_workers_from_starting_is_told_once(settings: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "broken.yaml").write_text("profile: 1\n")
    finished = run(
        "tollkeeper-server",
        "serve",
        **{**FREE_PORTS, **settings, "EDGE_LISTEN": "127.0.0.1:0", "PROFILES": str(tmp_path / "profiles")},
    )
    assert finished.returncode == 1
    assert finished.stderr.count("the profiles are not valid") == 1
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("count", ["0", "65", "two"])
def test_a_number_of_workers_that_cannot_be_is_refused(count: str, data_dir: Path) -> None:
    assert "TOLLKEEPER_WORKERS: " in refusal("serve", WORKERS=count, DATA_DIR=str(data_dir))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_gone(processes: list[psutil.Process]) -> None:
    wait_for(lambda: not alive(processes))
