"""The checker of histories: which verifications count, and which must not be ALLOWED."""

from pathlib import Path

import pytest

from tests.faults.history.checker import Checker, told
from tests.faults.history.record import Outcome, Recorder, Records, Way

SENT, RETURNED, GIVEN_BACK, AGAIN = 1_000, 2_000, 3_000, 4_000


@pytest.mark.parametrize(
    ("started", "ended", "checked"),
    [
        (500, 900, False),  # before anything
        (1_500, 2_500, False),  # the mutation had not returned
        (2_000, 2_001, True),
        (2_500, 3_000, True),
        (2_500, 3_001, False),  # it may see that the key was given back
        (3_500, 3_600, False),
        (4_000, 9_000, True),  # dead again, and for good
    ],
)
def test_what_starts_and_ends_while_the_key_is_dead_is_checked(
    tmp_path: Path, started: int, ended: int, checked: bool
) -> None:
    checker = Checker([Records(tmp_path / "history")])
    checker.died(1, "disable", since=RETURNED).until = GIVEN_BACK
    checker.died(1, "revoke", since=AGAIN)
    with Recorder(tmp_path / "history") as recorder:
        recorder.add(1, Way.UNARY, Outcome.ALLOWED, started, ended)
        recorder.add(1, Way.UNARY, Outcome.DENIED, started, ended)
        recorder.add(1, Way.UNARY, Outcome.FAILED, started, ended)
        recorder.add(2, Way.UNARY, Outcome.ALLOWED, started, ended)
    verdict = checker.read()
    assert verdict.probes == 4
    assert verdict.checked == 2 * checked
    assert [probe.started for probe, _ in verdict.stale] == [started] * checked
    assert f"stale ALLOWED: {int(checked)}" in told(verdict)


def test_what_starts_and_ends_while_the_key_lives_must_not_be_denied(tmp_path: Path) -> None:
    checker = Checker([Records(tmp_path / "history")])
    checker.lives(1, "it lives", since=RETURNED).until = GIVEN_BACK
    with Recorder(tmp_path / "history") as recorder:
        for started, ended in ((1_999, 2_500), (2_000, 3_000), (2_500, 3_001)):
            recorder.add(1, Way.STREAM, Outcome.DENIED, started, ended)
            recorder.add(1, Way.STREAM, Outcome.ALLOWED, started, ended)
            recorder.add(1, Way.STREAM, Outcome.FAILED, started, ended)
    verdict = checker.read()
    assert verdict.of_living == 2
    assert [probe.started for probe, _ in verdict.refused] == [2_000]


def test_files_are_read_on_from_where_they_were_read_before(tmp_path: Path) -> None:
    checker = Checker([Records(tmp_path / "history"), Records(tmp_path / "another")])
    with Recorder(tmp_path / "history") as recorder:
        for number in range(5_000):
            recorder.add(number, Way.BATCH, Outcome.DENIED, 1, 2)
        partly = checker.read().probes
        assert 0 < partly <= 5_000
        recorder.flush()
        assert checker.read().probes == 5_000
        assert checker.read().probes == 5_000
