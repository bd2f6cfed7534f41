"""Files of many rows, as commands read them: JSON lines, or CSV with a heading."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The file; - reads stdin.")]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file. Values are texts from CSV, and any JSON from JSON lines."""

    line: int
    """Where it starts, from 1."""
    values: Mapping[str, Any]

    def fault(self, text: str) -> typer.TyperException:
        """What is wrong with it. Say no value: it may be secret."""
        return typer.TyperException(f"line {self.line}: {text}")


def read_text(path: Path) -> str:
    """The content of a file, or of stdin for ``-``. Raises typer.TyperException."""
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise typer.TyperException(f"cannot read {path}: {(error.strerror or 'error').lower()}") from None
    except UnicodeDecodeError:
        raise typer.TyperException(f"cannot read {path}: not a text in UTF-8") from None


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, at least one. Raises typer.TyperException."""
    rows = list(rows_of(read_text(path)))
    if not rows:
        raise typer.TyperException(f"{path} has no rows")
    return rows


def rows_of(text: str) -> Iterator[Row]:
    """The rows of a text: JSON lines if it starts with an object, else CSV. Raises typer.TyperException."""
    return _json_rows(text) if is_json(text) else _csv_rows(text)


def is_json(text: str) -> bool:
    """Whether a text is JSON lines."""
    return text.lstrip().startswith("{")


def _json_rows(text: str) -> Iterator[Row]:
    # Not splitlines(): a JSON string may hold other line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            # Its text says where; the document, which may be secret, is not part of it.
            raise typer.TyperException(f"line {number}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise typer.TyperException(f"line {number}: not a JSON object")
        yield Row(number, values)


def _csv_rows(text: str) -> Iterator[Row]:
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        start = reader.line_num + 1
        for cells in reader:
            if any(cells):
                if len(cells) != len(columns):
                    raise typer.TyperException(f"line {start}: {len(cells)} cells under {len(columns)} columns")
                yield Row(start, {column: cell for column, cell in zip(columns, cells, strict=True) if cell})
            start = reader.line_num + 1
    except csv.Error as error:
        raise typer.TyperException(f"line {reader.line_num}: not CSV: {error}") from None
