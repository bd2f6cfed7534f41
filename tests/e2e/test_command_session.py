"""The ``tollkeeper`` command against a real server, as people and scripts use it."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server_process import COMMANDS, ServerProcess, environment, run

Finished = subprocess.CompletedProcess[str]
Tollkeeper = Callable[..., Finished]

UNKNOWN_KEY_ID = "key_" + "0" * 22


@pytest.fixture
def tollkeeper(server: ServerProcess) -> Tollkeeper:
    """Runs the command where it finds the server by its data directory."""

    def command(*arguments: str) -> Finished:
        return run("tollkeeper", *arguments, DATA_DIR=str(server.data_dir))

    return command


def piped(server: ServerProcess, stdin: Any, *arguments: str, text: str | None = None) -> Finished:
    return subprocess.run(
        [COMMANDS / "tollkeeper", *arguments],
        env=environment(DATA_DIR=str(server.data_dir)),
        stdin=stdin,
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def new_key(tollkeeper: Tollkeeper, *options: str) -> tuple[str, str]:
    """The key id and the API key of a new key."""
    created = json.loads(tollkeeper("keys", "create", "--json", *options).stdout)
    return created["key"]["key_id"], created["api_key"]


def test_a_first_key_lives_as_the_quickstart_tells(tollkeeper: Tollkeeper) -> None:
    created = tollkeeper(
        "keys", "create", "--name", "demo", "--permission", "read", "--resource", "billing", "--rate", "5/minute", "-q"
    )
    assert (created.returncode, created.stderr) == (0, "")
    (api_key,) = created.stdout.splitlines()
    use = ("verify", api_key, "--permission", "read", "--resource", "billing")
    for remaining in (4, 3, 2, 1, 0):
        allowed = tollkeeper(*use)
        assert (allowed.returncode, allowed.stdout.splitlines()[0]) == (0, "ALLOWED")
        assert f"{5 - remaining}          {remaining}      5" in allowed.stdout
    limited = tollkeeper(*use)
    assert (limited.returncode, limited.stdout.splitlines()[0]) == (3, "RATE_LIMITED")
    assert "Try again in" in limited.stdout
    quota = json.loads(tollkeeper("quota", api_key, "--json").stdout)
    assert (quota["allowed"], quota["limits"][0]["remaining"]) == (False, 0)
    assert tollkeeper("keys", "revoke", api_key, "--yes").returncode == 0
    revoked = tollkeeper(*use)
    assert (revoked.returncode, revoked.stdout.splitlines()[0]) == (3, "KEY_REVOKED")


def test_a_new_api_key_is_shown_once_and_alone_on_its_line(tollkeeper: Tollkeeper) -> None:
    created = tollkeeper("keys", "create", "--name", "shown")
    api_key = created.stdout.splitlines()[-1]
    assert api_key.startswith("tk_")
    assert created.stdout.count(api_key) == 1
    key_id = created.stdout.split()[1].rstrip(".")
    for again in (tollkeeper("keys", "get", key_id), tollkeeper("keys", "get", key_id, "--json")):
        assert again.returncode == 0
        assert api_key not in again.stdout


def test_json_is_all_there_is_on_stdout(tollkeeper: Tollkeeper) -> None:
    key_id, api_key = new_key(tollkeeper, "--owner", "json", "--metadata", "plan=pro", "--ttl", "30d")
    key = json.loads(tollkeeper("keys", "get", key_id, "--json").stdout)
    assert (key["key_id"], key["metadata"], key["state"]) == (key_id, {"plan": "pro"}, "ACTIVE")
    listed = json.loads(tollkeeper("keys", "list", "--owner", "json", "--json").stdout)
    assert listed == {"keys": [key], "more": False}
    decision = json.loads(tollkeeper("verify", api_key, "--json").stdout)
    assert (decision["allowed"], decision["code"], decision["key"]["key_id"]) == (True, "ALLOWED", key_id)
    revoked = json.loads(tollkeeper("keys", "revoke", key_id, "--reason", "unused", "--yes", "--json").stdout)
    assert (revoked["key"]["state"], revoked["key"]["revoke_reason"]) == ("REVOKED", "UNUSED")
    assert revoked["propagation"] == "EVERYWHERE"


def test_a_list_says_when_there_is_more(tollkeeper: Tollkeeper) -> None:
    newest = [new_key(tollkeeper, "--owner", "many")[0] for _ in range(3)][::-1]
    listed = tollkeeper("keys", "list", "--owner", "many", "--max", "2")
    heading, *rows = listed.stdout.splitlines()
    assert heading.startswith("KEY ID")
    assert [row.split()[0] for row in rows] == newest[:2]
    assert "raise --max" in listed.stderr
    assert json.loads(tollkeeper("keys", "list", "--owner", "many", "--max", "2", "--json").stdout)["more"]
    assert tollkeeper("keys", "list", "--owner", "many", "--max", "3").stderr == ""
    assert tollkeeper("keys", "list", "--owner", "many", "--state", "revoked").stdout == "No keys.\n"


def test_an_api_key_can_stay_out_of_the_shells_history(server: ServerProcess, tollkeeper: Tollkeeper) -> None:
    _, api_key = new_key(tollkeeper)
    for arguments in (("verify", "-"), ("quota", "-"), ("keys", "revoke", "-", "--yes")):
        assert piped(server, None, *arguments, text=f"{api_key}\n").returncode == 0
    assert piped(server, None, "verify", "-", text="").returncode == 2


def test_revoking_asks_first_and_does_nothing_without_a_yes(server: ServerProcess, tollkeeper: Tollkeeper) -> None:
    key_id, api_key = new_key(tollkeeper, "--name", "careful")
    nobody_to_ask = tollkeeper("keys", "revoke", key_id)
    assert (nobody_to_ask.returncode, nobody_to_ask.stdout) == (2, "")
    assert "--yes" in nobody_to_ask.stderr
    for answer, exit_code in ((b"n\n", 1), (b"y\n", 0)):
        assert tollkeeper("verify", api_key).returncode == 0
        terminal, stdin = pty.openpty()
        try:
            os.write(terminal, answer)
            asked = piped(server, stdin, "keys", "revoke", key_id)
        finally:
            os.close(terminal)
            os.close(stdin)
        assert f"Revoke {key_id} (careful)?" in asked.stderr
        assert asked.returncode == exit_code
    assert tollkeeper("verify", api_key).returncode == 3


def test_exit_codes_tell_scripts_what_happened(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    nothing, token = tmp_path / "nothing", tmp_path / "token"
    nothing.mkdir()
    token.write_text("tk_nobody")
    failures = {
        1: tollkeeper("keys", "list", "--token-file", str(token)),
        2: tollkeeper("keys", "create", "--name", "n" * 129, "--permission", "a b"),
        4: tollkeeper("keys", "get", UNKNOWN_KEY_ID),
        5: run("tollkeeper", "keys", "list", cwd=nothing, ADDRESS="127.0.0.1:1", TOKEN="tk_nobody"),
    }
    for exit_code, failure in failures.items():
        assert (failure.returncode, failure.stdout) == (exit_code, ""), failure.stderr
        (line,) = failure.stderr.splitlines()
        assert line.startswith("tollkeeper: ")
        assert "tk_nobody" not in line
    assert "name:" in failures[2].stderr
    assert "permissions[0]:" in failures[2].stderr
    assert tollkeeper("verify", "tk_unknown").returncode == 3
    lost = run("tollkeeper", "keys", "list", cwd=nothing)
    assert (lost.returncode, "make serve" in lost.stderr) == (2, True)


def test_a_reader_that_has_seen_enough_is_no_error(server: ServerProcess) -> None:
    shell = subprocess.run(
        f"set -o pipefail; {COMMANDS / 'tollkeeper'} keys list --json | head -c 1",
        shell=True,
        executable="/bin/bash",
        env=environment(DATA_DIR=str(server.data_dir)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (shell.returncode, shell.stdout, shell.stderr) == (0, "{", "")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_packages_the_command_says_what_to_install(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from tollkeeper.command import main; main()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "tollkeeper: the command needs more packages: pip install 'tollkeeper[command]'\n"


def test_the_command_tells_its_version() -> None:
    assert run("tollkeeper", "--version").stdout.startswith("tollkeeper 0.")
