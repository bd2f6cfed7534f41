"""The documents say what the code does."""

import re
from pathlib import Path

from tollkeeper_server.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]


def test_the_operators_guide_names_every_setting_and_no_other() -> None:
    guide = (ROOT / "service/docs/operating.md").read_text()
    named = set(re.findall(rf"^\| `{PREFIX}([A-Z_]+)`", guide, flags=re.MULTILINE))
    assert named == {name.upper() for name in Settings.model_fields}


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("service/docs/**/*.md"), *ROOT.glob("clients/**/README.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
