"""Ask one question, or evaluate, through a running server or with the services opened in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from asktwice.console import Advance, say, step
from asktwice.embedded import Embedded, EmbeddedSettings
from asktwice.serving import served, wait_until_ready
from contracts.artifacts import write_atomically
from contracts.clients import EvaluatorClient, GeneratorClient
from contracts.errors import InvalidInput, Unavailable
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


def run_evaluation(url: str, questions: Path | None, out: Path, home: Path | None = None) -> None:
    """Evaluate through a server, with a bar; write result.txt and, where the home is at hand, show the answers."""
    asked = None if questions is None else _read_questions(questions)
    with step("Asking every question in rag and ft") as advance:
        job, text = asyncio.run(_evaluate(url, asked, advance))
    write_atomically(out.resolve(), text.encode())
    if home is not None:
        folder = home / "evaluations" / job.id
        show_answers(EvaluationResult.model_validate_json((folder / "results.json").read_bytes()))
        say(f"Kept in {folder}/")
    say(f"Written: {out.resolve()}")


async def _evaluate(url: str, questions: list[str] | None, advance: Advance) -> tuple[Job, str]:
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        evaluator = EvaluatorClient(http)
        job = await evaluator.start(questions)
        while job.state in ("queued", "running"):
            advance(job.done, job.total, "")
            await asyncio.sleep(POLL_S)
            job = await evaluator.job(job.id)
        advance(job.done, job.total, "")
        return job, await evaluator.result(job)


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


def _read_questions(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Cannot read {path} as UTF-8 text: {error}.") from error
    questions = [line for line in lines if line]
    if not questions:
        raise InvalidInput(f"{path} has no question. Write one a line.")
    return questions
