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

from contracts.errors import AskTwiceError, DeadlineExceeded, InternalError, NotReady, Overloaded, Unavailable
from services.generator.jobs import Generated, Job, Load
from services.generator.lora import LoraWeights, SharedLora
from services.generator.model import Base
from services.generator.paged import Packed, PagedBatch, Request
from services.generator.weights import read_weights

log = logging.getLogger("asktwice")

PROMPTS_IN_PAGES = 8
"""How many requests of the greatest length the pages hold, where nothing else is said."""
FAIR_S = 1.0
"""After so long without room for its adapter, a request has it made: others' adapters begin no new requests."""
LEAST_TEMPERATURE = 1e-5
LINGER = 0.02
"""How long to wait for the next request of a client that has just been answered, as a part of a step's time."""
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
    thrown: torch.Tensor | None = None
    """The state of the dice before the step that runs."""


@dataclass(slots=True, eq=False)
class _Known:
    """An adapter that may be asked for: in the model, or to be brought in when it is.

    ``weights`` are kept beside the model, so that an adapter that had to make room is soon back, or else read again
    from ``folder``; ``used`` says when it last began a request, ``users`` how many of these run, ``claims`` how many
    were accepted and are not answered yet.
    """

    id: str
    rank: int
    folder: Path | None = None
    sha256: Mapping[str, str] | None = None
    weights: LoraWeights | None = None
    claims: int = 0
    users: int = 0
    used: int = -1
    pinned: bool = False


