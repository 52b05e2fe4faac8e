"""The backend ``openai``: a server that speaks OpenAI's API, such as vLLM with LoRA modules, generates.

The chat template is rendered here and the prompt's token ids are sent to ``/v1/completions``, so the server's model
sees the same prompt as ours. An adapter is a model of that server under the adapter's id; vLLM loads it while it runs
where it was started with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import openai
from openai import AsyncOpenAI

from contracts.errors import AskTwiceError, DeadlineExceeded, InternalError, Overloaded, Unavailable
from services.generator.jobs import Generated, Job, Load
from services.generator.model import Base

LOAD_S = 60.0
"""How long a server may take to load an adapter or to forget it."""
LOOK_S = 0.2
"""How often a request that hears nothing looks whether it is still wanted."""
log = logging.getLogger("asktwice")


class RemoteEngine:
    """Hands jobs to a server; thread-safe from outside.

    Args:
        base: tokenizer and shapes; its weights are the server's.
        url: of the API, up to and with ``/v1``.
        model: what the server calls the base.
        max_batch: how many requests are sent at once.
        queue_limit: how many may wait here.
    """

    def __init__(self, base: Base, *, url: str, api_key: str, model: str, max_batch: int, queue_limit: int):
        self.base = base
        self._model = model
        self._queue_limit = queue_limit
        self._adapters: dict[str, Path] = {}
        self._waiting = 0
        self._jobs: set[Job] = set()
        self._lock = threading.Lock()
        self._stopping = False
        self._loop = asyncio.new_event_loop()
        self._places = asyncio.Semaphore(max_batch)
        self._client = AsyncOpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=None)
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote-model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        with self._lock:
            self.refuse_if_full()
            self._waiting += 1
            self._jobs.add(job)
        asyncio.run_coroutine_threadsafe(self._answer(job), self._loop)

    def refuse_if_full(self) -> None:
        if self._stopping:
            raise Unavailable("The generator is stopping.", retry_after=5)
        if self._waiting >= self._queue_limit:
            raise Overloaded(f"{self._waiting} requests are waiting. Try again shortly.", retry_after=2)

    def load(self, adapter: str, folder: Path, sha256: Mapping[str, str] | None = None) -> "Future[None]":
        return self._future(self._load(adapter, folder.resolve()))

    def unload(self, adapter: str) -> "Future[None]":
        return self._future(self._unload(adapter))

    def pin(self, adapter: str, pinned: bool) -> "Future[None]":
        return self._future(asyncio.sleep(0))  # what the server keeps in memory is its own affair

    def load_now(self) -> Load:
        with self._lock:
            return Load(running=len(self._jobs) - self._waiting, waiting=self._waiting)

    def stop(self, grace_s: float = 10.0) -> None:
        with self._lock:
            self._stopping = True
        until = time.monotonic() + grace_s
        while self._jobs and time.monotonic() < until:
            time.sleep(0.02)
        for job in list(self._jobs):
            job.deadline = 0.0
        while self._jobs and time.monotonic() < until + grace_s:
            time.sleep(0.02)
        self._future(self._client.close()).result(grace_s)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(grace_s)

    def _future(self, work: Coroutine[Any, Any, None]) -> "Future[None]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    # --- the loop's thread -------------------------------------------------------------------------------------------

    async def _answer(self, job: Job) -> None:
        waits, has_place = True, False
        try:
            has_place = bool(await _while_wanted(job, self._places.acquire()))
            with self._lock:
                self._waiting, waits = self._waiting - 1, False
            if not job.done.set_running_or_notify_cancel():
                return
            if not has_place:  # cancelled while it waited
                now = time.monotonic()
                job.done.set_result(Generated(0, now, now))
                return
            if job.adapter is not None and job.adapter not in self._adapters:
                raise Unavailable(f"The adapter {job.adapter} was unloaded meanwhile.", retry_after=1)
            job.done.set_result(await self._generate_or_load(job))
        except AskTwiceError as error:
            job.done.set_exception(error)
        except openai.APIError as error:
            job.done.set_exception(_ours(error, job.adapter or self._model))
        except ValueError:  # OpenAI's client does not catch what is no JSON in a stream
            job.done.set_exception(Unavailable("The model's server answered something else than JSON.", retry_after=2))
        except Exception as error:
            log.exception("the backend failed")
            job.done.set_exception(InternalError(f"The backend failed ({type(error).__name__})."))
        finally:
            if has_place:
                self._places.release()
            with self._lock:
                self._waiting -= waits
                self._jobs.discard(job)

    async def _generate_or_load(self, job: Job) -> Generated:
        try:
            return await self._generate(job)
        except openai.NotFoundError:
            folder = self._adapters.get(job.adapter or "")
            if job.adapter is None or folder is None:
                raise
        # A server that was started again has forgotten the adapters that were loaded while it ran.
        await self._load(job.adapter, folder)
        return await self._generate(job)

    async def _generate(self, job: Job) -> Generated:
        began = time.monotonic()
        _check_deadline(job)
        opening = self._client.completions.create(
            model=job.adapter or self._model,
            prompt=job.prompt,
            max_tokens=job.max_new_tokens,
            temperature=job.temperature,
            top_p=job.top_p,
            seed=job.seed,
            stream=True,
            stream_options={"include_usage": True},
        )
        stream = await _while_wanted(job, opening)
        text, count, cut = "", None, False
        if stream is not None:
            async with stream:
                chunks = aiter(stream)
                while (chunk := await _while_wanted(job, _next(chunks))) is not None:
                    count = chunk.usage.completion_tokens if chunk.usage else count
                    for choice in chunk.choices:
                        cut = cut or choice.finish_reason == "length"
                        if choice.text:
                            text += choice.text
                            if job.on_piece is not None:
                                job.on_piece(choice.text)
        if count is None:  # the server does not count, or was not heard to the end
            count = len(self.base.tokenizer(text, add_special_tokens=False)["input_ids"])
        return Generated(count, began, time.monotonic(), cut)

    async def _load(self, adapter: str, folder: Path) -> None:
        body, client = {"lora_name": adapter, "lora_path": str(folder)}, self._client.with_options(timeout=LOAD_S)
        try:
            try:
                await client.post("/load_lora_adapter", cast_to=str, body=body)
            except openai.APIStatusError as error:
                # It is loaded already, or the server loads none while it runs: then it may have been started with it.
                if adapter not in [model.id async for model in client.models.list()]:
                    raise Unavailable(
                        f"The server at {client.base_url} does not serve it ({_first_line(error)}). Start it with"
                        f" --lora-modules {adapter}=PATH, or with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1.",
                        retry_after=5,
                    ) from error
        except openai.APIError as error:
            raise _ours(error, adapter) from error
        self._adapters[adapter] = folder

    async def _unload(self, adapter: str) -> None:
        self._adapters.pop(adapter, None)
        try:
            client = self._client.with_options(timeout=LOAD_S)
            await client.post("/unload_lora_adapter", cast_to=str, body={"lora_name": adapter})
        except openai.APIError as error:  # it stays there, and is not asked any more
            log.info("the server keeps %s: %s", adapter, _first_line(error))


async def _while_wanted(job: Job, work: Any) -> Any:
    """The result; None where the job was cancelled meanwhile.

    Raises:
        DeadlineExceeded: it was not there in time.
    """
    task = asyncio.ensure_future(work)
    try:
        while not job.cancelled:
            done, _ = await asyncio.wait({task}, timeout=LOOK_S)
            if done:
                return task.result()
            _check_deadline(job)
        return None
    finally:
        task.cancel()


async def _next(chunks: AsyncIterator[Any]) -> Any:
    return await anext(chunks, None)


def _check_deadline(job: Job) -> None:
    if time.monotonic() > job.deadline:
        raise DeadlineExceeded("The answer was not ready within the deadline. Ask for less.")


def _ours(error: openai.APIError, model: str) -> AskTwiceError:
    """What the server's error is for those who ask us."""
    said = _first_line(error)
    if isinstance(error, openai.APITimeoutError):
        return DeadlineExceeded(f"The model's server did not answer in time ({said}).")
    if isinstance(error, openai.RateLimitError):
        return Overloaded(f"The model's server is overloaded ({said}).", retry_after=2)
    if isinstance(error, openai.NotFoundError):
        return Unavailable(f"The model's server serves no model {model} ({said}).", retry_after=5)
    if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
        return InternalError(f"The model's server refused the request ({said}).")
    return Unavailable(f"The model's server cannot answer ({said}).", retry_after=2)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
