"""The README of the client says what the client and the command do."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from tollkeeper import AsyncClient
from tollkeeper.command.app import EXIT_CODES, run

README = (Path(__file__).resolve().parents[2] / "clients" / "python" / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("tollkeeper ")
]


def test_every_method_is_named() -> None:
    calls = {name for name, member in inspect.getmembers(AsyncClient, inspect.isfunction) if not name.startswith("_")}
    paged = {name for name in calls if name.endswith("_page")}
    named = set(re.findall(r"`(\w+)`", README))
    assert calls - paged - {"close"} <= named


def test_the_exit_codes_are_those_of_the_command() -> None:
    documented = dict(re.findall(r"^\| (\d) \| (.+) \|$", README, re.MULTILINE))
    told = re.findall(r"^  (\d)  (.+(?:\n {5}.+)*)", EXIT_CODES, re.MULTILINE)
    assert {code: text.replace("`", "") for code, text in documented.items()} == {
        code: " ".join(text.split()) for code, text in told
    }


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_example_is_good_usage(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TOLLKEEPER_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("TOLLKEEPER_TOKEN", "tk_caller")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "legacy.csv").write_text("raw_api_key\nlegacy-api-key-1\n")
    no_server = 5
    assert run(command[1:]) == no_server, capsys.readouterr().err
