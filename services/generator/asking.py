"""What becomes of a question: choose the adapter, find passages, build the prompt, generate, answer."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jinja2 import TemplateError

from contracts.chat import ChatRequest
from contracts.clients import RetrieverClient
from contracts.errors import DeadlineExceeded, InvalidInput, Unavailable
from contracts.generation import MAX_QUERY, AdapterInfo, Answer, AskRequest, Mode, Source, Timings, Usage
from contracts.prompts import Message, with_passages
from contracts.retrieval import Passage
from services.generator.adapters import Adapters
from services.generator.checkpoints import Checkpoints, Lease
from services.generator.jobs import Backend, Generated, Job, Piece
from services.generator.model import Base
from services.generator.settings import GeneratorSettings
from services.generator.transcript import THINK, Transcript

DEFAULT_NEW_TOKENS = 256
LEAST_TOKENS = 32
"""A shorter beginning of a passage tells nothing."""
LONGEST_TOKEN = 64
"""Characters: hardly any token has more."""
MOST_CHARACTERS = 256
"""Of a token, on an average over any text: runs of spaces are the longest that there are."""
Fitted = tuple[list[int], list[Passage], bool]
log = logging.getLogger("asktwice")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted, by whichever route it came.

    Attributes:
        question: what is looked up and answered.
        history: the chat before the question, the system message first.
    """

    question: str
    history: list[Message]
    mode: Mode
    adapter: str | None
    top_k: int
    max_new_tokens: int
    temperature: float
    seed: int | None
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    reasoning: bool = False
    passages: tuple[str, ...] = ()
    """Answered from in place of what would be looked up."""
    limit_name: str = "max_new_tokens"
    """What the route calls the limit of the answer's tokens."""

    @classmethod
    def of_question(cls, request: AskRequest, mode: Mode, system_prompt: str) -> "Wish":
        """
        Raises:
            InvalidInput: passages are given to a mode that takes none.
        """
        if request.passages and not mode.retrieves:
            raise InvalidInput(f"passages: the mode {mode.value} takes none; ask in rag or rag_ft.")
        return cls(
            question=request.question,
            history=[{"role": "system", "content": system_prompt}],
            mode=mode,
            adapter=request.adapter,
            top_k=request.top_k,
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            seed=request.seed,
            reasoning=request.reasoning,
            passages=tuple(request.passages or ()),
        )

    @classmethod
    def of_chat(cls, request: ChatRequest, mode: Mode, system_prompt: str) -> "Wish":
        """
        Raises:
            InvalidInput: the last message is not the user's, or is empty.
        """
        *before, last = request.messages
        if last.role != "user" or not last.text.strip():
            raise InvalidInput("messages: the last one has to be the user's, with a text.")
        history: list[Message] = [
            {"role": "system" if message.role == "developer" else message.role, "content": message.text}
            for message in before
        ]
        if not any(message["role"] == "system" for message in history):
            history.insert(0, {"role": "system", "content": system_prompt})
        return cls(
            question=last.text.strip(),
            history=history,
            mode=mode,
            adapter=request.adapter,
            top_k=request.top_k,
            max_new_tokens=request.max_completion_tokens or request.max_tokens or DEFAULT_NEW_TOKENS,
            temperature=request.temperature or 0.0,
            seed=request.seed % 2**63 if request.seed is not None else None,
            top_p=request.top_p or 1.0,
            stop=tuple(request.stop),
            reasoning=request.include_reasoning,
            limit_name="max_completion_tokens" if request.max_completion_tokens else "max_tokens",
        )


@dataclass(slots=True)
class Asked:
    """A question on its way: everything that is known before the first token."""

    wish: Wish
    adapter: AdapterInfo | None
    engine: Backend
    sources: list[Source]
    prompt: list[int]
    thinking: bool
    begun: float
    retrieve_s: float
    cut: bool = False
    """Whether the answer was cut at the limit of its tokens."""
    id: str = field(default_factory=lambda: f"ans_{uuid.uuid4().hex}")
    lease: Lease | None = None
    job: Job | None = None

    def close(self) -> None:
        """Nobody waits for the answer any more, or it is there."""
        if self.job is not None:
            self.job.cancel()
        if self.lease is not None:
            self.lease.give_back()


