"""The ``tollkeeper`` command on keys and owners that there are, against a real server."""

import json
import os
import pty
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server_process import COMMANDS, ServerProcess, environment, run

Tollkeeper = Callable[..., subprocess.CompletedProcess[str]]
TOLD_SECONDS = 30


@pytest.fixture
def tollkeeper(server: ServerProcess) -> Tollkeeper:
    """Runs the command where it finds the server by its data directory."""

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("tollkeeper", *arguments, DATA_DIR=str(server.data_dir))

    return command


def answer(finished: subprocess.CompletedProcess[str]) -> Any:
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def new_key(tollkeeper: Tollkeeper, *options: str) -> tuple[str, str]:
    """The key id and the API key of a new key."""
    created = answer(tollkeeper("keys", "create", "--json", *options))
    return created["key"]["key_id"], created["api_key"]


def test_an_update_changes_what_is_named_and_nothing_else(tollkeeper: Tollkeeper) -> None:
    key_id, _ = new_key(
        tollkeeper, "--name", "ci", "--permission", "read", "--rate", "5/minute", "--rate", "b=9/s", "--ttl", "1d"
    )
    update = ("keys", "update", key_id)
    key = answer(tollkeeper(*update, "--rate", "7/minute", "--metadata", "plan=pro", "--no-expiry", "--json"))["key"]
    assert {limit["name"]: limit["amount"] for limit in key["limits"]} == {"per-minute": 7, "b": 9}
    assert (key["name"], key["permissions"], key["metadata"]) == ("ci", ["read"], {"plan": "pro"})
    assert key["expires_at"] is None
    etag = key["etag"]
    key = answer(tollkeeper(*update, "--remove-limit", "b", "--remove-metadata", "plan", "--permission", "", "--json"))[
        "key"
    ]
    assert ([limit["name"] for limit in key["limits"]], key["metadata"], key["permissions"]) == (["per-minute"], {}, [])
    late = tollkeeper(*update, "--name", "late", "--etag", etag)
    assert (late.returncode, "ETAG_MISMATCH" in late.stderr) == (7, True)
    for nothing in ((), ("--remove-limit", "nope"), ("--ttl", "1d", "--no-expiry")):
        assert tollkeeper(*update, *nothing).returncode == 2


def test_a_key_is_switched_off_and_on(tollkeeper: Tollkeeper) -> None:
    key_id, api_key = new_key(tollkeeper)
    for change, exit_code in (("disable", 3), ("enable", 0)):
        assert tollkeeper("keys", change, key_id).returncode == 0
        assert tollkeeper("verify", api_key).returncode == exit_code


def test_a_rotation_shows_the_new_api_key_once_and_asks_before_it_ends_the_present_one(tollkeeper: Tollkeeper) -> None:
    key_id, first = new_key(tollkeeper)
    refused = tollkeeper("keys", "rotate", key_id)
    assert (refused.returncode, refused.stdout, "--yes" in refused.stderr) == (2, "", True)
    rotated = tollkeeper("keys", "rotate", key_id, "--overlap", "1d")
    second = rotated.stdout.splitlines()[-1]
    assert rotated.stdout.count(second) == 1
    assert "works until" in rotated.stdout
    assert "the earlier one" in tollkeeper("verify", first).stdout
    assert tollkeeper("keys", "end-overlap", key_id, "--yes").returncode == 0
    assert [tollkeeper("verify", api_key).returncode for api_key in (first, second)] == [3, 0]
    (third,) = tollkeeper("keys", "rotate", key_id, "--yes", "--quiet").stdout.splitlines()
    assert [tollkeeper("verify", api_key).returncode for api_key in (second, third)] == [3, 0]


