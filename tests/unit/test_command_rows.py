"""Files of keys: each row becomes the key that it describes, or the whole file is refused, without showing a secret."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from tollkeeper import CalendarWindow, ImportKey, Limit, LimitKind
from tollkeeper.command.keys.files import Row, read_rows
from tollkeeper.command.keys.import_rows import COLUMNS, import_key
from tollkeeper.command.keys.importing import FORMAT
from tollkeeper.command.limits import parse_limit

SECRET = "secret-of-someone-0001"


def rows(tmp_path: Path, text: str) -> list[Row]:
    file = tmp_path / "keys"
    file.write_text(text)
    return read_rows(file)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(typer.TyperException) as refused:
        [import_key(row) for row in rows(tmp_path, text)]
    assert SECRET not in refused.value.format_message()
    return refused.value.format_message()


def test_csv_and_json_lines_describe_the_same_key(tmp_path: Path) -> None:
    values = {
        "raw_api_key": SECRET,
        "name": 'One, "two"\nthree',
        "owner_id": "acme",
        "permissions": ["read", "write"],
        "rate": ["5/minute", "burst=20/10s"],
        "quota": "1000/calendar-month",
        "metadata": {"plan": "pro", "seats": 3},
        "ttl": "30d",
    }
    cells = [SECRET, '"One, ""two""\nthree"', "acme", "read; write", "5/minute;burst=20/10s", "1000/calendar-month"]
    cells += ['"{""plan"": ""pro"", ""seats"": 3}"', "30d"]
    csv = f"{','.join(values)}\n{','.join(cells)}\n"
    (from_csv,), (from_json,) = rows(tmp_path, csv), rows(tmp_path, json.dumps(values))
    assert import_key(from_csv) == import_key(from_json)
    assert import_key(from_csv) == ImportKey(
        raw_api_key=SECRET,
        name='One, "two"\nthree',
        owner_id="acme",
        permissions=("read", "write"),
        limits=(
            *(parse_limit(text, LimitKind.RATE) for text in ("5/minute", "burst=20/10s")),
            Limit.quota("quota-per-calendar-month", 1000, CalendarWindow.MONTH),
        ),
        metadata={"plan": "pro", "seats": 3},
        ttl=timedelta(days=30),
    )


def test_a_spreadsheets_mark_and_line_ends_are_no_part_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbfname,sha256_hex,expires_at\r\none,ab,2027-01-31\r\n\r\n")
    (row,) = read_rows(tmp_path / "keys")
    assert import_key(row) == ImportKey(name="one", sha256_hex="ab", expires_at=datetime(2027, 1, 31, tzinfo=UTC))


def test_rows_know_their_lines(tmp_path: Path) -> None:
    assert [row.line for row in rows(tmp_path, 'name\na\n\n"b\nc"\nd\n')] == [2, 4, 6]
    assert [row.line for row in rows(tmp_path, '{"name": "a"}\n\n{"name": "b\u2028c"}\n')] == [1, 3]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no rows"),
        ("name,raw_api_key\n", "no rows"),
        (f"name,raw_api_key\nx,{SECRET},z", "line 2: 3 cells under 2 columns"),
        (f"name,raw_api_key\nx,{SECRET}\ny\n", "line 3: 1 cells under 2 columns"),
        (f'name,raw_api_key\n"x,{SECRET}', "line 2: not CSV"),
        (f'{{"raw_api_key": "{SECRET}",', "line 1: not JSON"),
        (f'{{"raw_api_key": "{SECRET}"}}\n["{SECRET}"]', "line 2: not a JSON object"),
        (f"colour,raw_api_key\nred,{SECRET}", "line 2: there is no column colour"),
        ("name\nx", "line 2: give exactly one of raw_api_key"),
        (f"raw_api_key,sha256_hex\n{SECRET},ab", "line 2: give exactly one of raw_api_key"),
        (f'{{"raw_api_key": "{SECRET}", "ttl": 5}}', "line 1: ttl: must be a text"),
        (f'{{"raw_api_key": "{SECRET}", "permissions": [1]}}', "line 1: permissions: must be a text"),
        (f'{{"raw_api_key": ["{SECRET}"]}}', "line 1: raw_api_key: must be a text"),
        (f"raw_api_key,rate\n{SECRET},5", "line 2: rate: '5' is not"),
        (f"raw_api_key,rate\n{SECRET},5/minute;6/minute", "line 2: two limits are called per-minute"),
        (f"raw_api_key,metadata\n{SECRET},[1]", "line 2: metadata: must be a JSON object"),
        (f"hmac_sha256_hex,pepper_version\n{SECRET},x", "line 2: pepper_version: must be a whole number"),
        (f"raw_api_key,ttl,expires_at\n{SECRET},1d,2027-01-31", "line 2: give expires_at or ttl"),
    ],
)
def test_a_file_that_is_not_clear_is_refused_by_line(tmp_path: Path, text: str, fault: str) -> None:
    assert fault in refusal(tmp_path, text)


def test_the_help_names_every_column() -> None:
    words = FORMAT.replace(",", " ").split()
    assert not COLUMNS.keys() - set(words)


def test_a_file_that_cannot_be_read_is_bad_usage(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, fault in {"binary": "UTF-8", "nothing": "no such file"}.items():
        with pytest.raises(typer.TyperException, match=fault):
            read_rows(tmp_path / name)


def test_every_column_is_a_field_of_a_key() -> None:
    fields: Any = ImportKey.__dataclass_fields__
    assert COLUMNS.keys() - {"rate", "quota", "spend"} == fields.keys() - {"limits"}
