"""What a run of the benchmarks found, as a table and a plot for readers."""

import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parents[2] / "service" / "docs" / "benchmarks"

_WIDTH, _LABELS, _ROW, _MARGIN = 860, 350, 26, 16
_DECADES = (0.1, 1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What one way to verify costs."""

    name: str
    cpu_us: float
    """CPU a verification in microseconds: of the server or, for what never gets there, of the client."""
    ratio: float | None = None
    """Against the bare echo of the same run."""
    goal: str = ""


def write(figures: Sequence[Figure], *, command: str, directory: Path = DIRECTORY) -> None:
    """Write ``verification.md`` and ``verification.svg``; the first figure is what the others are measured against."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.joinpath("verification.svg").write_text("\n".join(_plot(figures)) + "\n")
    directory.joinpath("verification.md").write_text("\n".join(_table(figures, command)) + "\n")


def _table(figures: Sequence[Figure], command: str) -> Iterator[str]:
    yield "# What a verification costs"
    yield ""
    yield f"Written by `{command}` on {date.today()}: {_machine()}."
    yield "CPU is that of the server as the operating system counts it or, for what the client answers by itself, that"
    yield "of the client. All of it ran side by side in one run; ratios are medians of pairs of bursts."
    yield ""
    yield "![CPU a verification](verification.svg)"
    yield ""
    yield "| way to verify | CPU a verification | against a bare echo | goal |"
    yield "|---|---:|---:|---|"
    for each in figures:
        ratio = "" if each.ratio is None else f"{each.ratio:.2f} x"
        yield f"| {each.name} | {_number(each.cpu_us)} us | {ratio} | {each.goal} |"


def _plot(figures: Sequence[Figure]) -> Iterator[str]:
    """Bars on a logarithmic scale: what is ten times cheaper is one line to the left."""
    height = len(figures) * _ROW + 2 * _MARGIN + 20
    box = f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    yield "<title>CPU a verification in microseconds, on a logarithmic scale</title>"
    yield f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
    for decade in _DECADES:
        x = _place(decade)
        yield f'<line x1="{x:.0f}" y1="{_MARGIN}" x2="{x:.0f}" y2="{height - 24}" stroke="#d8dce2"/>'
        yield f'<text x="{x:.0f}" y="{height - 8}" text-anchor="middle" fill="#5b6470">{decade:g} us</text>'
    for row, each in enumerate(figures):
        y = _MARGIN + row * _ROW
        color = "#2f6fde" if row else "#9aa5b1"
        end = _place(each.cpu_us)
        width = max(1, end - _LABELS)
        yield f'<text x="{_LABELS - 10}" y="{y + 16}" text-anchor="end" fill="#1f2933">{escape(each.name)}</text>'
        yield f'<rect x="{_LABELS}" y="{y + 3}" width="{width:.0f}" height="{_ROW - 8}" fill="{color}"/>'
        yield f'<text x="{end + 6:.0f}" y="{y + 16}" fill="#1f2933">{_number(each.cpu_us)}</text>'
    yield "</svg>"


def _place(cpu_us: float) -> float:
    first, last = math.log10(_DECADES[0]), math.log10(_DECADES[-1])
    part = (math.log10(max(cpu_us, _DECADES[0])) - first) / (last - first)
    return _LABELS + part * (_WIDTH - _LABELS - 60)


def _number(microseconds: float) -> str:
    return f"{microseconds:.2f}" if microseconds < 10 else f"{microseconds:.0f}"


def _machine() -> str:
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, a shared machine"