class Asking:
    """Answers questions in every mode."""

    def __init__(
        self,
        engine: Backend,
        adapters: Adapters,
        checkpoints: Checkpoints | None,
        retriever: RetrieverClient | None,
        settings: GeneratorSettings,
    ):
        self._engine = engine
        self._checkpoints = checkpoints
        self.system_prompt = settings.system_prompt
        self._adapters = adapters
        self._retriever = retriever
        self._deadline_s = settings.deadline_s
        # One thread: more of them would only fight for the interpreter with the event loop, which refuses the others.
        self._fitter = ThreadPoolExecutor(1, "prompts")

    @property
    def model(self) -> str:
        """The base's name, as answers tell it."""
        return self._engine.base.record.model

    def close(self) -> None:
        self._fitter.shutdown(wait=False, cancel_futures=True)

    async def prepare(self, wish: Wish) -> Asked:
        """Do everything that can fail before the model is asked.

        Raises:
            NotReady: no adapter for the mode, or nothing in the index.
            InvalidInput: the question does not fit into the model's context, or the adapter is not for this mode.
            Unavailable: the retriever does not answer.
            Overloaded: too many are waiting.
            DeadlineExceeded: all of this took too long.
        """
        self._engine.refuse_if_full()  # before it costs anything
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._prepare(wish, begun)
        except TimeoutError as error:
            raise DeadlineExceeded("The question could not be prepared within the deadline.") from error

    async def _prepare(self, wish: Wish, begun: float) -> Asked:
        adapter = await self._adapters.resolve(wish.mode, wish.adapter)
        passages: list[Passage] = []
        if wish.passages:
            given = enumerate(wish.passages, start=1)
            passages = [Passage(id=f"given-{n}", title=f"given {n}", text=text, score=1.0) for n, text in given]
        elif wish.mode.retrieves:
            if self._retriever is None:
                raise Unavailable("No retriever is configured: set ASKTWICE_RETRIEVER_URL.")
            if len(wish.question) > MAX_QUERY:
                raise InvalidInput(f"question: more than {MAX_QUERY} characters cannot be looked up. Shorten it.")
            passages = (await self._retriever.search(wish.question, wish.top_k)).results
        retrieve_s = time.monotonic() - begun
        lease = await self._lease_for(adapter)
        engine = lease.engine if lease else self._engine
        try:
            loop = asyncio.get_running_loop()
            prompt, kept, thinking = await loop.run_in_executor(self._fitter, fit, engine.base, wish, passages)
        except BaseException:
            if lease:
                lease.give_back()
            raise
        sources = [Source(n=n, **passage.model_dump()) for n, passage in enumerate(kept, start=1)]
        return Asked(wish, adapter, engine, sources, prompt, thinking, begun, retrieve_s, lease=lease)

    async def _lease_for(self, adapter: AdapterInfo | None) -> Lease | None:
        if adapter is None or adapter.kind == "lora" or self._checkpoints is None:
            return None
        return await self._checkpoints.borrow(adapter.id)

    async def answer(self, asked: Asked) -> Answer:
        """Generate the whole answer; whoever prepared the question closes it."""
        async for piece in self.stream(asked):
            if isinstance(piece, Answer):
                return piece
        raise AssertionError("a stream ends with its answer")

    def stream(self, asked: Asked) -> AsyncIterator[str | Answer]:
        """Hand the question to the engine; yield pieces of text as they come, then the answer object.

        Raises:
            Overloaded: at once, before the first piece: too many are waiting.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece] = asyncio.Queue()
        job = asked.job = self._job(asked)
        job.on_piece = lambda piece: _from_thread(loop, partial(pieces.put_nowait, piece))
        job.done.add_done_callback(lambda _: _from_thread(loop, partial(pieces.put_nowait, [])))
        try:
            asked.engine.submit(job)
        except BaseException:
            asked.close()
            raise
        return self._pieces(asked, job, pieces)

    async def _pieces(self, asked: Asked, job: Job, pieces: "asyncio.Queue[Piece]") -> AsyncIterator[str | Answer]:
        transcript = Transcript(asked.engine.base.tokenizer, asked.wish.stop, asked.thinking)
        while new := await pieces.get():
            if piece := transcript.add(new):
                yield piece
            if transcript.stopped:
                job.cancel()
        generated = job.done.result()
        if piece := transcript.end():
            yield piece
        yield self._answer(asked, job, generated, transcript)

    def _job(self, asked: Asked) -> Job:
        wish = asked.wish
        return Job(
            prompt=asked.prompt,
            adapter=asked.adapter.id if asked.adapter and asked.adapter.kind == "lora" else None,
            max_new_tokens=wish.max_new_tokens,
            temperature=wish.temperature,
            seed=wish.seed,
            top_p=wish.top_p,
            deadline=asked.begun + self._deadline_s,
        )

    def _answer(self, asked: Asked, job: Job, generated: Generated, transcript: Transcript) -> Answer:
        now = time.monotonic()
        asked.cut = generated.cut and not transcript.stopped
        return Answer(
            id=asked.id,
            mode=asked.wish.mode,
            question=asked.wish.question,
            answer=transcript.answer,
            sources=asked.sources,
            model=asked.engine.base.record.model,
            quantization=asked.engine.base.record.quantization,
            adapter=asked.adapter.id if asked.adapter else None,
            usage=Usage(prompt_tokens=len(asked.prompt), completion_tokens=generated.count),
            timings_ms=Timings(
                queue=_ms(generated.began - job.submitted),
                retrieve=_ms(asked.retrieve_s),
                generate=_ms(generated.ended - generated.began),
                total=_ms(now - asked.begun),
            ),
            reasoning=transcript.reasoning if asked.wish.reasoning else None,
        )


def fit(base: Base, wish: Wish, passages: list[Passage]) -> Fitted:
    """Return the prompt's token ids, the passages as it really holds them, and whether it opens the model's thoughts.

    Passages that do not fit are left out from the last; of the best one a beginning is kept, if there is room for one.

    Raises:
        InvalidInput: the question alone, or with a beginning of the best passage, does not fit, or the model's template
            refuses the chat.
    """
    limit = base.max_tokens - wish.max_new_tokens
    if limit < 1:
        raise InvalidInput(
            f"{wish.limit_name}: {wish.max_new_tokens} leave no room for the question in the {base.max_tokens} tokens"
            " that prompt and answer may have together. Ask for fewer."
        )

    plain = _without_control(base.tokenizer)
    history = [{**message, "content": plain(message["content"])} for message in wish.history]

    def fitting(kept: list[Passage]) -> Fitted | None:
        asked = wish.question
        if wish.mode.retrieves:  # without a passage too: a bare question would get the base's answer, from its memory
            asked = with_passages(asked, [passage.text for passage in kept])
        asked = plain(asked)
        try:
            prompt: str = base.tokenizer.apply_chat_template(
                [*history, {"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise InvalidInput(f"messages: the chat template of {base.record.model} refuses them: {error}.") from error
        if len(prompt) > limit * MOST_CHARACTERS:  # a megabyte takes a second to tokenise, and others wait
            return None
        tokens = list(base.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        return (tokens, kept, prompt.rstrip().endswith(THINK)) if len(tokens) <= limit else None

    alone = fitting([])
    if alone is None:
        raise InvalidInput(
            f"question: it takes more than the {limit} tokens that {base.record.model} leaves beside"
            f" {wish.limit_name}={wish.max_new_tokens}. Shorten it or lower {wish.limit_name}."
        )
    if not passages:
        return alone
    whole = _most(len(passages), lambda number: fitting(passages[:number]))
    if whole is not None:
        return whole
    # A passage may be longer than anything that is served: no more of it is read than could fit.
    text = passages[0].text[: limit * LONGEST_TOKEN]
    at = base.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]

    def beginning(steps: int) -> Fitted | None:
        end = at[steps * LEAST_TOKENS - 1][1]
        return fitting([passages[0].model_copy(update={"text": text[:end].rstrip() + " …"})])

    begun = _most(min(len(at), limit) // LEAST_TOKENS, beginning)
    if begun is None:  # without a passage it would be an answer of the base
        raise InvalidInput(
            f"question: beside it and {wish.limit_name}={wish.max_new_tokens} no passage fits into the"
            f" {base.max_tokens} tokens that prompt and answer may have together. Shorten it or ask for fewer."
        )
    return begun


def _without_control(tokenizer: Any) -> Callable[[str], str]:
    """What people write is text: the model's own marks in it, such as ``<|im_end|>``, are broken up.

    Else a question or a document could end its message and begin one in the system's name. A zero-width space after
    the first character keeps a mark from being read as one; people still see it as it was.
    """
    marks = sorted({str(token) for token in tokenizer.all_special_tokens if len(str(token)) > 1}, key=len, reverse=True)
    broken = re.compile("|".join(map(re.escape, marks)) or "(?!)")
    return lambda text: broken.sub(lambda mark: f"{mark[0][0]}\u200b{mark[0][1:]}", text)


def _most(number: int, attempt: Callable[[int], Fitted | None]) -> Fitted | None:
    """The attempt with the highest number that succeeds, by bisection; None where that with 1 fails."""
    best, low, high = None, 1, number
    while low <= high:
        middle = (low + high + 1) // 2
        if found := attempt(middle):
            best, low = found, middle + 1
        else:
            high = middle - 1
    return best


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        log.debug("the loop is gone; nobody waits for this answer any more")


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 1)
