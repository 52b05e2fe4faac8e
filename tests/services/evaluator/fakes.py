"""A generator and a retriever that speak the contract and do as they are told, and results to write reports of."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Response

from contracts.errors import AdapterMissing
from contracts.evaluation import (
    Analysis,
    AskedQuestion,
    EvaluationQuestion,
    EvaluationResult,
    ModeAnswer,
    QuestionsOrigin,
)
from contracts.generation import (
    AdapterInfo,
    AdapterList,
    Answer,
    AskRequest,
    GeneratorInfo,
    Mode,
    Source,
    Timings,
    Usage,
)
from contracts.health import Readiness
from contracts.verdict import VerdictSettings
from services.evaluator.arms import DEFAULT, parse_arms
from services.evaluator.plan import Plan
from services.kit import create_service

ADAPTER = "qa.0123456789ab"
FIVE = (
    "Привет, а что такое курс CHATGPT PROFESSIONAL и его стоимость?",
    "Привет, а какие курсы есть по Python?",
    "Какие есть направления курсов у УИИ?",
    "Сколько повремени учиться на курсе по GPT?",
    "Есть трудоустройство поле обучения?",
)


def make_answer(question: str, mode: Mode, text: str | None = None, **changes: Any) -> Answer:
    """An answer as the generator sends it."""
    source = Source(n=1, id="p1", title="Курсы", text="Курс стоит 100 рублей.", score=1.0)
    fields: dict[str, Any] = {
        "id": "ans_1",
        "mode": mode,
        "question": question,
        "answer": f"{mode.value}: {question}" if text is None else text,
        "sources": [source] if mode.retrieves else [],
        "model": "models/asktwice-tiny",
        "quantization": "nf4",
        "adapter": ADAPTER if mode.tuned else None,
        "usage": Usage(prompt_tokens=10, completion_tokens=4),
        "timings_ms": Timings(queue=0, retrieve=0, generate=1500, total=1500),
    }
    return Answer(**fields | changes)


def make_adapter(id: str, data_file: str | None) -> AdapterInfo:
    """An adapter as the generator lists it."""
    created, modes = datetime(2026, 1, 1, tzinfo=UTC), [Mode.ft, Mode.rag_ft]
    base, name = "models/asktwice-tiny", id.partition(".")[0]
    return AdapterInfo(id=id, name=name, state="ready", base=base, created=created, modes=modes, data_file=data_file)


class FakeGenerator:
    """Answers each question by ``answering``, which may also raise, wait or return text of its own."""

    def __init__(self) -> None:
        self.answering: Callable[[str, Mode], Awaitable[Answer]] = self.plainly
        self.requests: list[tuple[AskRequest, Mode]] = []
        self.in_flight = 0
        self.adapters: list[AdapterInfo] = []
        self.ready = Readiness.of(
            {"model": "ok"},
            GeneratorInfo(model="models/asktwice-tiny", quantization="nf4", profile="demo", device="cpu").model_dump(),
        )

    async def plainly(self, question: str, mode: Mode) -> Answer:
        return make_answer(question, mode)

    async def without_adapter(self, question: str, mode: Mode) -> Answer:
        if mode.tuned:
            raise AdapterMissing("Run: asktwice train --data FILE --name NAME")
        return make_answer(question, mode)

    def app(self) -> FastAPI:
        @contextlib.asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            yield

        async def readiness() -> Readiness:
            return self.ready

        app = create_service("generator", "fake", lifespan, readiness)

        @app.get("/adapters")
        async def adapters() -> AdapterList:
            return AdapterList(adapters=self.adapters)

        @app.post("/ask")
        async def ask(body: AskRequest, mode: Mode) -> Response:
            self.requests.append((body, mode))
            self.in_flight += 1
            try:
                answer = await self.answering(body.question, mode)
            finally:
                self.in_flight -= 1
            return Response(answer.model_dump_json(), media_type="application/json")

        return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app, raise_app_exceptions=False), base_url="http://service"
    )


def retriever_app(ready: Readiness) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield

    async def readiness() -> Readiness:
        return ready

    return create_service("retriever", "fake", lifespan, readiness)


@contextlib.asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The app with its lifespan, and a client of it in this process."""
    async with app.router.lifespan_context(app), client_of(app) as client:
        yield client


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The app on a real port; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    ready = threading.Event()
    started = server.startup

    async def startup(*args: Any, **kwargs: Any) -> None:
        await started(*args, **kwargs)
        ready.set()

    server.startup = startup
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(20)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def make_result(texts: dict[Mode, list[str | None]], questions: list[str], **changes: Any) -> EvaluationResult:
    """A result with the given answers; None is a failed question."""
    asked = [
        AskedQuestion(
            question=EvaluationQuestion(question=question),
            answers=[
                ModeAnswer(mode=mode, answer=make_answer(question, mode, text))
                if text is not None
                else ModeAnswer(mode=mode, error="ответ не готов вовремя")
                for mode, text in ((mode, texts[mode][n]) for mode in texts)
            ],
        )
        for n, question in enumerate(questions)
    ]
    fields: dict[str, Any] = {
        "id": "ev_20260102T030405Z_0123abcd",
        "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "model": "Qwen/Qwen2.5-1.5B-Instruct",
        "quantization": "nf4",
        "adapter": ADAPTER,
        "profile": "gpu",
        "device": "cuda:0",
        "data_file": "selected_qa_full.csv",
        "store": "Qdrant",
        "embedding": "intfloat/multilingual-e5-small",
        "origin": QuestionsOrigin(kind="default", file="questions.txt"),
        "concurrency": 8,
        "asked": asked,
        "analysis": Analysis(model="gpt-4o-mini", text="RAG точнее."),
        "seconds": 12.34,
    }
    return EvaluationResult(**fields | changes)


async def turns(count: int = 50) -> None:
    """Let everything that can run, run."""
    for _ in range(count):
        await asyncio.sleep(0)


def plan_of(questions: Sequence[EvaluationQuestion], *, table: bool = False, arms: Sequence[str] = DEFAULT) -> Plan:
    """A plan to ask these questions, of which nobody knows what was trained on."""
    origin = QuestionsOrigin(kind="table" if table else "request")
    asked = [AskedQuestion(question=question, answers=[]) for question in questions]
    parsed = parse_arms(arms)
    unknown = [arm.name for arm in parsed if arm.mode.tuned]
    return Plan(asked=asked, origin=origin, arms=parsed, train=[], unknown=unknown, verdict=VerdictSettings())
