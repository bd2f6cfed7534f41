"""A progress bar for long work, on a terminal only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[int], None]


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Report]:
    """Shows how far the work is; call what this gives with how much more is done.

    It is drawn on stderr, and not at all where that is no terminal; nothing of it stays when the work ends.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
