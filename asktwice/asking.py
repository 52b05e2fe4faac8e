"""Ask one question, or evaluate, through a running server or with the services opened in this process."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from asktwice.console import stderr, step
from asktwice.embedded import Embedded, EmbeddedSettings
from asktwice.serving import served, wait_until_ready
from contracts.artifacts import write_atomically
from contracts.clients import GeneratorClient
from contracts.errors import InternalError, InvalidInput, Unavailable, error_from_problem
from contracts.evaluation import EvaluationResult, Job, ModeAnswer
from contracts.generation import Answer, AskRequest, Mode

POLL_S = 0.2


def ask_once(
    question: str, mode: Mode, adapter: str | None, url: str | None, settings: EmbeddedSettings | None
) -> Answer:
    """Return the answer to one question.

    Raises:
        AskTwiceError: as the services say.
    """
    if not question.strip():
        raise InvalidInput("The question is empty.")
    return asyncio.run(_ask(AskRequest(question=question, adapter=adapter), mode, url, settings))


async def _ask(request: AskRequest, mode: Mode, url: str | None, settings: EmbeddedSettings | None) -> Answer:
    async with _generator(url, settings) as generator:
        return await generator.ask(request, mode)


@asynccontextmanager
async def _generator(url: str | None, settings: EmbeddedSettings | None) -> AsyncIterator[GeneratorClient]:
    if url:
        async with httpx.AsyncClient(base_url=url, timeout=600) as http:
            yield GeneratorClient(http)
        return
    assert settings is not None
    app = Embedded(settings)
    async with app.running():
        generator = GeneratorClient(app.client("generator"))
        with step("Opening the model and the index"):
            await _until_ready(app)
        yield generator


async def _until_ready(app: Embedded) -> None:
    async with app.client("evaluator") as http:
        while not (state := (await http.get("/readyz")).json())["ready"]:
            broken = [check for check in state["checks"].values() if "loading" not in check and "indexing" not in check]
            if broken and not any(check == "ok" or "loading" in check for check in state["checks"].values()):
                raise Unavailable("; ".join(broken))
            await asyncio.sleep(POLL_S)


def evaluate_once(questions: Path | None, out: Path, url: str | None, settings: EmbeddedSettings | None) -> None:
    """Ask all questions both ways, write result.txt, show the answers side by side."""
    if url:
        run_evaluation(url, questions, out)
        return
    assert settings is not None
    with served(settings) as local:
        with step("Opening the model and the index"):
            wait_until_ready(local)
        run_evaluation(local, questions, out, settings.home)


def run_evaluation(url: str, questions: Path | None, out: Path, home: Path | None = None) -> str:
    """Evaluate through a server, with a bar; return the evaluation's id."""
    with httpx.Client(base_url=url, timeout=600) as http:
        with step("Asking every question in rag and ft") as advance:
            location = _start(http, questions)
            while (job := _job(http, location)).state in ("queued", "running"):
                advance(job.done, job.total, "")
                time.sleep(POLL_S)
            advance(job.done, job.total, "")
        if job.state != "succeeded" or job.result is None:
            raise InternalError(f"The evaluation {job.id} {job.state}: {job.error or 'no reason given'}.")
        text = _checked(http.get(job.result)).content
    write_atomically(out.resolve(), text)
    if home is not None:
        folder = home / "evaluations" / job.id
        show_answers(EvaluationResult.model_validate_json((folder / "results.json").read_bytes()))
        stderr.print(f"Kept in {folder}/", markup=False)
    stderr.print(f"Written: {out.resolve()}", markup=False)
    return job.id


def show_answers(result: EvaluationResult) -> None:
    """Print the answers side by side."""
    table = Table(show_lines=True, title=f"{result.model}, {result.quantization}")
    for column in ("Question", "RAG", "Fine-tuning"):
        table.add_column(column, ratio=1, overflow="fold")
    for asked in result.asked:
        by_mode = {answer.mode: answer for answer in asked.answers}
        table.add_row(asked.question.question, *(_cell(by_mode.get(mode)) for mode in (Mode.rag, Mode.ft)))
    Console(highlight=False, markup=False).print(table)


def _cell(answer: ModeAnswer | None) -> str:
    if answer is None:
        return "—"
    return answer.answer.answer if answer.answer else f"[ошибка: {answer.error}]"


def _start(http: httpx.Client, questions: Path | None) -> str:
    body = None if questions is None else {"questions": _read_questions(questions)}
    response = _checked(http.post("/evaluate", json=body, headers={"Prefer": "respond-async"}))
    return response.headers["Location"]


def _job(http: httpx.Client, location: str) -> Job:
    return Job.model_validate_json(_checked(http.get(location)).content)


def _read_questions(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Cannot read {path} as UTF-8 text: {error}.") from error
    questions = [line for line in lines if line]
    if not questions:
        raise InvalidInput(f"{path} has no question. Write one a line.")
    return questions


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        body = response.json()
    except ValueError:
        body = None
    raise error_from_problem(body, response.status_code)
