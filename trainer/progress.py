"""What a training shows while it runs: a bar with the losses and the time left, or plain lines without a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a training stands. Losses in nats per answer token; what is not known yet is None."""

    step: int
    steps: int
    loss: float | None
    dev_loss: float | None
    tokens_per_second: float | None
    memory_bytes: int | None
    """Most that the GPU held so far; without one, what the process holds now."""
    seconds_left: float | None

    def __str__(self) -> str:
        parts = [
            f"step {self.step}/{self.steps}",
            "" if self.loss is None else f"loss {self.loss:.3f}",
            "" if self.dev_loss is None else f"dev {self.dev_loss:.3f}",
            "" if self.tokens_per_second is None else f"{self.tokens_per_second:,.0f} tokens/s",
            "" if self.memory_bytes is None else f"{self.memory_bytes / 2**30:.1f} GiB",
            "" if self.seconds_left is None else f"{clock(self.seconds_left)} left",
        ]
        return " · ".join(part for part in parts if part)


Report = Callable[[Moment], None]


def clock(seconds: float) -> str:
    """Return ``h:mm:ss``, or ``m:ss`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def console_progress() -> Iterator[Report]:
    """Give a report that draws a bar on stderr, or prints a line for each twentieth and each new dev loss."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines()
        return
    with Progress(
        TextColumn("training"), BarColumn(bar_width=30), TextColumn("{task.description}"), console=console
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda moment: bar.update(
            task, total=moment.steps, completed=moment.step, description=str(moment), refresh=True
        )


def _plain_lines() -> Report:
    shown: tuple[int, float | None] = (-1, None)

    def report(moment: Moment) -> None:
        nonlocal shown
        now = (20 * moment.step // moment.steps, moment.dev_loss)
        if now != shown:
            shown = now
            print(moment, file=sys.stderr, flush=True)

    return report
