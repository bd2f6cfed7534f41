"""Makes the synchronous client from the asynchronous one, line by line.

Run it after a change to ``_async_client.py``; with ``--check`` it only tells whether the checked-in file is current.
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "tollkeeper"
SOURCE, TARGET = PACKAGE / "_async_client.py", PACKAGE / "_sync_client.py"

HEADER = '''"""The synchronous client. Generated from ``_async_client.py`` by ``scripts/unasync.py``; do not edit."""
'''

DROPPED = "# async only"
"""Lines that say this are left out."""

SUBSTITUTIONS = [
    (r"AsyncClient", "Client"),
    (r"AsyncStubs", "Stubs"),
    (r"AsyncIterator", "Iterator"),
    (r'"(\w+)AsyncStub"', r"\1Stub"),
    (r"TYPE_CHECKING, ", ""),
    (r"grpc\.aio\.", "grpc."),
    (r"async (def|with|for) ", r"\1 "),
    (r"await ", ""),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"for key in page\.keys:\n +yield key\n", "yield from page.keys\n"),
    (r"Make one, inside a running event loop, and share it", "Make one and share it, also between threads"),
]


def unasync(source: str) -> str:
    """The synchronous version of ``source``. Raises ValueError if a substitution finds nothing any more."""
    kept = [line for line in source.splitlines(keepends=True) if DROPPED not in line]
    text = HEADER + "".join(kept[1:])
    for pattern, replacement in SUBSTITUTIONS:
        text, count = re.subn(pattern, replacement, text)
        if not count:
            raise ValueError(f"{pattern!r} finds nothing")
    return _formatted(text)


def _formatted(text: str) -> str:
    ruff = [sys.executable, "-m", "ruff"]
    for arguments in (["check", "--select=I", "--fix", "--quiet"], ["format"]):
        command = [*ruff, *arguments, f"--stdin-filename={TARGET}", "-"]
        ran = subprocess.run(command, input=text, capture_output=True, text=True, check=True)  # noqa: S603 (fixed command)
        text = ran.stdout
    return text


def main() -> None:
    """Writes the synchronous client, or fails if it is stale."""
    text = unasync(SOURCE.read_text())
    if "--check" not in sys.argv:
        TARGET.write_text(text)
    elif text != TARGET.read_text():
        sys.exit(f"{TARGET} is stale: run {Path(__file__).name}")


if __name__ == "__main__":
    main()
