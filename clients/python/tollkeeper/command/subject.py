"""Which key an argument means."""

import re
import sys

import typer

SUBJECT_HELP = "A key id or an API key; - reads it from stdin, away from the shell's history."
API_KEY_HELP = "The API key; - reads it from stdin, away from the shell's history."

_KEY_ID = re.compile(r"key_[0-9A-Za-z]{22}", re.ASCII)
"""Shorter than any API key that Tollkeeper makes."""


def read_subject(argument: str) -> tuple[str | None, str | None]:
    """The key id and the API key, one of which is None."""
    text = read_api_key(argument)
    return (text, None) if _KEY_ID.fullmatch(text) else (None, text)


def read_api_key(argument: str) -> str:
    """The argument, or the first line of stdin for ``-``."""
    if argument != "-":
        return argument
    line = sys.stdin.readline().strip()
    if not line:
        raise typer.TyperException("stdin has nothing to read")
    return line
