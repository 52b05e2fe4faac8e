"""The one thread that owns the model.

Requests of the base and of any adapters run together, a step at a time: each step is one forward pass that holds the
next token of every running request and a part of the prompts that have just come. Between two steps the thread takes in
new requests, writes adapters into the model or out of it, and lets go of requests that are cancelled or too late.
"""

import hashlib
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from contracts.errors import AskTwiceError, DeadlineExceeded, InternalError, Overloaded, Unavailable
from services.generator.jobs import Generated, Job, Load
from services.generator.lora import LoraWeights, SharedLora
from services.generator.model import Base
from services.generator.paged import Packed, PagedBatch, Request
from services.generator.weights import read_weights

log = logging.getLogger("asktwice")

PROMPTS_IN_PAGES = 8
"""How many requests of the greatest length the pages hold, where nothing else is said."""
IDLE_S = 0.5
"""How often a thread without work looks whether what it keeps waiting for is too late."""


class NotFinite(Exception):
    """Logits that are infinite or no numbers."""


@dataclass(slots=True, eq=False)
class _Running:
    job: Job
    request: Request
    began: float
    dice: torch.Generator | None
    adapter: "_Known | None"
    told: int = 0


@dataclass(slots=True, eq=False)
class _Known:
    """An adapter that may be asked for: in the model, or to be brought in when it is.

    ``weights`` are kept beside the model, so that an adapter that had to make room is soon back, or else read again
    from ``folder``; ``used`` says when it last began a request, ``users`` how many of these run.
    """

    id: str
    folder: Path | None = None
    sha256: Mapping[str, str] | None = None
    weights: LoraWeights | None = None
    users: int = 0
    used: int = -1
    pinned: bool = False


