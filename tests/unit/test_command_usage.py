"""Usage in a terminal: true to scale, and what happened at all can be seen."""

from datetime import UTC, datetime

import pytest

from tollkeeper import DecisionCode, Finding, FindingKind, Granularity, Usage, UsageBucket
from tollkeeper.command.usage_views import BAR_CELLS, WORDS, print_findings, print_usage


def bucket(hour: int, allowed: int, denied: int, granularity: Granularity = Granularity.HOUR) -> UsageBucket:
    return UsageBucket(
        start_time=datetime(2027, 1, 1, hour, tzinfo=UTC),
        granularity=granularity,
        allowed=allowed,
        denied={DecisionCode.RATE_LIMITED: denied} if denied else {},
        units={"requests": allowed},
    )


def lines(capsys: pytest.CaptureFixture[str], *buckets: UsageBucket) -> list[str]:
    print_usage(Usage(buckets=buckets))
    return capsys.readouterr().out.splitlines()


def test_bars_are_to_scale_and_nothing_that_happened_is_invisible(capsys: pytest.CaptureFixture[str]) -> None:
    heading, full, half, least, total = lines(capsys, bucket(1, 900, 100), bucket(2, 500, 0), bucket(3, 0, 1))
    assert heading.split() == ["FROM", "ALLOWED", "DENIED", "DENIED", "BY", "CODE", "UNITS"]
    assert full.count("█") + full.count("░") == BAR_CELLS
    assert full.count("░") == 1
    assert half.count("█") == BAR_CELLS / 2
    assert (least.count("█"), least.count("░")) == (0, 1)
    assert total.split()[:3] == ["all", "1,400", "101"]
    assert "RATE_LIMITED 101" in total
    assert "requests 1,400" in total


def test_a_gap_in_time_shows(capsys: pytest.CaptureFixture[str]) -> None:
    together = lines(capsys, bucket(1, 1, 0), bucket(2, 1, 0))
    apart = lines(capsys, bucket(1, 1, 0), bucket(3, 1, 0))
    assert [line.split()[0] for line in together] == ["FROM", "01-01", "01-01", "all"]
    assert [line.split()[0] for line in apart] == ["FROM", "01-01", "...", "01-01", "all"]


def test_days_are_told_by_their_date(capsys: pytest.CaptureFixture[str]) -> None:
    _, day, _ = lines(capsys, bucket(0, 1, 0, Granularity.DAY))
    assert day.startswith("2027-01-01 ")


def test_nothing_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys) == ["Nothing in this time."]
    print_findings([], of_owner=False)
    assert capsys.readouterr().out == ""


def test_every_finding_has_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert WORDS.keys() == set(FindingKind) - {FindingKind.UNSPECIFIED}
    moment = datetime(2027, 1, 1, tzinfo=UTC)
    network = Finding(
        kind=FindingKind.NEW_NETWORK,
        key_id="key_1",
        owner_id="",
        first_at=moment,
        last_at=moment,
        denied=0,
        network="10.0.0.0/24",
    )
    print_findings([network], of_owner=True)
    printed = capsys.readouterr().out
    assert "10.0.0.0/24" in printed
    assert "key_1" in printed
