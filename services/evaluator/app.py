"""The evaluator over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from contracts.clients import GeneratorClient, RetrieverClient
from contracts.evaluation import Job
from contracts.health import Readiness
from services.evaluator.arms import DEFAULT, parse_arms
from services.evaluator.comparison import Comparison
from services.evaluator.jobs import Jobs
from services.evaluator.judge import Judge
from services.evaluator.openapi import EVALUATE_BODY, EVALUATE_RESPONSES, NOT_FOUND
from services.evaluator.plan import MAX_HELD_OUT
from services.evaluator.questions import read_questions
from services.evaluator.settings import EvaluatorSettings
from services.evaluator.store import UNFINISHED, EvaluationStore
from services.evaluator.wording import Language
from services.kit import create_service

READY_TIMEOUT_S = 5.0
MODES = "what is compared, by commas: base, rag, ft, rag_ft, ft:ADAPTER, rag_ft:ADAPTER, oracle, shuffled"
GRADE = "whether the judge is examined and, if it passes, grades every answer that has a reference"
PROBE = (
    "whether the probes are asked: changed facts, what nobody knows, distractors, trained questions, general knowledge"
)
MEASURE = "rows of the data file that were not trained on, to be asked and measured beside the questions"


def create_app(
    settings: EvaluatorSettings | None = None,
    generator: GeneratorClient | None = None,
    retriever: RetrieverClient | None = None,
) -> FastAPI:
    """Return the evaluator's app; without arguments it is configured by the environment.

    Args:
        settings: where things are and how long they may take.
        generator: asked instead of the service at ``settings.generator_url``.
        retriever: asked instead of the service at ``settings.retriever_url``.
    """
    settings = settings or EvaluatorSettings()
    over_http: list[httpx.AsyncClient] = []

    def http(url: str) -> httpx.AsyncClient:
        over_http.append(
            httpx.AsyncClient(
                base_url=url,
                timeout=httpx.Timeout(settings.question_deadline_s, connect=5),
                # of httpx's own accord 20 stay open, and all others connect anew for each question
                limits=httpx.Limits(max_keepalive_connections=settings.concurrency),
            )
        )
        return over_http[-1]

    generator = generator or GeneratorClient(http(settings.generator_url))
    retriever = retriever or RetrieverClient(http(settings.retriever_url))
    store = EvaluationStore(settings.home_folder)
    comparison = Comparison(generator, retriever, Judge(settings), settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.jobs = Jobs(comparison, store)
        if settings.resume:
            await app.state.jobs.resume(until_ready)
        await asyncio.to_thread(store.settle)
        try:
            yield
        finally:
            await app.state.jobs.close()
            for client in over_http:
                await client.aclose()

    async def readiness() -> Readiness:
        return await _all_ready(generator, retriever)

    async def until_ready() -> None:
        while not (await readiness()).ready:  # noqa: ASYNC110 - other processes, which tell nobody
            await asyncio.sleep(1)

    app = create_service("evaluator", "Questions in, result.txt out.", lifespan, readiness)
    _add_evaluate(app, settings, comparison)
    _add_jobs(app, store)
    return app


def _add_evaluate(app: FastAPI, settings: EvaluatorSettings, comparison: Comparison) -> None:
    @app.post(
        "/evaluate",
        response_class=PlainTextResponse,
        responses=EVALUATE_RESPONSES,
        openapi_extra={"requestBody": EVALUATE_BODY},
    )
    async def evaluate(
        request: Request,
        modes: Annotated[str, Query(max_length=1000, description=MODES)] = ",".join(DEFAULT),
        measure: Annotated[int, Query(ge=0, le=MAX_HELD_OUT, description=MEASURE)] = 0,
        lang: Annotated[Language, Query(description="of the measured part")] = "ru",
        grade: Annotated[bool, Query(description=GRADE)] = False,
        probe: Annotated[bool, Query(description=PROBE)] = False,
    ) -> Response:
        """Ask every question in every mode and answer with result.txt.

        Without a body the default questions are asked. Questions with reference answers are measured and make a
        verdict; of the file that an adapter was trained on only the rows that it never saw are asked. With
        `Prefer: respond-async` the answer is 202 at once, and `Location` names the job.
        """
        jobs: Jobs = app.state.jobs
        questions = await read_questions(request, settings.questions)
        arms = parse_arms(modes.split(","))
        run = await jobs.start(await comparison.plan(questions, arms, measure, lang, grade=grade, probe=probe))
        headers = {"X-Evaluation-Id": run.job.id}
        if _prefers_async(request):
            headers |= {"Location": f"/jobs/{run.job.id}", "Preference-Applied": "respond-async"}
            return Response(run.job.model_dump_json(), 202, headers, media_type="application/json")
        return PlainTextResponse(await jobs.text(run), headers=headers)


def _add_jobs(app: FastAPI, store: EvaluationStore) -> None:
    async def existing(id: str) -> Job:
        jobs: Jobs = app.state.jobs
        return await jobs.job(id)

    Existing = Annotated[Job, Depends(existing)]  # an unknown id is 404 before anything is streamed

    @app.get("/jobs/{id}", responses=NOT_FOUND)
    async def job(job: Existing) -> Job:
        """How far an evaluation is: `done` of `total` answers."""
        return job

    @app.get("/jobs/{id}/events", response_class=EventSourceResponse, responses=NOT_FOUND)
    async def events(job: Existing) -> AsyncIterator[ServerSentEvent]:
        """The job after every answer as `progress`, and at its end as `done`; then the stream ends."""
        jobs: Jobs = app.state.jobs
        async for now in jobs.progress(job.id):
            yield ServerSentEvent(event="progress" if now.state in UNFINISHED else "done", data=now)

    @app.post("/jobs/{id}/cancel", responses=NOT_FOUND)
    async def cancel(job: Existing) -> Job:
        """Stop an evaluation; the answers it has are kept."""
        jobs: Jobs = app.state.jobs
        return await jobs.cancel(job.id)

    @app.get("/evaluations/{id}/result.txt", response_class=PlainTextResponse, responses=NOT_FOUND)
    async def result(job: Existing) -> PlainTextResponse:
        """result.txt of an evaluation that succeeded."""
        text = await asyncio.to_thread(store.text, job.id)
        return PlainTextResponse(text, headers={"X-Evaluation-Id": job.id})


async def _all_ready(generator: GeneratorClient, retriever: RetrieverClient) -> Readiness:
    """Return the readiness of all services: the gateway answers it for the house."""
    told = await asyncio.gather(_ready(generator), _ready(retriever))
    services = dict(zip(("generator", "retriever"), told, strict=True))
    checks = {name: _why(state) for name, state in services.items()}
    return Readiness.of(checks, {name: state.about for name, state in services.items()})


async def _ready(client: GeneratorClient | RetrieverClient) -> Readiness:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            return await client.readiness()
    except TimeoutError:
        return Readiness(ready=False, checks={client.service: f"does not answer within {READY_TIMEOUT_S:g} s"})


def _why(state: Readiness) -> str:
    missing = "; ".join(f"{name}: {check}" for name, check in state.checks.items() if check != "ok")
    return "ok" if state.ready else missing or "not ready"


def _prefers_async(request: Request) -> bool:
    preferences = ",".join(request.headers.getlist("prefer")).split(",")
    return any(preference.split(";")[0].strip().lower() == "respond-async" for preference in preferences)
