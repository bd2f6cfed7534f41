"""Usage as people see it: a bar for each stretch of time."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from rich.text import Text

from tollkeeper import DecisionCode, Finding, FindingKind, Granularity, Usage, UsageBucket
from tollkeeper.command.output import print_table, print_text, several

BAR_CELLS = 14
LENGTHS = {
    Granularity.MINUTE: timedelta(minutes=1),
    Granularity.HOUR: timedelta(hours=1),
    Granularity.DAY: timedelta(days=1),
}
FORMATS = {Granularity.DAY: "%Y-%m-%d"}
WORDS = {
    FindingKind.DENIED_BURST: "far more denials than usual",
    FindingKind.NEW_NETWORK: "used from a network that is new",
    FindingKind.EARLIER_API_KEY_USED: "the earlier API key is still in use",
    FindingKind.ENDED_API_KEY_USED: "the earlier API key was used after its end",
}


def print_usage(usage: Usage) -> None:
    """Prints a bar and the numbers for each bucket, and below them what they add up to."""
    if not usage.buckets:
        print_text("Nothing in this time.")
        return
    most = max(_count(bucket) for bucket in usage.buckets)
    rows: list[Sequence[str | Text]] = []
    for before, bucket in zip((None, *usage.buckets), usage.buckets, strict=False):
        if before and before.start_time + LENGTHS.get(before.granularity, timedelta()) < bucket.start_time:
            rows.append(("...", "", "", "", "", ""))
        label = f"{bucket.start_time:{FORMATS.get(bucket.granularity, '%m-%d %H:%M')}}"
        rows.append((label, _bar(bucket, most), *_numbers(bucket.allowed, bucket.denied, bucket.units)))
    rows.append(("all", "", *_numbers(usage.allowed, usage.denied, usage.units)))
    columns = ("FROM", "", "ALLOWED", "DENIED", "DENIED BY CODE", "UNITS")
    print_table(columns, rows, right=("ALLOWED", "DENIED"))


def print_findings(findings: Sequence[Finding], *, of_owner: bool) -> None:
    """Prints what was unusual, newest first; nothing if nothing was."""
    if not findings:
        return
    print_text("")
    print_text("Unusual:", style="bold yellow")
    print_table(
        ("FIRST", "LAST", "KEY ID", "WHAT", "MORE"),
        [
            (
                _minute(finding.first_at),
                _minute(finding.last_at) if finding.last_at != finding.first_at else "",
                finding.key_id if of_owner else "",
                WORDS.get(finding.kind, finding.kind.value),
                finding.network or (f"{finding.denied} denials in a minute" if finding.denied else ""),
            )
            for finding in findings
        ],
    )


def _numbers(allowed: int, denied: Mapping[DecisionCode, int], units: Mapping[str, int]) -> tuple[str, str, Text, Text]:
    return (
        f"{allowed:,}",
        f"{sum(denied.values()):,}",
        several(f"{code} {count:,}" for code, count in denied.items()),
        several(f"{unit} {amount:,}" for unit, amount in sorted(units.items())),
    )


def _bar(bucket: UsageBucket, most: int) -> Text:
    """Allowed and denied side by side, to the scale of the largest bucket; what happened at all has a cell."""
    denied = sum(bucket.denied.values())
    cells = max(1, round(BAR_CELLS * _count(bucket) / most)) if most else 0
    red = min(cells, max(1, round(cells * denied / _count(bucket)))) if denied else 0
    full, shaded = ("█", "░") if _speaks_unicode() else ("#", "-")
    return Text.assemble((full * (cells - red), "green"), (shaded * red, "red"))


def _count(bucket: UsageBucket) -> int:
    return bucket.allowed + sum(bucket.denied.values())


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def _speaks_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().startswith("utf")
