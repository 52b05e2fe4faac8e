"""The one thread that owns the model.

PEFT's active adapter is global to the model, so whoever switches it must own every forward pass: two unlocked threads
get each other's adapter. Here one thread takes requests from a bounded queue, batches those that wait for the same
adapter, switches, and generates. Adapters come and go on the same thread, between two batches.
"""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import StoppingCriteria, StoppingCriteriaList

from contracts.errors import AskTwiceError, DeadlineExceeded, InternalError, Overloaded, Unavailable
from services.generator.model import Base

log = logging.getLogger("asktwice")

_NO_ADAPTER = ""
"""Stands for "in between": neither the base (None) nor an adapter's id, so that the next request switches anew."""

OnTokens = Callable[[list[int]], None]


@dataclass(slots=True, eq=False)
class Job:
    """One prompt to continue. ``adapter`` is the id of a resident adapter, or None for the bare base."""

    prompt: list[int]
    adapter: str | None
    max_new_tokens: int
    temperature: float
    seed: int | None
    deadline: float
    """On the clock of ``time.monotonic``."""
    on_tokens: OnTokens | None = None
    """Called on the owner's thread with each new piece of the answer; must return at once."""
    done: "Future[Generated]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    def cancel(self) -> None:
        """Stop at the next token; whoever waits for ``done`` gets what there is."""
        self.cancelled = True


@dataclass(slots=True)
class Generated:
    """The new token ids, without the end token, and when the work on them began and ended (monotonic seconds)."""

    tokens: list[int]
    began: float
    ended: float


