"""The command finds its server, says in one line what to do if it does not, and sends no key to the wrong one."""

from pathlib import Path

import pytest

from tollkeeper.command.connection import NoServer, Server, find_server

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOLLKEEPER_ADDRESS", "TOLLKEEPER_TOKEN", "TOLLKEEPER_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def data_directory(path: Path, *, mode: int = 0o600) -> None:
    path.mkdir(parents=True)
    (path / "address").write_text("127.0.0.1:50051\n")
    key = path / "root-key"
    key.write_text("tk_root\n")
    key.chmod(mode)


def test_a_server_of_this_directory_or_one_further_up_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_directory(tmp_path / ".tollkeeper")
    assert find_server(None, None) == Server("127.0.0.1:50051", "tk_root")
    (tmp_path / "deep" / "down").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "down")
    assert find_server(None, None) == Server("127.0.0.1:50051", "tk_root")


def test_the_data_directory_of_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_directory(tmp_path / ".tollkeeper")
    data_directory(tmp_path / "other")
    (tmp_path / "other" / "address").write_text("127.0.0.1:1")
    monkeypatch.setenv("TOLLKEEPER_DATA_DIR", str(tmp_path / "other"))
    assert find_server(None, None).address == "127.0.0.1:1"


def test_options_come_before_the_environment_and_that_before_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_directory(tmp_path / ".tollkeeper")
    (tmp_path / "token").write_text("tk_of_the_file\n")
    monkeypatch.setenv("TOLLKEEPER_TOKEN", "tk_of_the_environment")
    assert find_server(None, None) == Server("127.0.0.1:50051", "tk_of_the_environment")
    monkeypatch.setenv("TOLLKEEPER_ADDRESS", "10.0.0.1:50051")
    assert find_server(None, None) == Server("10.0.0.1:50051", "tk_of_the_environment")
    assert find_server("10.0.0.2:50051", tmp_path / "token") == Server("10.0.0.2:50051", "tk_of_the_file")


def test_a_root_key_is_sent_to_no_server_but_its_own(tmp_path: Path) -> None:
    data_directory(tmp_path / ".tollkeeper")
    with pytest.raises(NoServer, match=r"no token for 10\.0\.0\.1:50051"):
        find_server("10.0.0.1:50051", None)


def test_a_root_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    data_directory(tmp_path / ".tollkeeper", mode=0o644)
    with pytest.raises(NoServer, match="chmod 600"):
        find_server(None, None)


def test_without_any_server_it_says_how_to_get_one() -> None:
    with pytest.raises(NoServer, match="make serve"):
        find_server(None, None)


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("missing", "binary"):
        with pytest.raises(NoServer, match=name):
            find_server("127.0.0.1:1", tmp_path / name)


def test_a_token_is_in_no_repr() -> None:
    assert "tk_root" not in repr(Server("127.0.0.1:1", "tk_root"))
