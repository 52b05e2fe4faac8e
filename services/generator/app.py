"""The generator's routes: ``POST /ask``, ``/adapters``; those under ``/v1`` are in ``chat.py``."""

import asyncio
import gc
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx
from fastapi import FastAPI, Query, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Gauge
from starlette.middleware import Middleware

from contracts.clients import RetrieverClient
from contracts.errors import AskTwiceError, InternalError, InvalidInput, NotReady, Unavailable
from contracts.generation import AdapterInfo, AdapterList, Answer, AskRequest, GeneratorInfo, Mode
from contracts.health import Readiness
from contracts.serving import kept_winner
from services.generator.admission import Admission
from services.generator.chat import chat_routes
from services.generator.jobs import Load
from services.generator.memory import peak_memory
from services.generator.settings import GeneratorSettings
from services.kit import BODY_S, EventStream, at_stop_signal, create_service, problem_json, while_there

if TYPE_CHECKING:
    from services.generator.adapters import Adapters
    from services.generator.asking import Asked, Asking
    from services.generator.checkpoints import Checkpoints
    from services.generator.jobs import Backend

RETRY_S = (5, 15, 60)
log = logging.getLogger("asktwice")


class Generator:
    """The service's parts, once the model is loaded."""

    def __init__(self, settings: GeneratorSettings, retriever: RetrieverClient | None):
        self.settings = settings
        self._retriever = retriever
        self._asking: Asking | None = None
        self._adapters: Adapters | None = None
        self._engine: Backend | None = None
        self._checkpoints: Checkpoints | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.failure: str | None = None

    async def run(self) -> None:
        """Load the base, then the adapters, then look for new ones until cancelled."""
        self._engine = await self._load_patiently()
        from services.generator.adapters import Adapters
        from services.generator.asking import Asking
        from services.generator.checkpoints import Checkpoints

        settings = self.settings
        if settings.backend == "transformers":
            self._checkpoints = Checkpoints(
                settings.home_folder,
                self._load_checkpoint,
                budget=settings.checkpoints_gb * 1e9,
                idle_s=settings.checkpoint_idle_s,
                context=settings.context,
                system_prompt=settings.system_prompt,
            )
        adapters = Adapters(settings.home_folder, self._engine, settings.system_prompt, self._checkpoints)
        while self._adapters is None:
            try:
                await adapters.scan()
                self._adapters = adapters
            except Exception as error:
                self.failure = f"the adapters cannot be read: {_first_line(error)}"
                log.exception("the adapters cannot be read; trying again")
                await asyncio.sleep(RETRY_S[0])
        # Half a million objects of the libraries stay as long as the process: the collector, which looks through all of
        # them while everything else waits (0.3 s), need not look at them again.
        gc.collect()
        gc.freeze()
        self._asking = Asking(self._engine, adapters, self._checkpoints, self._retriever, settings)
        log.info("generator is ready: %s on the %s", self._engine.base.record.model, self._engine.base.device)
        await adapters.watch(self.settings.watch_s)

    async def _load_patiently(self) -> "Backend":
        """Load the base; where that fails (a hub that is down, a folder not there yet) say so and try again."""
        for wait_s in itertools.chain(RETRY_S, itertools.repeat(RETRY_S[-1])):
            try:
                return await asyncio.to_thread(self._load)
            except Exception as error:
                self.failure = f"{self.settings.base} cannot be loaded: {_first_line(error)}"
                log.warning("%s; trying again in %d s", self.failure, wait_s)
            await asyncio.sleep(wait_s)
        raise AssertionError("the waits never end")

    def _load(self) -> "Backend":
        # At import bitsandbytes advises to install a kernel package that downloads code from the hub.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        from services.generator.model import load_base, load_outline

        settings = self.settings
        limits = self._limits()
        if settings.backend == "openai":
            from services.generator.remote import RemoteEngine

            return RemoteEngine(
                load_outline(settings),
                url=settings.backend_url,
                api_key=settings.backend_api_key,
                model=settings.backend_model or settings.base,
                **limits,
            )
        from services.generator.engine import Engine

        kept = settings.adapters_gb * 1e9
        return Engine(load_base(settings), columns=settings.adapter_ranks, kept_bytes=kept, **limits)

    def load_now(self) -> Load:
        """What the backend is doing."""
        return self._engine.load_now() if self._engine is not None else Load(running=0, waiting=0)

    def _load_checkpoint(self, folder: Path) -> "Backend":
        from services.generator.engine import Engine
        from services.generator.model import load_base

        base = load_base(self.settings.model_copy(update={"base": str(folder)}))
        return Engine(base, **self._limits())

    def _limits(self) -> dict[str, int]:
        # The door is the bound. What it has let in finds room even where others have just left, whom an engine goes on
        # counting until its next step.
        settings = self.settings
        return {"max_batch": settings.max_batch, "queue_limit": 2 * (settings.max_batch + settings.queue_limit)}

    def begin_stop(self) -> None:
        """Accept nothing any more, answer what was accepted, refuse within the grace time what is left."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        engines = [
            *([self._engine] if self._engine else []),
            *(self._checkpoints.engines() if self._checkpoints else []),
        ]
        await asyncio.gather(*(asyncio.to_thread(engine.stop, self.settings.stop_grace_s) for engine in engines))

    async def close(self) -> None:
        gc.unfreeze()
        self.begin_stop()
        if self._stopping is not None:
            await self._stopping
        if self._checkpoints is not None:
            await self._checkpoints.close()
        if self._asking is not None:
            self._asking.close()

    @property
    def asking(self) -> "Asking":
        if self._asking is None:
            raise self._not_ready()
        return self._asking

    @property
    def adapters(self) -> "Adapters":
        if self._adapters is None:
            raise self._not_ready()
        return self._adapters

    def _not_ready(self) -> Unavailable:
        return Unavailable(self.failure or "The base model is still being loaded.", retry_after=2)

    async def readiness(self) -> Readiness:
        if self._asking is None or self._engine is None:
            return Readiness.of({"model": self.failure or "loading"})
        if not self._engine.alive:
            return Readiness.of({"model": "its thread has ended; restart the generator"})
        record = self._engine.base.record
        info = GeneratorInfo(
            model=record.model,
            quantization=record.quantization,
            profile=self.settings.profile,
            device=self._engine.base.device,
            memory_bytes=await asyncio.to_thread(peak_memory, self._engine.base.device),
        )
        return Readiness.of({"model": "ok"}, info.model_dump())


def create_app(settings: GeneratorSettings | None = None, retriever: RetrieverClient | None = None) -> FastAPI:
    """Return the generator's app; without arguments it is configured by the environment."""
    settings = settings or GeneratorSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            client = retriever
            if client is None and settings.retriever_url:
                http = await stack.enter_async_context(httpx.AsyncClient(base_url=settings.retriever_url, timeout=30))
                client = RetrieverClient(http)
            generator = app.state.generator = Generator(settings, client)
            running = asyncio.create_task(generator.run())
            forget = at_stop_signal(generator.begin_stop)
            try:
                yield
            finally:
                forget()
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running
                await generator.close()

    async def readiness() -> Readiness:
        return await current().readiness()

    limit = settings.max_batch + settings.queue_limit
    door = Middleware(Admission, limit=limit, at_most_s=settings.deadline_s + 2 * BODY_S)
    app = create_service("generator", "Prompt in, answer out.", lifespan, readiness, door)

    def current() -> Generator:
        return app.state.generator  # type: ignore[no-any-return]

    @app.post("/ask", response_model=Answer)
    async def ask(
        request: Request, body: AskRequest, mode: Mode | Literal["auto"] = Query(default=Mode.rag)
    ) -> Response:
        """Answer a question in one mode, ``auto`` in that of the confirmed winner; with ``stream`` as server-sent
        events."""
        from services.generator.asking import Wish

        asking = current().asking
        if mode == "auto":
            body, mode = _as_the_winner(settings, body, asking.model)
        asked = await while_there(request, asking.prepare(Wish.of_question(body, mode, asking.system_prompt)))
        if body.stream:
            return EventStream(_events(asked, asking.stream(asked)), asked.close)
        try:
            answer = await while_there(request, asking.answer(asked))
        finally:
            asked.close()
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.get("/adapters")
    async def adapters() -> AdapterList:
        """All published adapters, newest first."""
        return AdapterList(adapters=current().adapters.listing())

    @app.post("/adapters/{id}/load")
    async def load(id: str) -> AdapterInfo:
        """Check an adapter and load it."""
        return await current().adapters.load(id)

    @app.post("/adapters/{id}/unload")
    async def unload(id: str) -> AdapterInfo:
        """Take an adapter out of the model until it is loaded again."""
        return await current().adapters.unload(id)

    @app.post("/adapters/{id}/pin")
    async def pin(id: str) -> AdapterInfo:
        """Keep an adapter in the model: others make room for each other, not it for them."""
        return await current().adapters.pin(id, pinned=True)

    @app.post("/adapters/{id}/unpin")
    async def unpin(id: str) -> AdapterInfo:
        """Let an adapter make room for others again."""
        return await current().adapters.pin(id, pinned=False)

    app.include_router(chat_routes(current))
    _show_load(app.state.registry, lambda: app.state.generator.load_now())
    return app


