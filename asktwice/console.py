"""What the command line shows: steps with a bar and the time left, on stderr, so that stdout stays data."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int, int, str], None]
"""Called with how much is done, of how much, and a word about it."""

stderr = Console(stderr=True, highlight=False)


def say(text: str, style: str | None = None) -> None:
    """Print one line on stderr, as it is and unwrapped."""
    stderr.print(text, style=style, markup=False, soft_wrap=True)


@contextmanager
def step(title: str) -> Iterator[Advance]:
    """Show one step: a bar with an estimate of the time left while it runs, and how long it took when it is done."""
    begun, title = time.perf_counter(), escape(title)  # names of files are the user's
    if stderr.is_terminal:
        with _bar() as progress:
            task = progress.add_task(title, total=None, note="")

            def advance(done: int, total: int, note: str = "") -> None:
                progress.update(task, completed=done, total=total or None, note=note)

            yield advance
    else:
        stderr.print(f"{title} ...")
        yield _lines()
    stderr.print(f"[green]✓[/] {title}: {time.perf_counter() - begun:.1f} s")


def _bar() -> Progress:
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=stderr,
        transient=True,
    )


def _lines() -> Advance:
    """Without a terminal: a plain line for each tenth, with the time left."""
    begun, shown = time.perf_counter(), 0

    def advance(done: int, total: int, note: str = "") -> None:
        nonlocal shown
        if not done or not total or 10 * done // total == shown:
            return
        shown = 10 * done // total
        left = (time.perf_counter() - begun) * (total - done) / done
        say(f"  {done}/{total}, about {left:.0f} s left {note}".rstrip())

    return advance
