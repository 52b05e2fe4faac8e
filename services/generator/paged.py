"""Continuous batching, one step at a time: the one file that knows the inside of transformers.

transformers packs the tokens of all running requests into one row, keeps their keys and values in pages, splits long
prompts, and shares the pages of equal beginnings. Its manager runs that in a thread of its own; here the same parts are
driven by the thread that owns the model, so that adapters can be written between two steps. Two things are added: it
is told before each forward pass whose tokens are in it, and the pages' hashes are salted, without which requests of
different adapters would read each other's keys and values.

Written against transformers 5.23; ``tests/services/generator/test_paged.py`` fails where a new version moves the
ground.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cache_allocators import cache_allocator
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

Chooser = Callable[[torch.Tensor, list["Request"]], torch.Tensor]
"""Logits [requests, vocabulary] of the requests that get a token, to their tokens [requests]."""


@dataclass(slots=True, eq=False)
class Request:
    """A prompt on its way: ``tokens`` grows with every step, the end token last if there is one."""

    id: str
    prompt: list[int]
    max_new_tokens: int
    end_tokens: list[int]
    salt: int
    state: Any = field(init=False)

    def __post_init__(self) -> None:
        self.state = RequestState(
            request_id=self.id,
            initial_tokens=list(self.prompt),
            max_new_tokens=self.max_new_tokens,
            eos_token_id=self.end_tokens,
        )

    @property
    def tokens(self) -> list[int]:
        """The new tokens so far."""
        # A request that had to give its pages up goes on as a longer prompt.
        return [*self.state.initial_tokens[len(self.prompt) :], *self.state.generated_tokens]

    @property
    def over(self) -> bool:
        """Whether there will be no further token."""
        return bool(self.state.status >= RequestStatus.FINISHED)


@dataclass(frozen=True, slots=True)
class Packed:
    """What the next forward pass holds: each request with its number of tokens, and those that get a new token."""

    requests: list[tuple[Request, int]]
    continued: list[Request]

    @property
    def kept(self) -> list[Request | None]:
        """Whose tokens reach the output embedding: one for each request, those that are continued first."""
        return [*self.continued, *[None] * (len(self.requests) - len(self.continued))]


class PagedBatch:
    """The running requests of one model.

    Args:
        pages: how many tokens the pages hold together, in all requests.
        step_tokens: how many tokens a forward pass may hold: longer prompts are split.
        requests: how many requests may run at once.
        before: called with what the next forward pass holds.
        choose: picks the next tokens.
    """

    PAGE = 32

    def __init__(
        self,
        model: Any,
        *,
        pages: int,
        step_tokens: int,
        requests: int,
        before: Callable[[Packed], None],
        choose: Chooser,
    ):
        self._model, self._before, self._choose = model, before, choose
        self._requests: dict[str, Request] = {}
        self._suspects: deque[Request] = deque()  # of a step that failed
        self._tried: Request | None = None
        self._packed = Packed([], [])
        self._config = ContinuousBatchingConfig(
            page_size=self.PAGE,
            num_blocks=max(1, pages // self.PAGE),
            max_batch_tokens=step_tokens,
            max_requests_per_batch=requests,
            use_async_batching=False,
            use_cuda_graph=False,
        )
        generation = GenerationConfig(do_sample=False)
        # The manager is the maker of the parts alone: its thread is never started.
        self._manager = ContinuousBatchingManager(model, generation, self._config)
        self._processor = self._manager._create_batch_processor()
        self._ios = self._processor.inputs_and_outputs
        self._prepare = self._ios.prepare_batch_tensors
        self._ios.prepare_batch_tensors = self._prepare_and_tell
        self._processor.model_runner._sample = self._sample
        self._salt()
        self.prompt_tokens = 0
        self.shared_tokens = 0

    def add(self, request: Request) -> None:
        """Let a request join at the next step."""
        self._requests[request.id] = request
        self.prompt_tokens += len(request.prompt)
        if self._suspects or self._tried is not None:
            self._suspects.append(request)
        else:
            self._processor.scheduler.add_waiting_request(request.state)

    def cancel(self, request: Request) -> None:
        """Take a request out before the next step."""
        if self._requests.pop(request.id, None) is None:
            return
        if request in self._suspects:
            self._suspects.remove(request)
        else:
            self._processor.scheduler.set_request_cancellation(request.id)

    def stream(self) -> AbstractContextManager[Any]:
        """The GPU stream of the forward passes: what is written to the model beside them has to wait for them there."""
        stream = self._ios.compute_stream
        if stream is None:
            return nullcontext()
        stream.wait_stream(torch.cuda.default_stream(self._model.device))  # where the weights were loaded
        return torch.cuda.stream(stream)

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self._suspects) or bool(self._processor.has_pending_requests())

    def step(self) -> list[Request]:
        """Run one forward pass; return the requests that were in it.

        Raises:
            torch.OutOfMemoryError: and whatever the model raises: see :meth:`drop`.
        """
        self._packed = Packed([], [])
        scheduler = self._processor.scheduler
        if not scheduler.active_requests:
            # Set where the pages are full, and reset only where a request ends by itself: not where it is cancelled.
            scheduler.block_new_requests = False
        if self._tried is not None and (self._tried.id not in self._requests or self._tried.state.generated_tokens):
            self._tried = None  # its whole prompt has been read
        if self._tried is None and self._suspects:
            self._tried = self._suspects.popleft()
            scheduler.add_waiting_request(self._tried.state)
        if not self._processor.prepare_next_batch():
            return []
        self._processor._generation_step(self._model)
        self._processor.update_batch()
        for request, _ in self._packed.requests:
            if request.over:
                self._requests.pop(request.id, None)
        return [request for request, _ in self._packed.requests]

    def drop(self) -> list[Request]:
        """After a step that failed: take out the request that it failed for, once that is known, and return it.

        Nobody knows how far the step came, so all its requests begin again from what they have, the next one when the
        prompt of the one before has been read, in one step or in several. Where that fails, it is for the one that came
        last. A step that failed before it had any requests takes all of them out: it would fail again.
        """
        packed = [request for request, _ in self._packed.requests]
        failed = packed if len(packed) == 1 else [request for request in packed if request is self._tried]
        failed = failed if packed else list(self._requests.values())
        self._tried = None
        for request in failed:
            self.cancel(request)
        again = [request for request in packed if request not in failed]
        for request in again:
            self._processor.scheduler.finish_request(request.id)
            request.state = request.state.create_equivalent_initial_request()
            self.prompt_tokens += len(request.state.initial_tokens)  # they are looked up again
        self._suspects.extendleft(reversed(again))
        return failed

    def _prepare_and_tell(self, requests_in_batch: Sequence[Any], *rest: Any, **named: Any) -> None:
        future = [(self._requests[each.state.request_id], each) for each in requests_in_batch]
        for request, each in future:
            request.state = each.state
        self._packed = Packed(
            [(request, each.query_length) for request, each in future],
            [request for request, each in future if each.has_new_token],
        )
        self._before(self._packed)
        self._prepare(requests_in_batch, *rest, **named)

    def _sample(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        """``scores`` is [1, requests, vocabulary]; the tokens go to the beginning of ``output_ids``' first row."""
        chosen = self._choose(scores[0, : len(self._packed.continued)], self._packed.continued)
        output_ids[0, : len(chosen)].copy_(chosen)

    def _salt(self) -> None:
        """Hash the pages of each request from its own salt on."""
        cache = self._processor.cache

        def with_salt(method: Callable[..., Any], request_id: str, *rest: Any) -> Any:
            _salt.value = self._requests[request_id].salt
            try:
                return method(request_id, *rest)
            finally:
                _salt.value = None

        search, mark = cache.search_prefix_match, cache.mark_complete_blocks

        def search_prefix_match(request_id: str, prompt_ids: list[int]) -> int:
            found = int(with_salt(search, request_id, prompt_ids))
            self.shared_tokens += found
            return found

        def mark_complete_blocks(state: Any, complete_blocks: dict[str, int]) -> None:
            if state.request_id in self._requests:
                with_salt(lambda _, *rest: mark(*rest), state.request_id, state, complete_blocks)

        cache.search_prefix_match = search_prefix_match
        cache.mark_complete_blocks = mark_complete_blocks


class _Salt(threading.local):
    """Each engine has a thread of its own, and its own salt while it hashes."""

    value: int | None = None


_salt = _Salt()
_plain_hash = cache_allocator.compute_block_hash


def _salted_hash(parent_hash: int | None, tokens: list[int]) -> int:
    return int(_plain_hash(_salt.value if parent_hash is None else parent_hash, tokens))


cache_allocator.compute_block_hash = _salted_hash
