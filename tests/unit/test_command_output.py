"""What the command prints: the same shapes every time, and nothing that steers the terminal."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tollkeeper import CalendarWindow, Limit
from tollkeeper._results.verification import decision
from tollkeeper.command.app import FAILURES, HELP, run
from tollkeeper.command.output import complain, duration, print_details, print_table, shape
from tollkeeper.command.subject import read_subject
from tollkeeper.v1 import key_pb2, limit_pb2, verification_service_pb2

KEY_ID = "key_0123456789abcdefABCDEF"


def test_a_decision_as_json_has_this_shape() -> None:
    response = verification_service_pb2.VerifyResponse(
        code=verification_service_pb2.DECISION_CODE_RATE_LIMITED,
        message="no",
        request_id="r1",
        revision=3,
        key=key_pb2.KeyIdentity(key_id=KEY_ID, permissions=["read"]),
    )
    response.retry_after.FromTimedelta(timedelta(seconds=1.5))
    state = response.limits.add(name="per-minute", kind=limit_pb2.LIMIT_KIND_RATE, unit="requests", limit=5, used=5)
    state.reset_at.FromDatetime(datetime(2027, 1, 1, tzinfo=UTC))
    assert json.loads(json.dumps(shape(decision(response)))) == {
        "allowed": False,
        "code": "RATE_LIMITED",
        "message": "no",
        "key": {
            "key_id": KEY_ID,
            "tenant_id": "",
            "owner_id": "",
            "name": "",
            "environment": "",
            "permissions": ["read"],
            "resources": [],
            "metadata": {},
            "expires_at": None,
        },
        "limits": [
            {
                "name": "per-minute",
                "kind": "RATE",
                "unit": "requests",
                "limit": 5,
                "used": 5,
                "remaining": 0,
                "reset_at": "2027-01-01T00:00:00Z",
                "exceeded": False,
                "shadow": False,
                "scope": "UNSPECIFIED",
            }
        ],
        "retry_after_seconds": 1.5,
        "reservation_id": "",
        "revision": 3,
        "degradations": [],
        "request_id": "r1",
        "secret": "UNSPECIFIED",
    }


def test_a_limit_as_json_keeps_both_kinds_of_window_apart() -> None:
    fixed = shape(Limit.rate("a", 5, timedelta(minutes=1)))
    calendar = shape(Limit.quota("b", 5, CalendarWindow.MONTH))
    assert (fixed["window_seconds"], fixed["calendar"]) == (60, None)
    assert (calendar["window_seconds"], calendar["calendar"]) == (None, "MONTH")
    assert fixed.keys() == calendar.keys()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (41.25, "41.2 s"), (59.99, "60.0 s"), (60, "1 min"), (90.6, "1 min 31 s"), (90_061, "1 d 1 h")],
)
def test_a_length_of_time_is_short_to_read(seconds: float, words: str) -> None:
    assert duration(timedelta(seconds=seconds)) == words


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_details({"name": "\x1b[2Jgone\r\n[red]x[/red]"})
    print_table(["NAME"], [["\x1b]0;title\x07"]])
    complain("\x1b[2J", code=1)
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "[red]x[/red]" in printed.out


def test_rows_stay_whole_and_empty_columns_go(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["KEY ID", "OWNER", "NAME"], [[KEY_ID, "", "n" * 200], [KEY_ID, "", "m"]])
    assert capsys.readouterr().out.splitlines() == [
        f"KEY ID{' ' * 22}NAME",
        f"{KEY_ID}  {'n' * 200}",
        f"{KEY_ID}  m",
    ]


def test_a_key_id_is_told_from_an_api_key() -> None:
    assert read_subject(KEY_ID) == (KEY_ID, None)
    for api_key in (KEY_ID + "x", "tk_abc", ""):
        assert read_subject(api_key) == (None, api_key)


def test_every_failure_that_scripts_can_tell_apart_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    documented = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert {str(code) for code in FAILURES.values()} | {"0", "1", "3"} <= documented
    assert HELP


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "crate"],
        ["keys", "get"],
        ["keys", "create", "--rate", "5"],
        ["keys", "create", "--ttl", "1d", "--expires-at", "2027-01-01"],
        ["keys", "create", "--rate", "5/minute", "--rate", "6/minute"],
        ["keys", "create", "--metadata", "plan"],
        ["quota"],
        ["quota", KEY_ID, "--owner", "acme"],
        ["verify", "tk_1", "--charge", "tokens"],
        ["verify", "tk_1", "--charge", "tokens=-5"],
        ["keys", "list", "--max", "0"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOLLKEEPER_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("TOLLKEEPER_TOKEN", "tk_caller")
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tollkeeper: ")
    assert len(printed.err.splitlines()) == 1


def test_a_server_that_is_down_is_one_line_and_exit_code_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOLLKEEPER_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("TOLLKEEPER_TOKEN", "tk_caller")
    assert run(["keys", "list"]) == 5
    printed = capsys.readouterr()
    assert "no server answers at 127.0.0.1:1" in printed.err
    assert len(printed.err.splitlines()) == 1
    assert "tk_caller" not in printed.err
