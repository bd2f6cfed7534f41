"""Commands that end keys for good."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tollkeeper import Key, LeakedKey, LeakedKeyOutcome
from tollkeeper.command.asking import confirm
from tollkeeper.command.connection import Address, TokenFile, connect
from tollkeeper.command.key_views import print_effect, print_key_change
from tollkeeper.command.keys.files import FileArgument, Row, is_json, read_text, rows_of
from tollkeeper.command.options import Comment, Why, Yes, revoke_reason
from tollkeeper.command.output import Json, print_json, print_text
from tollkeeper.command.progress import progress
from tollkeeper.command.subject import SUBJECT_HELP, read_subject

FORMAT = """\b
FILE has one API key a line, or JSON lines with api_key, url and source:
  tk_...
  {"api_key": "tk_...", "url": "https://example.com/leak", "source": "github"}
Which of them were keys of this server is printed by line; API keys never are.
"""

BATCH = 1000


def revoke(
    subject: Annotated[str, typer.Argument(metavar="KEY", help=SUBJECT_HELP)],
    reason: Why = None,
    comment: Comment = "",
    yes: Yes = False,
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """End a key for good.

    By its key id, or by possession of its API key.
    """
    key_id, api_key = read_subject(subject)
    with connect(address, token_file) as client:
        if not yes:
            confirm(f"Revoke {_named(client.get_key(key_id)) if key_id else 'the key of this API key'}?")
        revoked = client.revoke_key(key_id, api_key=api_key, reason=revoke_reason(reason), comment=comment)
    if json:
        print_json(revoked)
    else:
        print_key_change("Revoked", revoked, everywhere="No verification from now on is allowed.")


def report_leaked(
    file: FileArgument,
    url: Annotated[str, typer.Option(metavar="URL", help="Where they were found, if the file does not say.")] = "",
    source: Annotated[str, typer.Option(metavar="WORD", help="What found them, as github.")] = "",
    yes: Yes = False,
    json: Json = False,
    address: Address = None,
    token_file: TokenFile = None,
) -> None:
    """End keys whose API keys have leaked.

    Says which of them were keys of this server.
    """
    leaked = _read_leaked(file, url=url, source=source)
    if not leaked:
        raise typer.TyperException(f"{file} has no API keys")
    if not yes:
        confirm(f"Revoke the keys of {len(leaked)} leaked API keys?")
    lines = list(leaked)
    results: list[tuple[int, LeakedKeyOutcome]] = []
    with connect(address, token_file) as client, progress("Reporting", len(lines)) as report:
        for start in range(0, len(lines), BATCH):
            batch = lines[start : start + BATCH]
            answer = client.report_leaked_keys(leaked[line] for line in batch)
            results += zip(batch, answer.outcomes, strict=True)
            report(len(batch))
    if json:
        print_json(
            {
                "results": [{"line": line, "outcome": outcome} for line, outcome in results],
                "propagation": answer.propagation,
                "effective_at": answer.effective_at,
            }
        )
        return
    ours = [line for line, outcome in results if outcome is LeakedKeyOutcome.REVOKED]
    print_text(f"Revoked {len(ours)} of {len(lines)}; the others are no keys of this server.", style="bold")
    if ours:
        print_text(f"On the lines {', '.join(map(str, ours))}.")
        print_effect(answer.propagation, answer.effective_at)


def _named(key: Key) -> str:
    return f"{key.key_id} ({key.name or key.api_key_hint})"


def _read_leaked(file: Path, *, url: str, source: str) -> dict[int, LeakedKey]:
    """The leaked API keys by line. Raises typer.TyperException."""
    text = read_text(file)
    if is_json(text):
        return {row.line: _leaked_key(row, url=url, source=source) for row in rows_of(text)}
    lines = enumerate(text.splitlines(), start=1)
    return {number: LeakedKey(line.strip(), url=url, source=source) for number, line in lines if line.strip()}


def _leaked_key(row: Row, *, url: str, source: str) -> LeakedKey:
    given: dict[str, Any] = {"url": url, "source": source} | dict(row.values)
    if unknown := given.keys() - {"api_key", "url", "source"}:
        raise row.fault(f"unknown: {', '.join(sorted(unknown))}")
    if "api_key" not in given or not all(isinstance(value, str) for value in given.values()):
        raise row.fault("api_key, url and source are texts, and api_key is needed")
    return LeakedKey(given["api_key"], url=given["url"], source=given["source"])
