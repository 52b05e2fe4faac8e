"""What is asked of a backend, and what every backend can do: our own engine, or a server that speaks OpenAI's API."""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from services.generator.model import Base

Piece = list[int] | str
"""A part of an answer: token ids, or text where a server tells no ids."""


@dataclass(slots=True, eq=False)
class Job:
    """One prompt to continue.

    Attributes:
        adapter: id of a loaded adapter; None for the bare base.
        deadline: on the clock of ``time.monotonic``.
        on_piece: called on the backend's thread with each new piece of the answer; must return at once.
    """

    prompt: list[int]
    adapter: str | None
    max_new_tokens: int
    temperature: float
    seed: int | None
    deadline: float
    top_p: float = 1.0
    on_piece: Callable[[Piece], None] | None = None
    done: "Future[Generated]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    def cancel(self) -> None:
        """Stop before the next token; whoever waits for ``done`` gets what there is."""
        self.cancelled = True


@dataclass(slots=True)
class Generated:
    """What became of a job.

    Attributes:
        count: how many new tokens there are, without the end token.
        began, ended: when the work on them began and ended (monotonic seconds).
        cut: whether there would have been more, but for the limit on their number.
        tokens: their ids; empty where a server tells none.
    """

    count: int
    began: float
    ended: float
    cut: bool = False
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Load:
    """What a backend is doing.

    Attributes:
        running, waiting: requests.
        adapters: how many adapters are in the model's memory.
        prompt_tokens, shared_tokens: of all prompts so far, and how many of these were in the cache already.
    """

    running: int
    waiting: int
    adapters: int = 0
    prompt_tokens: int = 0
    shared_tokens: int = 0

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the prompts' tokens that did not have to be computed; not a number before there were any."""
        return self.shared_tokens / self.prompt_tokens if self.prompt_tokens else math.nan


class Backend(Protocol):
    """Thread-safe from outside."""

    base: "Base"

    def load_now(self) -> Load:
        """What it is doing at this moment."""

    @property
    def alive(self) -> bool:
        """Whether it still works."""

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            Overloaded: as many requests as allowed are waiting.
            Unavailable: it is stopping.
        """

    def refuse_if_full(self) -> None:
        """
        Raises:
            Overloaded: as :meth:`submit` would; asked before a request costs anything.
            Unavailable: it is stopping.
        """

    def load(self, adapter: str, folder: Path, sha256: Mapping[str, str] | None = None) -> "Future[None]":
        """Make a published adapter answer under its id; the future fails where that cannot be.

        Args:
            sha256: of its files, as they were when they were checked.
        """

    def unload(self, adapter: str) -> "Future[None]":
        """Let an adapter answer no more: requests that run end with it."""

    def pin(self, adapter: str, pinned: bool) -> "Future[None]":
        """Keep a loaded adapter in memory whatever else is asked for, or no longer so."""

    def stop(self, grace_s: float = 10.0) -> None:
        """Refuse new requests, finish what is queued within the grace time, fail the rest."""