class Engine:
    """Owns a base model and its adapters; thread-safe from outside.

    Args:
        max_batch: how many requests run at once.
        queue_limit: how many may wait.
        columns: how much rank the adapters that are in the model may have together.
        pages: how many tokens all running requests may have together; what is over is computed again later.
        kept_bytes: how much memory adapters may take beside the model; of others the files are read when they are asked
            for again.
    """

    def __init__(
        self,
        base: Base,
        *,
        max_batch: int,
        queue_limit: int,
        columns: int = 256,
        pages: int = 0,
        kept_bytes: float = math.inf,
    ):
        self.base = base
        self._max_batch, self._queue_limit, self._kept_bytes = max_batch, queue_limit, kept_bytes
        dtype = next(base.model.parameters()).dtype
        self._adapters = SharedLora(base.model, base.linears, columns, dtype, last=base.output_embedding)
        self._batch = PagedBatch(
            base.model,
            pages=pages or PROMPTS_IN_PAGES * base.max_tokens,
            step_tokens=512,
            requests=max_batch,
            before=self._before,
            choose=self._choose,
        )
        self._end = sorted(self._end_tokens())
        self._ids = map(str, itertools.count())
        self._running: dict[str, _Running] = {}
        self._known: dict[str, _Known] = {}
        self._leaving: dict[str, _Known] = {}  # unloaded: they answer their users to the end, and no others
        self._parked: dict[str, list[Job]] = {}
        self._used = itertools.count()
        self._reader = ThreadPoolExecutor(1, "adapter-reader")
        self._reading: set[Future[None]] = set()
        self._jobs: deque[Job] = deque()
        self._commands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._wake = threading.Condition()
        self._stopping = self._out_of_time = False
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

    def load(self, adapter: str, folder: Path, sha256: Mapping[str, str] | None = None) -> "Future[None]":
        """Bring a published adapter into the model, between two steps. The future fails where it cannot be loaded.

        Args:
            sha256: of its files, as they were when they were checked.
        """
        future: Future[None] = Future()
        with self._wake:
            if self._stopping:
                future.set_exception(Unavailable("The generator is stopping.", retry_after=5))
                return future
        known = _Known(adapter, folder, sha256)

        def read() -> None:
            try:
                weights = read_weights(folder, self.base.linears, sha256)
            except BaseException as error:
                with suppress(InvalidStateError):  # nobody waits for it any more
                    future.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    self._command(lambda: self._load(known, weights), future)

        self._reading.add(future)
        future.add_done_callback(self._reading.discard)
        self._reader.submit(read)
        return future

    def load_weights(self, adapter: str, weights: LoraWeights) -> "Future[None]":
        """Bring an adapter into the model that is in memory already."""
        return self._command(lambda: self._load(_Known(adapter), weights))

    def unload(self, adapter: str) -> "Future[None]":
        """Take an adapter out of the model: new requests for it fail, those that run end with it."""
        return self._command(lambda: self._unload(adapter))

    def pin(self, adapter: str, pinned: bool) -> "Future[None]":
        """Keep a loaded adapter in the model whatever else is asked for, or no longer so."""

        def set_pin() -> None:
            if adapter in self._known:
                self._known[adapter].pinned = pinned
            self._unpark()

        return self._command(set_pin)

    def load_now(self) -> Load:
        """What it is doing at this moment."""
        with self._wake:
            waiting = len(self._jobs) + sum(map(len, list(self._parked.values())))
        return Load(
            running=len(self._running),
            waiting=waiting,
            adapters=len(self._adapters),
            prompt_tokens=self._batch.prompt_tokens,
            shared_tokens=self._batch.shared_tokens,
        )

    def stop(self, grace_s: float = 10.0) -> None:
        """Refuse new requests, finish what is queued within the grace time, fail the rest."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._thread.join(grace_s)
        self._out_of_time = True
        self._thread.join(grace_s)

    # --- the owner's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._batch.stream():
                self._work()
        except BaseException:
            log.exception("the model's thread ends")
            raise
        finally:
            self._end_all(InternalError("The model's thread has ended. Restart the generator."))

    def _end_all(self, error: AskTwiceError) -> None:
        """Let nobody wait for a thread that is no more."""
        with self._wake:
            self._stopping = True
            jobs = [*(running.job for running in self._running.values()), *self._jobs]
            jobs += [job for parked in self._parked.values() for job in parked]
            waited: list[Future[Any]] = [job.done for job in jobs]
            waited += [*(future for _, future in self._commands), *self._reading]
        for each in waited:
            with suppress(InvalidStateError):  # it has its answer, or nobody waits for it
                each.set_exception(error)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._jobs or self._commands or self._stopping or self._running, IDLE_S)
                commands = list(self._commands)
                self._commands.clear()
            for command, future in commands:
                _settle(future, command)
            self._take_in()
            self._let_go()
            if self._running:
                self._step()
                continue
            with self._wake:
                if self._stopping and not self._commands and not self._jobs and not self._parked:
                    return  # nothing is queued, and nothing is accepted any more

    def _take_in(self) -> None:
        """Let waiting jobs run, the oldest first, as many as may run at once."""
        while len(self._running) < self._max_batch:
            with self._wake:
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            if not job.done.running() and not job.done.set_running_or_notify_cancel():
                continue
            now, known = time.monotonic(), self._known.get(job.adapter or "")
            if job.cancelled:
                job.done.set_result(Generated(0, now, now))
            elif self._late(job, now):
                job.done.set_exception(_too_late())
            elif job.adapter is not None and known is None:
                job.done.set_exception(_unloaded(job))
            elif known is not None and known.id not in self._adapters:
                self._park(job, known)
            else:
                self._start(job, known)

    def _start(self, job: Job, known: _Known | None) -> None:
        request = Request(
            id=next(self._ids),
            prompt=job.prompt,
            max_new_tokens=job.max_new_tokens,
            end_tokens=self._end,
            salt=_salt(job.adapter),
        )
        dice = None
        if job.temperature > 0:
            dice = torch.Generator(self.base.model.device)
            dice.manual_seed(job.seed if job.seed is not None else time.time_ns() % 2**63)
        if known is not None:
            known.users += 1
            known.used = next(self._used)
        self._running[request.id] = _Running(job, request, time.monotonic(), dice, known)
        self._batch.add(request)

    def _let_go(self) -> None:
        """End the requests that are cancelled or too late."""
        now = time.monotonic()
        for adapter, parked in list(self._parked.items()):
            for job in [job for job in parked if job.cancelled or self._late(job, now)]:
                parked.remove(job)
                job.done.set_result(Generated(0, now, now)) if job.cancelled else job.done.set_exception(_too_late())
            if not parked:
                del self._parked[adapter]
        for running in list(self._running.values()):
            if running.job.cancelled:
                self._batch.cancel(running.request)
                self._finish(running, now)
            elif self._late(running.job, now):
                self._batch.cancel(running.request)
                self._fail(running, DeadlineExceeded("The answer was not ready within the deadline. Ask for less."))

    def _late(self, job: Job, now: float) -> bool:
        return self._out_of_time or now > job.deadline

    def _step(self) -> None:
        try:
            stepped = self._batch.step()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            self._fail_step(Unavailable("The GPU's memory is full. Try again, or ask for less.", retry_after=5))
            return
        except NotFinite as error:
            self._fail_step(InternalError(f"The answer could not be computed: {error}."))
            return
        except Exception as error:
            log.exception("the model failed")
            self._fail_step(InternalError(f"The model failed ({type(error).__name__})."))
            return
        now = time.monotonic()
        for request in stepped:
            running = self._running.get(request.id)
            if running is not None:
                self._tell(running)
                if request.over:
                    self._finish(running, now)

    def _tell(self, running: _Running) -> None:
        if running.job.on_piece is None:
            return
        tokens = self._answer(running.request)
        if len(tokens) > running.told:
            running.job.on_piece(tokens[running.told :])
            running.told = len(tokens)

    def _answer(self, request: Request) -> list[int]:
        tokens = request.tokens
        return tokens[:-1] if tokens and tokens[-1] in self._end else tokens

    def _finish(self, running: _Running, now: float) -> None:
        tokens = self._answer(running.request)
        cut = len(tokens) == len(running.request.tokens) >= running.job.max_new_tokens
        running.job.done.set_result(Generated(len(tokens), running.began, now, cut, tokens))
        self._forget(running)

    def _fail(self, running: _Running, error: AskTwiceError) -> None:
        running.job.done.set_exception(error)
        self._forget(running)

    def _fail_step(self, error: AskTwiceError) -> None:
        for request in self._batch.drop():
            if request.id in self._running:
                self._fail(self._running[request.id], error)

    def _forget(self, running: _Running) -> None:
        del self._running[running.request.id]
        known = running.adapter
        if known is not None:
            known.users -= 1
            if not known.users and self._leaving.pop(known.id, None) is not None:
                self._adapters.remove(known.id)
            if not known.users:
                self._unpark()  # its columns may be what others wait for

    def _before(self, packed: Packed) -> None:
        def adapter(request: Request | None) -> str | None:
            return self._running[request.id].job.adapter if request else None

        self._adapters.select(
            [(adapter(request), tokens) for request, tokens in packed.requests], list(map(adapter, packed.kept))
        )

    def _choose(self, logits: torch.Tensor, requests: list[Request]) -> torch.Tensor:
        """The most likely token, or, with a temperature, one drawn by the request's own dice."""
        chosen = logits.argmax(-1)
        if not bool(torch.isfinite(logits.amax(-1)).all()):  # what is no number is the largest
            # Whose fault it is cannot be seen here: in packed attention it spreads to the other requests.
            raise NotFinite("what the model computed is not a number")
        for row, request in enumerate(requests):
            running = self._running[request.id]
            if running.dice is not None:
                shares = _nucleus((logits[row] / running.job.temperature).softmax(-1), running.job.top_p)
                chosen[row] = torch.multinomial(shares, 1, generator=running.dice)[0]
        return chosen

    def _command(self, command: Callable[[], None], future: "Future[None] | None" = None) -> "Future[None]":
        future = future or Future()
        with self._wake:
            if self._stopping:
                future.set_exception(Unavailable("The generator is stopping.", retry_after=5))
                return future
            self._commands.append((command, future))
            self._wake.notify()
        return future

    def _load(self, known: _Known, weights: LoraWeights) -> None:
        if known.id in self._known:
            return
        if known.id in self._leaving:  # it still answers its last requests, and the id stands for its content
            known = self._leaving.pop(known.id)
            self._known[known.id] = known
            return
        self._place(known, weights)
        try:
            self._try_out(known.id)
        except BaseException:
            self._adapters.remove(known.id)
            raise
        self._known[known.id] = known
        self._forget_weights()

    def _place(self, known: _Known, weights: LoraWeights) -> None:
        """Write an adapter into the model; those that are longest unused make room for it.

        Raises:
            Unavailable: the adapters of running requests leave none.
        """
        here = [each for each in self._known.values() if each.id in self._adapters]
        idle = [each for each in here if not each.users and not each.pinned]
        idle.sort(key=lambda each: each.used)
        gone: list[str] = []
        while not self._adapters.has_room(weights.rank, without=gone):
            if not idle:
                reason = (
                    f"rank {weights.rank} does not fit into the {self._adapters.columns} columns beside those in use"
                )
                raise Unavailable(f"There is no room for another adapter: {reason}.", retry_after=5)
            gone.append(idle.pop(0).id)
        for id in gone:
            self._adapters.remove(id)
        self._adapters.place(known.id, weights)
        known.weights, known.used = weights, next(self._used)

    def _forget_weights(self) -> None:
        """Keep to the memory for adapters beside the model: of the longest unused the files have to do."""
        kept = sorted((each for each in self._known.values() if each.weights), key=lambda each: each.used)
        taken = sum(each.weights.bytes for each in kept if each.weights)
        for each in kept:
            if taken <= self._kept_bytes:
                return
            if each.weights and each.folder is not None and each.id not in self._parked:
                taken -= each.weights.bytes
                each.weights = None

    def _try_out(self, adapter: str) -> None:
        """Let an adapter say a few words before anyone asks it.

        Raises:
            ValueError: what it computes is not finite.
        """
        self._adapters.select([(adapter, 1)], [adapter])  # one row for all tokens
        prompt = torch.arange(3, 11, device=self.base.model.device)[None] % self.base.model.config.vocab_size
        logits = self.base.model(input_ids=prompt, use_cache=False).logits
        if not bool(torch.isfinite(logits).all()):
            raise ValueError("what it computes is not finite")

    def _park(self, job: Job, known: _Known) -> None:
        """Keep a job until its adapter is in the model again, and fetch that."""
        parked = self._parked.setdefault(known.id, [])
        parked.append(job)
        if len(parked) == 1:
            self._fetch(known)

    def _fetch(self, known: _Known) -> None:
        if known.weights is not None:
            self._bring_back(known, known.weights)
            return

        folder = known.folder
        assert folder is not None, "what has no files keeps its weights"

        def read() -> None:
            try:
                weights = read_weights(folder, self.base.linears, known.sha256)
            except Exception as error:
                reason = f"The adapter {known.id} cannot be read any more: {error}"
                self._command(lambda: self._give_up(known, Unavailable(reason, retry_after=5)))
            else:
                self._command(lambda: self._bring_back(known, weights))

        self._reader.submit(read)

    def _bring_back(self, known: _Known, weights: LoraWeights) -> None:
        if known.id not in self._known:  # unloaded meanwhile
            return
        try:
            self._place(known, weights)
        except Unavailable as error:
            known.weights = weights
            if not self._running:  # nobody will make room: pinned adapters have it all
                self._give_up(known, error)
            return
        except Exception as error:  # memory, for one
            log.exception("an adapter could not be brought back")
            self._give_up(
                known, Unavailable(f"{known.id} could not be brought back ({type(error).__name__}).", retry_after=5)
            )
            return
        with self._wake:
            self._jobs.extendleft(reversed(self._parked.pop(known.id, [])))
        self._forget_weights()

    def _unpark(self) -> None:
        for adapter in list(self._parked):
            known = self._known[adapter]
            if known.weights is not None:
                self._bring_back(known, known.weights)

    def _give_up(self, known: _Known, error: AskTwiceError) -> None:
        for job in self._parked.pop(known.id, []):
            job.done.set_exception(error)

    def _unload(self, adapter: str) -> None:
        known = self._known.pop(adapter, None)
        if known is None:
            return
        for job in self._parked.pop(adapter, []):
            job.done.set_exception(_unloaded(job))
        if known.users:
            self._leaving[adapter] = known
        elif adapter in self._adapters:
            self._adapters.remove(adapter)
            self._unpark()

    def _end_tokens(self) -> set[int]:
        end: Any = self.base.model.generation_config.eos_token_id
        found = set(end if isinstance(end, list) else [end]) | {self.base.tokenizer.eos_token_id}
        return {token for token in found if token is not None}


def _nucleus(shares: torch.Tensor, top_p: float) -> torch.Tensor:
    """The smallest set of tokens that has this share of the probability (Holtzman et al. 2019, arXiv:1904.09751)."""
    if top_p >= 1:
        return shares
    ordered, at = shares.sort(descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return shares.scatter(-1, at[outside], 0.0)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("The request waited longer than its deadline.")


def _unloaded(job: Job) -> Unavailable:
    return Unavailable(f"The adapter {job.adapter} was unloaded meanwhile.", retry_after=1)


def _salt(adapter: str | None) -> int:
    """Where the hashes of a request's pages begin: ids hold the digest of the adapter's content."""
    return int.from_bytes(hashlib.blake2b((adapter or "").encode(), digest_size=8).digest(), "little")


def _settle(future: "Future[None]", command: Callable[[], None]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        command()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(None)
