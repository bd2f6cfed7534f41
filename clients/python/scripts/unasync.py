"""Makes the synchronous client from the asynchronous one, module by module and line by line.

Run it after a change in ``_async``; with ``--check`` it only tells whether what is checked in as ``_sync`` is current.
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "tollkeeper"
SOURCE, TARGET = PACKAGE / "_async", PACKAGE / "_sync"

HEADER = "# Generated from ``_async`` by ``scripts/unasync.py``; do not edit.\n"

DROPPED = "# async only"
"""Lines that say this are left out."""

SUBSTITUTIONS = [
    (r"\bAsync([A-Z])", r"\1"),
    (r'"(\w+)AsyncStub"', r'"\1Stub"'),
    (r"(\w+)AsyncStub\b", r"\1Stub"),
    (r"tollkeeper\._async\b", "tollkeeper._sync"),
    (r"grpc\.aio\.", "grpc."),
    (r"async (def|with|for) ", r"\1 "),
    (r"await ", ""),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"for (\w+) in ([^\n]+):\n +yield \1\n", r"yield from \2\n"),
    (r'The asynchronous client, a module for each service[^"]*', "The synchronous client, a module for each service."),
    (r"Make one, inside a running event loop, and share it", "Make one and share it, also between threads"),
]


def unasync(sources: dict[str, str]) -> dict[str, str]:
    """The synchronous versions of modules, by their names. Raises ValueError if a substitution finds nothing in any."""
    unused = {pattern for pattern, _ in SUBSTITUTIONS}
    made = {}
    for name, source in sources.items():
        text = HEADER + "".join(line for line in source.splitlines(keepends=True) if DROPPED not in line)
        for pattern, replacement in SUBSTITUTIONS:
            text, count = re.subn(pattern, replacement, text)
            if count:
                unused.discard(pattern)
        made[name] = _formatted(text, TARGET / name)
    if unused:
        raise ValueError(f"{sorted(unused)} find nothing")
    return made


def modules(package: Path) -> dict[str, str]:
    """The modules of a package by their names."""
    return {path.name: path.read_text() for path in sorted(package.glob("*.py"))}


def _formatted(text: str, path: Path) -> str:
    ruff = [sys.executable, "-m", "ruff"]
    for arguments in (["check", "--select=I", "--fix", "--quiet"], ["format"]):
        command = [*ruff, *arguments, f"--stdin-filename={path}", "-"]
        ran = subprocess.run(command, input=text, capture_output=True, text=True, check=True)  # noqa: S603 (fixed command)
        text = ran.stdout
    return text


def main() -> None:
    """Writes the synchronous client, or fails if it is stale."""
    made = unasync(modules(SOURCE))
    if "--check" in sys.argv:
        if made != modules(TARGET):
            sys.exit(f"{TARGET} is stale: run {Path(__file__).name}")
        return
    for name in modules(TARGET).keys() - made.keys():
        (TARGET / name).unlink()
    for name, text in made.items():
        (TARGET / name).write_text(text)


if __name__ == "__main__":
    main()
