"""Asking before what cannot be undone."""

import sys

import typer

from tollkeeper.command.output import complain


def confirm(question: str) -> None:
    """Goes on after a yes. Raises typer.Exit after a no, and typer.TyperException where nobody can be asked."""
    if not sys.stdin.isatty():
        raise typer.TyperException("this cannot be undone: confirm with --yes where nobody can be asked")
    if not typer.confirm(f"{question} This cannot be undone.", err=True):
        raise typer.Exit(complain("nothing was changed", code=1))
