"""What the command prints: for people on a terminal, plain when piped, or JSON."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tollkeeper import CalendarWindow, Decision, Limit, LimitState, QuotaReport
from tollkeeper.command.limits import quantity

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_WITH_UNIT = {"retry_after": "retry_after_seconds"}
_UNLIMITED_WIDTH = 100_000


def complain(text: str, *, code: int) -> int:
    """Prints one line on stderr; gives back the exit code."""
    sys.stderr.write(f"tollkeeper: {_printable(' '.join(text.split()))}\n")
    return code


def print_json(value: Any) -> None:
    """Prints a result, or a mapping of results, as JSON."""
    typer.echo(json.dumps(shape(value), indent=2, ensure_ascii=False))


def print_json_line(value: Mapping[str, Any]) -> None:
    """Prints one of many results as JSON on a line of its own."""
    typer.echo(json.dumps(shape(value), ensure_ascii=False))


def shape(value: Any) -> Any:
    """A result as JSON values: fields by their names, times as RFC 3339, lengths of time in seconds, bytes in hex."""
    if isinstance(value, Limit):
        return _limit_shape(value)
    if is_dataclass(value):
        head = {"allowed": value.allowed} if isinstance(value, Decision | QuotaReport) else {}
        return head | {_WITH_UNIT.get(each.name, each.name): shape(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [shape(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    return value.value if isinstance(value, StrEnum) else value


def _limit_shape(limit: Limit) -> dict[str, Any]:
    calendar = limit.window if isinstance(limit.window, CalendarWindow) else None
    return {
        "name": limit.name,
        "kind": limit.kind.value,
        "unit": limit.unit,
        "amount": limit.amount,
        "window_seconds": int(limit.window.total_seconds()) if isinstance(limit.window, timedelta) else None,
        "calendar": shape(calendar),
        "time_zone": limit.time_zone,
        "anchor": shape(limit.anchor),
        "shadow": limit.shadow,
    }


def print_text(text: str, *, style: str = "") -> None:
    """Prints one line, in a style if it goes to a terminal."""
    _print(Text(_printable(text), style=style))


def print_details(details: Mapping[str, str | Sequence[str]]) -> None:
    """Prints names and values, leaving out what is empty; several values go below each other."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in details.items():
        lines = [value] if isinstance(value, str) else value
        text = "\n".join(_printable(line) for line in lines)
        if text:
            grid.add_row(name, Text(text))
    _print(grid)


def several(values: Iterable[str]) -> Text:
    """Several values in one cell: below each other on a terminal, in one line for grep."""
    return Text(("\n" if sys.stdout.isatty() else ", ").join(map(_printable, values)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Sequence[str] = ()) -> None:
    """Prints rows below headings; columns that are empty all the way down are left out."""
    filled = list(rows)
    shown = [index for index, _ in enumerate(columns) if any(row[index] for row in filled)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index in shown:
        table.add_column(
            columns[index],
            justify="right" if columns[index] in right else "left",
            no_wrap=True,
        )
    for row in filled:
        cells = (row[index] for index in shown)
        table.add_row(*(Text(_printable(cell)) if isinstance(cell, str) else cell for cell in cells))
    _print(table)


def print_limit_states(states: Sequence[LimitState]) -> None:
    """Prints where limits stand."""
    now = datetime.now(UTC)
    print_table(
        ("NAME", "KIND", "UNIT", "USED", "REMAINING", "LIMIT", "RESETS", "NOTE"),
        [
            (
                state.name,
                state.kind.value,
                state.unit,
                quantity(state.used, state.kind),
                quantity(state.remaining, state.kind),
                quantity(state.limit, state.kind),
                f"in {duration(max(state.reset_at - now, timedelta()))}" if state.reset_at else "",
                ", ".join(_notes(state)),
            )
            for state in states
        ],
        right=("USED", "REMAINING", "LIMIT"),
    )


def duration(delta: timedelta) -> str:
    """A length of time for people: ``41.2 s``, ``12 min 5 s``, ``3 d 4 h``."""
    seconds = delta.total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    parts = [(days, "d"), (hour, "h"), (minute, "min"), (second, "s")]
    first = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def moment(time: datetime | None) -> str:
    """A time for people, in UTC; empty for none."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if time else ""


def _notes(state: LimitState) -> list[str]:
    notes = {"full": state.exceeded, "shadow": state.shadow, "of the owner": state.scope.name == "OWNER"}
    return [note for note, holds in notes.items() if holds]


def _print(renderable: Table | Text) -> None:
    # Rich folds what is too wide; a row of a table stays as it is, for eyes, grep and the clipboard.
    folds = sys.stdout.isatty() and not (isinstance(renderable, Table) and renderable.show_header)
    width = None if folds else _UNLIMITED_WIDTH
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(renderable, soft_wrap=isinstance(renderable, Text))
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()), color=True)


def _printable(text: str) -> str:
    """The text without what could steer the terminal: names come from whoever made the key."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