def test_an_import_takes_what_it_can_and_tells_the_rest_by_line(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    file = tmp_path / "keys.csv"
    file.write_text("raw_api_key,name,owner_id\nimported-by-command-1,one,umbrella\nshort,two,umbrella\n")
    imported = tollkeeper("keys", "import", str(file))
    assert (imported.returncode, imported.stdout) == (1, "Imported 1 of 2 keys.\n")
    assert imported.stderr == "tollkeeper: line 3: raw_api_key: must be 16 to 4096 bytes\n"
    assert tollkeeper("verify", "imported-by-command-1").returncode == 0
    again = tollkeeper("keys", "import", str(file), "--json")
    results = [json.loads(line) for line in again.stdout.splitlines()]
    assert [(result["line"], result["error"]["status"]) for result in results] == [
        (2, "ALREADY_EXISTS"),
        (3, "INVALID_ARGUMENT"),
    ]
    file.write_text(file.read_text() + "a,b\n")
    spoiled = tollkeeper("keys", "import", str(file))
    assert (spoiled.returncode, spoiled.stdout) == (2, "")
    assert spoiled.stderr == "tollkeeper: line 4: 2 cells under 3 columns\n"


def test_an_import_that_is_named_can_be_repeated(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text(f"{json.dumps({'sha256_hex': 'c' * 64, 'rate': ['5/minute']})}\n")
    first, again = [tollkeeper("keys", "import", str(file), "--request-id", "take-over", "--json") for _ in range(2)]
    assert (first.returncode, again.returncode, again.stdout) == (0, 0, first.stdout)


def test_a_progress_bar_is_for_terminals(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "keys.csv"
    file.write_text("raw_api_key\n" + "".join(f"imported-with-a-bar-{number:04}\n" for number in range(1_500)))
    terminal, stderr = pty.openpty()
    try:
        finished = subprocess.run(
            [COMMANDS / "tollkeeper", "keys", "import", file],
            env=environment(DATA_DIR=str(server.data_dir)) | {"TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=60,
            check=False,
        )
        drawn = os.read(terminal, 100_000)
    finally:
        os.close(terminal)
        os.close(stderr)
    assert (finished.returncode, finished.stdout) == (0, b"Imported 1500 of 1500 keys.\n")
    assert b"Importing" in drawn
    assert b"/1500" in drawn


def test_leaked_keys_are_ended_without_showing_them(server: ServerProcess, tollkeeper: Tollkeeper) -> None:
    _, api_key = new_key(tollkeeper)
    reported = subprocess.run(
        [COMMANDS / "tollkeeper", "keys", "report-leaked", "-", "--source", "github", "--yes"],
        env=environment(DATA_DIR=str(server.data_dir)),
        input=f"tk_of_somebody_else\n\n{api_key}\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (reported.returncode, reported.stderr) == (0, "")
    assert "Revoked 1 of 2" in reported.stdout
    assert "On the lines 3." in reported.stdout
    assert api_key not in reported.stdout
    assert tollkeeper("verify", api_key).returncode == 3


def test_an_owner_is_set_suspended_resumed_and_loses_its_keys(tollkeeper: Tollkeeper) -> None:
    key_id, api_key = new_key(tollkeeper, "--owner", "hooli")
    assert tollkeeper("owners", "get", "hooli").returncode == 4
    suspended = tollkeeper("owners", "suspend", "hooli")
    assert (suspended.returncode, suspended.stdout.startswith("Created and suspended hooli")) == (0, True)
    assert tollkeeper("verify", api_key).returncode == 3
    owner = answer(tollkeeper("owners", "set", "hooli", "--name", "Hooli", "--rate", "9/minute", "--json"))["owner"]
    assert (owner["display_name"], owner["suspended"], owner["limits"][0]["amount"]) == ("Hooli", True, 9)
    assert tollkeeper("owners", "resume", "hooli").returncode == 0
    assert tollkeeper("verify", api_key).returncode == 0
    owner = answer(tollkeeper("owners", "get", "hooli", "--json"))
    assert (owner["display_name"], owner["suspended"], len(owner["limits"])) == ("Hooli", False, 1)
    assert answer(tollkeeper("quota", "--owner", "hooli", "--json"))["limits"][0]["remaining"] == 8
    assert tollkeeper("owners", "revoke-keys", "hooli").returncode == 2
    revoked = tollkeeper("owners", "revoke-keys", "hooli", "--yes", "--reason", "owner-left")
    assert (revoked.returncode, key_id in revoked.stdout) == (0, True)
    late = tollkeeper("keys", "enable", key_id)
    assert (late.returncode, "KEY_REVOKED" in late.stderr) == (7, True)


def test_keys_are_listed_by_when_they_end(tollkeeper: Tollkeeper) -> None:
    late, soon = [new_key(tollkeeper, "--owner", "ending", "--ttl", ttl)[0] for ttl in ("20d", "10d")]
    new_key(tollkeeper, "--owner", "ending")

    def listed(*options: str) -> list[str]:
        return [
            key["key_id"] for key in answer(tollkeeper("keys", "list", "--owner", "ending", "--json", *options))["keys"]
        ]

    assert listed("--expiring-within", "30d") == [soon, late]
    assert listed("--expiring-within", "15d") == [soon]
    assert listed("--older-than", "90d") == listed("--unrotated-for", "90d") == []
    assert len(listed("--all")) == 3


def test_a_reservation_is_settled(tollkeeper: Tollkeeper) -> None:
    _, api_key = new_key(tollkeeper, "--spend", "budget=5.00/30d")
    held = answer(tollkeeper("verify", api_key, "--charge", "spend=2000000", "--reserve", "--json"))
    settled = tollkeeper("settle", held["reservation_id"], "--charge", "spend=500000")
    assert settled.stdout.startswith("Settled.\n")
    assert "0.50" in settled.stdout
    assert "Settled before" in tollkeeper("settle", held["reservation_id"], "--release").stdout
    assert tollkeeper("settle", held["reservation_id"]).returncode == 2
    assert tollkeeper("settle", "res_" + "0" * 32, "--release").returncode == 4


def test_usage_is_drawn_and_told(tollkeeper: Tollkeeper) -> None:
    key_id, api_key = new_key(tollkeeper, "--owner", "drawn", "--permission", "read")
    tollkeeper("verify", api_key, "--permission", "read")
    tollkeeper("verify", api_key, "--permission", "write")
    deadline = time.monotonic() + TOLD_SECONDS
    while not (told := answer(tollkeeper("usage", key_id, "--json")))["totals"]["denied"]:
        assert time.monotonic() < deadline, "usage is told within seconds"
    assert told["totals"] == {"allowed": 1, "denied": {"PERMISSION_DENIED": 1}, "units": {"requests": 1}}
    assert (told["findings"], len(told["buckets"])) == ([], 1)
    drawn = tollkeeper("usage", "--owner", "drawn", "--by", "day", "--since", "7d")
    assert (drawn.returncode, "PERMISSION_DENIED 1" in drawn.stdout) == (0, True)
    assert tollkeeper("usage", key_id, "--until", "1d").stdout == "Nothing in this time.\n"


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    asked = {"_TOLLKEEPER_COMPLETE": "complete_bash", "COMP_WORDS": "tollkeeper keys re", "COMP_CWORD": "2"}
    completed = subprocess.run(
        [COMMANDS / "tollkeeper"], env=environment() | asked, capture_output=True, text=True, timeout=30, check=False
    )
    assert set(completed.stdout.split()) == {"revoke", "report-leaked"}
    installed = subprocess.run(
        [COMMANDS / "tollkeeper", "--install-completion", "bash"],
        env=environment() | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (installed.returncode, installed.stderr) == (0, "")
    assert "tollkeeper" in (tmp_path / ".bashrc").read_text()