def _show_load(registry: CollectorRegistry, look: Callable[[], Load]) -> None:
    """Tell Prometheus what the backend is doing, each time it asks."""
    told = {
        "running": "Requests that run",
        "waiting": "Requests that wait",
        "adapters": "Adapters in the model",
        "prompt_tokens": "Tokens of all prompts",
        "prefix_hit_rate": "Share of the prompts' tokens that came from the prefix cache",
        "shared_tokens": "Tokens of prompts whose keys and values were in the prefix cache",
    }
    for name, help in told.items():
        gauge = Gauge(f"asktwice_generator_{name}", help, registry=registry)
        gauge.set_function(partial(lambda name: float(getattr(look(), name)), name))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _as_the_winner(settings: GeneratorSettings, body: AskRequest, model: str) -> tuple[AskRequest, Mode]:
    """Return the question as the confirmed winner is asked it, and the winner's mode.

    Raises:
        NotReady: none was confirmed, or of another base.
        InvalidInput: another adapter was named.
    """
    winner = kept_winner(settings.home_folder)
    if winner is None or winner.model != model:
        found = f"was measured with {winner.model}, and {model} is served" if winner else "was confirmed"
        raise NotReady(
            f"mode: auto answers with the winner of an evaluation, and {'the one there is' if winner else 'none'}"
            f" {found}. Run asktwice serve --winner EVALUATION, or name a mode."
        )
    if body.adapter not in (None, winner.adapter):
        raise InvalidInput(f"adapter: auto answers with {winner.adapter or 'none'}. Name a mode to choose one.")
    return body.model_copy(update={"adapter": winner.adapter}), winner.mode


async def _events(asked: "Asked", pieces: AsyncIterator[str | Answer]) -> AsyncIterator[str]:
    """``sources``, then ``token`` for each piece of text, then ``done`` or ``error``."""
    sources = ",".join(source.model_dump_json() for source in asked.sources)
    yield _event("sources", f'{{"sources":[{sources}]}}')
    try:
        async for piece in pieces:
            if isinstance(piece, Answer):
                yield _event("done", piece.model_dump_json())
            else:
                yield _event("token", json.dumps({"text": piece}, ensure_ascii=False))
    except AskTwiceError as error:
        yield _event("error", problem_json(error.problem()))
    except Exception:
        log.exception("a stream failed")
        yield _event("error", problem_json(InternalError("The stream was broken off.").problem()))


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