class Engine:
    """Owns a base model and its adapters; thread-safe from outside."""

    def __init__(self, base: Base, *, max_batch: int, queue_limit: int):
        self.base = base
        self._max_batch = max_batch
        self._queue_limit = queue_limit
        self._model: Any = base.model
        self._resident: dict[str, str] = {}
        self._active: str | None = None
        self._running: list[Job] = []
        self._jobs: deque[Job] = deque()
        self._commands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="model-owner", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            Overloaded: as many requests as allowed are waiting.
            Unavailable: the engine is stopping.
        """
        with self._wake:
            if self._stopping:
                raise Unavailable("The generator is stopping.", retry_after=5)
            if len(self._jobs) >= self._queue_limit:
                raise Overloaded(f"{len(self._jobs)} requests are waiting. Try again shortly.", retry_after=2)
            self._jobs.append(job)
            self._wake.notify()

    @property
    def alive(self) -> bool:
        """Whether the owner's thread still works."""
        return self._thread.is_alive()

    def load(self, adapter: str, folder: Path) -> "Future[None]":
        """Bring a published adapter into the model, between two batches. The future fails where it cannot be loaded."""
        return self._command(lambda: self._load(adapter, folder))

    def unload(self, adapter: str) -> "Future[None]":
        """Take an adapter out of the model, between two batches."""
        return self._command(lambda: self._unload(adapter))

    def stop(self, grace_s: float = 10.0) -> None:
        """Refuse new requests, finish what is queued within the grace time, fail the rest."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(grace_s)
        if self._thread.is_alive():
            with self._wake:
                for job in [*self._running, *self._jobs]:
                    job.deadline = 0.0
            self._thread.join(grace_s)

    def _command(self, command: Callable[[], None]) -> "Future[None]":
        future: Future[None] = Future()
        with self._wake:
            if self._stopping:
                future.set_exception(Unavailable("The generator is stopping.", retry_after=5))
                return future
            self._commands.append((command, future))
            self._wake.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._jobs or self._commands or self._stopping)
                commands = list(self._commands)
                self._commands.clear()
            for command, future in commands:
                _settle(future, command)
            batch = self._next_batch()
            if batch:
                self._answer(batch)
                continue
            with self._wake:
                if self._stopping and not self._commands and not self._jobs:
                    return  # nothing is queued, and nothing is accepted any more

    def _next_batch(self) -> list[Job]:
        """Take the oldest job and those behind it that can share its forward passes."""
        with self._wake:
            if not self._jobs:
                return []
            first = self._jobs.popleft()
            batch = [first]
            if first.temperature == 0:  # a sampled answer depends on its seed alone only when it runs alone
                fits = [job for job in self._jobs if job.adapter == first.adapter and job.temperature == 0]
                batch += fits[: self._max_batch - 1]
                taken = set(map(id, batch))
                self._jobs = deque(job for job in self._jobs if id(job) not in taken)
            return batch

    def _answer(self, batch: list[Job]) -> None:
        self._running = batch = [job for job in batch if self._is_wanted(job)]
        if not batch:
            return
        try:
            self._generate(batch, _Rows(batch, self._end_tokens()))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            self._fail(batch, Unavailable("The GPU's memory is full. Try again, or ask for less.", retry_after=5))
        except AskTwiceError as error:
            self._fail(batch, error)
        except Exception as error:
            log.exception("the model failed")
            self._fail(batch, InternalError(f"The model failed ({type(error).__name__})."))

    def _is_wanted(self, job: Job) -> bool:
        if job.cancelled or not job.done.set_running_or_notify_cancel():
            return False
        if time.monotonic() > job.deadline:
            job.done.set_exception(DeadlineExceeded("The request waited longer than its deadline."))
            return False
        return True

    def _fail(self, batch: list[Job], error: AskTwiceError) -> None:
        for job in batch:
            if not job.done.done():
                job.done.set_exception(error)

    @torch.inference_mode()
    def _generate(self, batch: list[Job], rows: "_Rows") -> None:
        first = batch[0]
        longest = max(len(job.prompt) for job in batch)
        pad = self.base.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(job.prompt)) + job.prompt for job in batch])
        mask = torch.tensor([[0] * (longest - len(job.prompt)) + [1] * len(job.prompt) for job in batch])
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if first.temperature > 0:
            sampling = {"do_sample": True, "temperature": first.temperature, "top_p": 1.0, "top_k": 0}
            torch.manual_seed(first.seed if first.seed is not None else time.time_ns() % 2**63)
        self._switch(first.adapter)
        self._model.generate(
            input_ids=ids.to(self.base.model.device),
            attention_mask=mask.to(self.base.model.device),
            max_new_tokens=max(job.max_new_tokens for job in batch),
            stopping_criteria=StoppingCriteriaList([rows]),
            pad_token_id=pad,
            **sampling,
        )

    def _switch(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self._resident:
            raise Unavailable(f"The adapter {adapter} was unloaded meanwhile.", retry_after=1)
        if adapter == self._active or not self._resident:
            return
        self._active = _NO_ADAPTER  # until the switch is complete
        if adapter is None:
            self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(self._resident[adapter])
            self._model.requires_grad_(False)
        self._active = adapter

    def _load(self, adapter: str, folder: Path) -> None:
        if adapter in self._resident:
            return
        self._active = _NO_ADAPTER
        # PEFT's names become names of modules, which may not hold a dot; two ids may share their digest.
        name = "a" + hashlib.sha256(adapter.encode()).hexdigest()[:16]
        try:
            if isinstance(self._model, PeftModel):
                self._model.load_adapter(folder, adapter_name=name, is_trainable=False, use_safetensors=True)
            else:
                self._model = PeftModel.from_pretrained(
                    self._model, folder, adapter_name=name, is_trainable=False, use_safetensors=True
                )
            self._model.eval()
        except BaseException:
            self._forget(name)
            raise
        self._resident[adapter] = name

    def _forget(self, name: str) -> None:
        """Undo a failed load: PEFT leaves its name registered, its layers in the model, random weights in them."""
        if isinstance(self._model, PeftModel):
            if name in self._model.peft_config:
                self._model.delete_adapter(name)
            return
        for parent in list(self._model.modules()):
            for child_name, child in list(parent.named_children()):
                if isinstance(child, LoraLayer):
                    setattr(parent, child_name, child.get_base_layer())
        if hasattr(self._model, "peft_config"):
            del self._model.peft_config

    def _unload(self, adapter: str) -> None:
        name = self._resident.pop(adapter, None)
        if name is None:
            return
        self._active = _NO_ADAPTER
        if self._resident:
            self._model.set_adapter(next(iter(self._resident.values())))
            self._model.delete_adapter(name)
        else:
            self._model = self._model.unload()
            self._active = None

    def _end_tokens(self) -> set[int]:
        end = self.base.model.generation_config.eos_token_id
        found = set(end if isinstance(end, list) else [end]) | {self.base.tokenizer.eos_token_id}
        return {token for token in found if token is not None}


class _Rows(StoppingCriteria):  # type: ignore[misc]
    """Follows each row of a batch: hands out its new tokens, and ends it at its own limit, deadline or cancellation."""

    def __init__(self, jobs: list[Job], end_tokens: set[int]):
        self._jobs = jobs
        self._end = end_tokens
        self._tokens: list[list[int]] = [[] for _ in jobs]
        self._over = [False] * len(jobs)
        self._began = time.monotonic()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """``input_ids`` is [rows, length], the last column being new. Returns which rows are over, [rows] bool."""
        now = time.monotonic()
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if not self._over[row]:
                self._over[row] = self._take(self._jobs[row], self._tokens[row], token, now)
        return torch.tensor(self._over, device=input_ids.device)

    def _take(self, job: Job, tokens: list[int], token: int, now: float) -> bool:
        """Take one row's new token; return whether the row is over, in which case its job is settled."""
        if now > job.deadline:
            job.done.set_exception(DeadlineExceeded("The answer was not ready within the deadline. Ask for less."))
            return True
        ended = token in self._end
        if not ended:
            tokens.append(token)
            if job.on_tokens is not None:
                job.on_tokens([token])
        if ended or job.cancelled or len(tokens) >= job.max_new_tokens:
            job.done.set_result(Generated(tokens, self._began, now))
            return True
        return False


def _settle(future: "Future[None]", command: Callable[[], None]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        command()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(None)
