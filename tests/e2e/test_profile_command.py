"""``tollkeeper-server profiles check``: before a profile goes out, all that is wrong with it is told."""

import shutil
from pathlib import Path

from tests.e2e.server_process import run
from tests.gateway.stack import PROFILES


def test_the_shipped_profiles_have_no_fault() -> None:
    checked = run("tollkeeper-server", "profiles", "check", str(PROFILES))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == "5 profiles: ai-powered, conduit, illumass, ilumiera, product-slug\n"
    assert run("tollkeeper-server", "profiles", "check", PROFILES=str(PROFILES)).stdout == checked.stdout


def test_every_fault_of_every_file_is_told_with_its_line(tmp_path: Path) -> None:
    shutil.copytree(PROFILES, tmp_path, dirs_exist_ok=True)
    conduit = (tmp_path / "conduit.yaml").read_text()
    (tmp_path / "conduit.yaml").write_text(conduit.replace("scheme: Bearer", "schema: Bearer"))
    (tmp_path / "new.yaml").write_text("profile: conduit\nhost: a\n")
    checked = run("tollkeeper-server", "profiles", "check", str(tmp_path))
    assert (checked.returncode, checked.stdout) == (1, "")
    line = conduit.split("\n").index("    scheme: Bearer") + 1
    assert checked.stderr.splitlines() == [
        f'conduit.yaml:{line}: "schema" is not known here; did you mean "scheme"?',
        'new.yaml:1: "answers" is missing; add it',
        'new.yaml:1: "credentials" is missing; add it',
        'new.yaml:2: "host" is not known here; did you mean "hosts"?',
    ]


def test_a_server_does_not_start_on_a_profile_with_a_fault_or_a_setting_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("profile: bad\n")
    settings = {"DATA_DIR": str(tmp_path / "data"), "LISTEN": "127.0.0.1:0", "METRICS_LISTEN": "127.0.0.1:0"}

    def refusal(**more: str) -> str:
        ended = run("tollkeeper-server", "serve", **settings, EDGE_LISTEN="127.0.0.1:0", **more)
        assert ended.returncode == 1
        return ended.stderr

    assert 'bad.yaml:1: "answers" is missing; add it' in refusal(PROFILES=str(tmp_path))
    assert "TOLLKEEPER_PROFILES must be set" in refusal()
    assert "TOLLKEEPER_CLIENT_ADDRESS: must be peer" in refusal(PROFILES=str(PROFILES), CLIENT_ADDRESS="guess")
