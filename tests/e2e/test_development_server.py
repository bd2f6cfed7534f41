"""`tollkeeper-server serve` with nothing set up: it starts, says why if it cannot, and leaves nothing behind."""

import contextlib
import os
import signal
import socket
import stat
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.server_process import ServerProcess, refusal
from tollkeeper import DecisionCode


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def wait_until_gone(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 20
    while alive(processes):
        assert time.monotonic() < deadline, f"still there: {alive(processes)}"
        time.sleep(0.02)


def test_the_root_key_is_shown_and_kept_once_and_a_second_start_finds_its_data(data_dir: Path) -> None:
    with ServerProcess(data_dir) as first:
        root_key = first.root_key
        assert first.stdout.count(root_key) == 1
        assert root_key not in first.stderr
        for private in ("root-key", "secrets.env"):
            assert stat.S_IMODE((data_dir / private).stat().st_mode) == 0o600
        with first.client() as client:
            api_key = client.create_key(name="kept").api_key
        assert first.stop() == 0
    with ServerProcess(data_dir) as second:
        assert second.root_key == root_key
        assert root_key not in second.stdout + second.stderr
        with second.client() as client:
            assert client.verify(api_key).code is DecisionCode.ALLOWED


def test_a_killed_server_leaves_nothing_that_blocks_the_next_start(data_dir: Path) -> None:
    with ServerProcess(data_dir) as first:
        with first.client() as client:
            api_key = client.create_key(name="kept").api_key
        family = first.family()
        first.stop(signal.SIGKILL)
        with ServerProcess(data_dir) as second:
            assert not alive(family)
            with second.client() as client:
                assert client.verify(api_key).code is DecisionCode.ALLOWED


def test_a_server_whose_stores_were_killed_with_it_starts_again(data_dir: Path) -> None:
    with ServerProcess(data_dir) as first:
        with first.client() as client:
            api_key = client.create_key(name="kept").api_key
        family = first.family()
        for process in reversed(family):
            with contextlib.suppress(psutil.NoSuchProcess):  # ended with its parent
                process.kill()
        first.ended()
        wait_until_gone(family)
    with ServerProcess(data_dir) as second, second.client() as client:
        assert client.verify(api_key).code is DecisionCode.ALLOWED


def test_ctrl_c_ends_everything_that_was_started(data_dir: Path) -> None:
    with ServerProcess(data_dir) as server:
        family, sockets = server.family(), (data_dir / "run").readlink()
        assert {"postgres", "valkey-server"} <= {process.name() for process in family}

        os.killpg(server.process.pid, signal.SIGINT)
        assert server.ended() == 0
        assert not alive(family)
        assert not sockets.exists()
        assert not (data_dir / "address").exists()


def test_a_second_ctrl_c_does_not_wait_for_the_drain(data_dir: Path) -> None:
    with ServerProcess(data_dir, DRAIN_SECONDS="120") as server:
        family = server.family()
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(psutil.TimeoutExpired):
            server.process.wait(0.5)
        assert server.stop(signal.SIGINT) == 0
        assert not alive(family)


def test_a_signal_during_the_start_ends_it_cleanly(data_dir: Path) -> None:
    server = ServerProcess(data_dir)
    server.start()
    try:
        while not list(data_dir.glob("postgres*")):
            assert server.process.poll() is None
            time.sleep(0.01)
        family = server.family()
        assert server.stop(signal.SIGTERM) == 0
        wait_until_gone(family)
        assert server.stderr == ""
    finally:
        server.close()
    with ServerProcess(data_dir):
        pass


def test_a_taken_default_port_of_the_metrics_is_no_obstacle(data_dir: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 9464))
            taken.listen()
        except OSError:
            pass  # someone else has it, which is as good
        with ServerProcess(data_dir, METRICS_LISTEN="") as server:
            assert not server.metrics_address.endswith(":9464")
            assert f"http://{server.metrics_address}/metrics" in server.stdout


@pytest.mark.parametrize("setting", ["LISTEN", "METRICS_LISTEN", "EDGE_LISTEN"])
def test_a_taken_port_is_told_in_one_line_before_anything_is_started(setting: str, data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refusal("serve", **{"DATA_DIR": str(data_dir), setting: address})
    assert f"cannot listen on {address}: address already in use" in line
    assert f"TOLLKEEPER_{setting} names another place" in line
    assert not data_dir.exists()


def test_a_data_directory_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refusal("serve", DATA_DIR=str(tmp_path / "file" / "data"))
    assert f"cannot write to the data directory {tmp_path}/file/data: Not a directory" in line


def test_two_servers_never_share_a_data_directory(server: ServerProcess) -> None:
    line = refusal("serve", DATA_DIR=str(server.data_dir))
    assert f"is in use by process {server.process.pid}" in line


def test_lost_secrets_are_told_and_never_replaced(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    assert "secrets.env is gone" in refusal("serve", DATA_DIR=str(data_dir))
    assert not (data_dir / "secrets.env").exists()


def test_wrong_settings_are_told_in_one_line(data_dir: Path) -> None:
    line = refusal("serve", DATA_DIR=str(data_dir), LISTEN="50051", LOG_LEVEL="loud")
    assert "TOLLKEEPER_LISTEN: must be host:port" in line
    assert "TOLLKEEPER_LOG_LEVEL: " in line