@dataclass(slots=True)
class _Parked:
    """Jobs whose adapter is not in the model, since when, and whether its files are being read."""

    jobs: list[Job]
    since: float
    reading: bool = False


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
        self._leaving: dict[str, _Known] = {}  # unloaded: they answer what was accepted, and no others
        self._parked: dict[str, _Parked] = {}
        self._used = itertools.count()
        self._reader = ThreadPoolExecutor(1, "adapter-reader")
        self._reading: set[Future[None]] = set()
        self._jobs: deque[Job] = deque()
        self._commands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._wake = threading.Condition()
        self._stopping = self._out_of_time = False
        self._ended, self._took_s = 0, 0.0  # of the last step: how many requests ended in it, how long it took
        self._thread = threading.Thread(target=self._run, name="model-owner", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            Overloaded: as many requests as allowed are waiting.
            Unavailable: the engine is stopping.
        """
        with self._wake:
            self.refuse_if_full()
            known = None
            if job.adapter is not None:
                known = self._known.get(job.adapter)
                if known is None:
                    raise Unavailable(f"The adapter {job.adapter} was unloaded meanwhile.", retry_after=1)
                known.claims += 1
            self._jobs.append(job)
            self._wake.notify()
        if known is not None:
            job.done.add_done_callback(lambda _: self._unclaim(known))

    def refuse_if_full(self) -> None:
        """
        Raises:
            Overloaded: as many requests as allowed are waiting.
            Unavailable: the engine is stopping.
        """
        if self._stopping:
            raise _stopping()
        waiting = self._waiting()
        if waiting >= self._queue_limit:
            raise Overloaded(f"{waiting} requests are waiting. Try again shortly.", retry_after=2)

    def _waiting(self) -> int:
        return len(self._jobs) + sum(len(parked.jobs) for parked in list(self._parked.values()))

    def _unclaim(self, known: _Known) -> None:
        with self._wake:
            known.claims -= 1
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
                future.set_exception(_stopping())
                return future

        def read() -> None:
            try:
                weights = read_weights(folder, self.base.linears, sha256)
                known = _Known(adapter, weights.rank, folder, sha256)
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
        return self._command(lambda: self._load(_Known(adapter, weights.rank), weights))

    def unload(self, adapter: str) -> "Future[None]":
        """Take an adapter out of the model: new requests for it fail, those that run end with it."""
        return self._command(lambda: self._unload(adapter))

    def pin(self, adapter: str, pinned: bool) -> "Future[None]":
        """Keep a loaded adapter in the model whatever else is asked for, or no longer so.

        The future fails with NotReady where the pinned ones would not fit together.
        """

        def set_pin() -> None:
            known = self._known.get(adapter)
            if known is not None:
                others = sum(each.rank for each in self._known.values() if each.pinned and each is not known)
                if pinned and others + known.rank > self._adapters.columns:
                    raise NotReady(
                        f"There is no room to pin {adapter}: those that are pinned have rank {others} of the"
                        f" {self._adapters.columns} that fit. Unpin one, or raise ASKTWICE_ADAPTER_RANKS."
                    )
                known.pinned = pinned
            self._unpark()

        return self._command(set_pin)

    def load_now(self) -> Load:
        """What it is doing at this moment."""
        return Load(
            running=len(self._running),
            waiting=self._waiting(),
            adapters=len(self._adapters),
            prompt_tokens=self._batch.prompt_tokens,
            shared_tokens=self._batch.shared_tokens,
        )

    def stop(self, grace_s: float = 10.0) -> None:
        """Refuse new requests, finish what was accepted within the grace time, refuse the rest."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(grace_s)
        with self._wake:
            self._out_of_time = True
            self._wake.notify_all()
        self._thread.join(grace_s)
        self._reader.shutdown(wait=False, cancel_futures=True)

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
            jobs += [job for parked in self._parked.values() for job in parked.jobs]
            waited: list[Future[Any]] = [job.done for job in jobs]
            waited += [*(future for _, future in self._commands), *self._reading]
        for each in waited:
            with suppress(InvalidStateError):  # it has its answer, or nobody waits for it
                each.set_exception(error)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(self._has_work, IDLE_S)
                commands = list(self._commands)
                self._commands.clear()
            for command, future in commands:
                _settle(future, command)
            self._let_go()
            self._take_in()
            if self._running:
                self._step()
                self._linger()
                continue
            with self._wake:
                if self._stopping and not self._commands and not self._jobs and not self._anybody_parked():
                    return  # nothing is queued, and nothing is accepted any more

    def _has_work(self) -> bool:
        # A file that is still being read, which a stop waits for, ends in a command.
        ended = self._stopping and (self._out_of_time or not self._anybody_parked())
        return bool(self._jobs or self._commands or self._running or ended)

    def _anybody_parked(self) -> bool:
        return any(parked.jobs for parked in list(self._parked.values()))

    def _take_in(self) -> None:
        """Let waiting jobs run, the oldest first, as many as may run at once."""
        now, later = time.monotonic(), deque[Job]()
        starving = [id for id, each in self._parked.items() if not each.reading and now - each.since > FAIR_S]
        while len(self._running) < self._max_batch:
            with self._wake:
                if not self._jobs:
                    break
                job = self._jobs.popleft()
            known = self._find(job.adapter)
            if known is not None and starving and known.id not in starving and not known.pinned:
                later.append(job)
            elif not job.done.running() and not job.done.set_running_or_notify_cancel():
                continue
            elif job.adapter is not None and known is None:
                job.done.set_exception(Unavailable(f"The adapter {job.adapter} is gone.", retry_after=1))
            elif known is not None and known.id not in self._adapters:
                self._park(job, known)
            else:
                self._start(job, known)
        with self._wake:
            self._jobs.extendleft(reversed(later))

    def _find(self, adapter: str | None) -> _Known | None:
        return self._known.get(adapter or "") or self._leaving.get(adapter or "")

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
        """End the requests that are cancelled or too late, and part with adapters that nobody waits for any more."""
        now = time.monotonic()
        with self._wake:
            ended = [job for job in self._jobs if job.cancelled or self._late(job, now)]
            for job in ended:
                self._jobs.remove(job)
        for adapter, parked in list(self._parked.items()):
            over = [job for job in parked.jobs if job.cancelled or self._late(job, now)]
            parked.jobs = [job for job in parked.jobs if job not in over]
            ended += over
            if not parked.jobs and not parked.reading:
                del self._parked[adapter]
        for job in ended:
            if job.done.running() or job.done.set_running_or_notify_cancel():
                job.done.set_result(Generated(0, now, now)) if job.cancelled else job.done.set_exception(
                    self._refusal()
                )
        for running in list(self._running.values()):
            if running.job.cancelled:
                self._batch.cancel(running.request)
                self._finish(running, now)
            elif self._late(running.job, now):
                self._batch.cancel(running.request)
                self._fail(running, self._refusal())
        for known in [known for known in self._leaving.values() if not known.claims and not known.users]:
            del self._leaving[known.id]
            if known.id in self._adapters:
                self._adapters.remove(known.id)
                self._unpark()

    def _refusal(self) -> AskTwiceError:
        if self._out_of_time:
            return _stopping()
        return DeadlineExceeded("The answer was not ready within the deadline. Try again later, or ask for less.")

    def _late(self, job: Job, now: float) -> bool:
        return self._out_of_time or now > job.deadline

    def _linger(self) -> None:
        """Wait a moment for those whose answers have just ended: who asks again at once is in the next step, not in the
        one after it."""
        if self._ended and self._running:
            with self._wake:
                self._wake.wait_for(lambda: len(self._jobs) >= self._ended or self._stopping, LINGER * self._took_s)

    def _step(self) -> None:
        begun, self._ended = time.monotonic(), 0
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
        self._took_s = now - begun
        for request in stepped:
            running = self._running.get(request.id)
            if running is not None:
                running.thrown = None
                self._tell(running)
                if request.over:
                    self._finish(running, now)
                    self._ended += 1

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
        for running in self._running.values():
            if running.dice is not None and running.thrown is not None:
                running.dice.set_state(running.thrown)  # what is computed again is drawn again
                running.thrown = None
        for request in self._batch.drop():
            if request.id in self._running:
                self._fail(self._running[request.id], error)

    def _forget(self, running: _Running) -> None:
        del self._running[running.request.id]
        if running.adapter is not None:
            running.adapter.users -= 1
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
                running.thrown = running.dice.get_state()
                scores = logits[row].float()
                scores = (scores - scores.max()) / max(running.job.temperature, LEAST_TEMPERATURE)
                shares = _nucleus(scores.softmax(-1), running.job.top_p)
                chosen[row] = torch.multinomial(shares, 1, generator=running.dice)[0]
        return chosen

    def _command(
        self, command: Callable[[], None], future: "Future[None] | None" = None, for_accepted: bool = False
    ) -> "Future[None]":
        """
        Args:
            for_accepted: what was accepted needs it: done even while the engine is stopping.
        """
        future = future or Future()
        with self._wake:
            if self._stopping and not for_accepted:
                future.set_exception(_stopping())
                return future
            self._commands.append((command, future))
            self._wake.notify()
        return future

    def _load(self, known: _Known, weights: LoraWeights) -> None:
        if known.id in self._known:
            return
        if known.id in self._leaving:  # it still answers its last requests, and the id stands for its content
            self._known[known.id] = self._leaving.pop(known.id)
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
        known_ones = [*self._known.values(), *self._leaving.values()]
        here = [each for each in known_ones if each.id in self._adapters]
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
        """Let an adapter say a few words in its columns before anyone asks it.

        Raises:
            ValueError: what it computes is not finite.
        """
        words = torch.arange(3, 11, device=self.base.model.device)[None] % self.base.model.config.vocab_size
        for _ in range(3):
            self._adapters.select([(adapter, 1)], [adapter])  # one row for all tokens
            logits = self.base.model(input_ids=words, use_cache=False).logits
            if not bool(torch.isfinite(logits).all()):
                raise ValueError("what it computes is not finite")
            words = torch.cat([words, logits[:, -1:].argmax(-1)], dim=1)

    def _park(self, job: Job, known: _Known) -> None:
        """Keep a job until its adapter is in the model again, and fetch that."""
        parked = self._parked.setdefault(known.id, _Parked([], time.monotonic()))
        parked.jobs.append(job)
        if parked.reading or len(parked.jobs) > 1:
            return
        if known.weights is not None:
            self._bring_back(known, known.weights)
        else:
            parked.reading = True
            self._reader.submit(self._read_again, known)

    def _read_again(self, known: _Known) -> None:
        """In the reader's thread."""
        try:
            assert known.folder is not None, "what has no files keeps its weights"
            weights = read_weights(known.folder, self.base.linears, known.sha256)
        except Exception as error:
            reason = f"The adapter {known.id} cannot be read any more: {error}"
            self._command(lambda: self._give_up(known, Unavailable(reason, retry_after=5)), for_accepted=True)
        else:
            self._command(lambda: self._bring_back(known, weights), for_accepted=True)

    def _bring_back(self, known: _Known, weights: LoraWeights) -> None:
        parked, current = self._parked.get(known.id), self._find(known.id)
        if parked is None or current is None:
            return  # nobody waits for it any more
        if parked.reading:
            parked.reading, parked.since = False, time.monotonic()
        if not parked.jobs:
            return
        known = current  # loaded again meanwhile, it is another entry for the same content
        if known.id not in self._adapters:
            try:
                self._place(known, weights)
            except Unavailable as error:
                known.weights = weights
                everyone = (*self._known.values(), *self._leaving.values())
                if not any(each.users for each in everyone):  # nobody will make room: pinned adapters have it all
                    self._give_up(known, error)
                return
            except Exception as error:  # memory, for one
                log.exception("an adapter could not be brought back")
                reason = f"{known.id} could not be brought back ({type(error).__name__})."
                self._give_up(known, Unavailable(reason, retry_after=5))
                return
        del self._parked[known.id]
        with self._wake:
            self._jobs.extendleft(reversed(parked.jobs))
        self._forget_weights()

    def _unpark(self) -> None:
        for adapter in sorted(self._parked, key=lambda adapter: self._parked[adapter].since):
            known = self._find(adapter)
            if known is not None and known.weights is not None and not self._parked[adapter].reading:
                self._bring_back(known, known.weights)

    def _give_up(self, known: _Known, error: AskTwiceError) -> None:
        parked = self._parked.pop(known.id, None)
        for job in parked.jobs if parked else []:
            job.done.set_exception(error)

    def _unload(self, adapter: str) -> None:
        with self._wake:  # from here on no request is accepted for it
            known = self._known.pop(adapter, None)
        if known is not None:
            known.pinned = False
            self._leaving[adapter] = known

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


def _stopping() -> Unavailable:
    return Unavailable("The generator is stopping.", retry_after=5)


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
