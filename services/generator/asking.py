"""What becomes of a question: choose the adapter, find passages, build the prompt, generate, answer."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from contracts.clients import RetrieverClient
from contracts.errors import InvalidInput, Unavailable
from contracts.generation import AdapterInfo, Answer, AskRequest, Mode, Source, Timings, Usage
from contracts.prompts import build_messages
from contracts.retrieval import Passage
from services.generator.adapters import Adapters
from services.generator.engine import Engine, Generated, Job
from services.generator.model import Base
from services.generator.settings import GeneratorSettings

log = logging.getLogger("asktwice")


@dataclass(slots=True)
class Asked:
    """A question on its way: everything that is known before the first token."""

    request: AskRequest
    mode: Mode
    adapter: AdapterInfo | None
    sources: list[Source]
    prompt: list[int]
    begun: float
    retrieve_s: float
    id: str = field(default_factory=lambda: f"ans_{uuid.uuid4().hex}")


class Asking:
    """Answers questions in every mode."""

    def __init__(
        self, engine: Engine, adapters: Adapters, retriever: RetrieverClient | None, settings: GeneratorSettings
    ):
        self._engine = engine
        self._system_prompt = settings.system_prompt
        self._base = engine.base
        self._adapters = adapters
        self._retriever = retriever
        self._deadline_s = settings.deadline_s

    async def prepare(self, request: AskRequest, mode: Mode) -> Asked:
        """Do everything that can fail before the model is asked.

        Raises:
            NotReady: no adapter for the mode, or nothing in the index.
            InvalidInput: the question does not fit into the model's context, or the adapter is not for this mode.
            Unavailable: the retriever does not answer.
        """
        begun = time.monotonic()
        adapter = await self._adapters.resolve(mode, request.adapter)
        passages: list[Passage] = []
        if mode.retrieves:
            if self._retriever is None:
                raise Unavailable("No retriever is configured: set ASKTWICE_RETRIEVER_URL.")
            passages = (await self._retriever.search(request.question, request.top_k)).results
        retrieve_s = time.monotonic() - begun
        prompt, kept = fit(self._base, self._system_prompt, request, passages)
        sources = [Source(n=n, **passage.model_dump()) for n, passage in enumerate(kept, start=1)]
        return Asked(request, mode, adapter, sources, prompt, begun, retrieve_s)

    async def answer(self, asked: Asked) -> Answer:
        """Generate the whole answer."""
        job = self._job(asked)
        self._engine.submit(job)
        try:
            return self._answer(asked, job, await asyncio.wrap_future(job.done))
        finally:
            job.cancel()

    async def stream(self, asked: Asked) -> AsyncIterator[str | Answer]:
        """Yield pieces of text as they come, then the answer object."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[list[int]] = asyncio.Queue()
        job = self._job(asked)
        job.on_tokens = lambda tokens: _from_thread(loop, pieces, tokens)
        job.done.add_done_callback(lambda _: _from_thread(loop, pieces, []))
        self._engine.submit(job)
        return self._pieces(asked, job, pieces)

    async def _pieces(self, asked: Asked, job: Job, pieces: "asyncio.Queue[list[int]]") -> AsyncIterator[str | Answer]:
        tokens: list[int] = []
        sent = ""
        try:
            while new := await pieces.get():
                tokens += new
                text = self._text(tokens).rstrip()
                # A character of several tokens is not there until its last one is.
                if text.startswith(sent) and not text.endswith("\ufffd") and len(text) > len(sent):
                    yield text[len(sent) :]
                    sent = text
            final = self._answer(asked, job, job.done.result())
            if final.answer.startswith(sent) and len(final.answer) > len(sent):
                yield final.answer[len(sent) :]
            yield final
        finally:
            job.cancel()

    def _job(self, asked: Asked) -> Job:
        request = asked.request
        return Job(
            prompt=asked.prompt,
            adapter=asked.adapter.id if asked.adapter else None,
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            seed=request.seed,
            deadline=asked.begun + self._deadline_s,
        )

    def _text(self, tokens: list[int]) -> str:
        return str(self._base.tokenizer.decode(tokens, skip_special_tokens=True)).lstrip()

    def _answer(self, asked: Asked, job: Job, generated: Generated) -> Answer:
        now = time.monotonic()
        return Answer(
            id=asked.id,
            mode=asked.mode,
            question=asked.request.question,
            answer=self._text(generated.tokens).strip(),
            sources=asked.sources,
            model=self._base.record.model,
            quantization=self._base.record.quantization,
            adapter=asked.adapter.id if asked.adapter else None,
            usage=Usage(prompt_tokens=len(asked.prompt), completion_tokens=len(generated.tokens)),
            timings_ms=Timings(
                queue=_ms(generated.began - job.submitted),
                retrieve=_ms(asked.retrieve_s),
                generate=_ms(generated.ended - generated.began),
                total=_ms(now - asked.begun),
            ),
        )


def fit(
    base: Base, system_prompt: str, request: AskRequest, passages: list[Passage]
) -> tuple[list[int], list[Passage]]:
    """Return the prompt's token ids and the passages that it really holds.

    Passages that do not fit are left out from the last.

    Raises:
        InvalidInput: the question alone, or the question with the best passage, does not fit.
    """
    limit = base.max_tokens - request.max_new_tokens
    for kept in range(len(passages), -1 if not passages else 0, -1):
        messages = build_messages(request.question, [passage.text for passage in passages[:kept]], system_prompt)
        prompt = base.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        if len(prompt) <= limit:
            return list(prompt), passages[:kept]
    what = "the question with the best passage" if passages else "the question"
    raise InvalidInput(
        f"question: {what} takes more than the {limit} tokens that {base.record.model} leaves"
        f" beside max_new_tokens={request.max_new_tokens}. Shorten it or lower max_new_tokens."
    )


def _from_thread(loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[list[int]]", item: list[int]) -> None:
    try:
        loop.call_soon_threadsafe(queue.put_nowait, item)
    except RuntimeError:
        log.debug("the loop is gone; nobody waits for this answer any more")


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 1)
