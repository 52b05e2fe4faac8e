"""Ask one question, or evaluate, through a running server or with the services opened in this process."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from asktwice.console import Advance, say, step
from asktwice.embedded import EmbeddedSettings
from asktwice.serving import served
from contracts.artifacts import write_atomically
from contracts.clients import EvaluatorClient, GeneratorClient
from contracts.errors import InvalidInput
from contracts.evaluation import EvaluationResult, Job, ModeAnswer
from contracts.generation import Answer, AskRequest, Mode
from contracts.table import read_bytes
from services.evaluator.summary import answer_of, shown_questions
from services.evaluator.wording import arm_label, verdict_lines

POLL_S = 0.2
MOST_SHOWN = 20
"""Questions in the terminal; all of them are in the report."""


def ask_once(
    question: str, mode: Mode, adapter: str | None, url: str | None, settings: EmbeddedSettings | None
) -> Answer:
    """Return the answer to one question, from a running server or from one that is started for it.

    Raises:
        AskTwiceError: as the services say.
    """
    try:
        request = AskRequest(question=question, adapter=adapter)
    except ValidationError as error:
        raise InvalidInput("; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())) from error
    with _server_for(url, settings) as there:
        return asyncio.run(_ask(there, request, mode))


async def _ask(url: str, request: AskRequest, mode: Mode) -> Answer:
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        return await GeneratorClient(http).ask(request, mode)


@contextmanager
def _server_for(url: str | None, settings: EmbeddedSettings | None) -> Iterator[str]:
    if url:
        yield url
        return
    assert settings is not None
    with ExitStack() as open_until_asked:
        with step("Opening the model and the index"):
            local = open_until_asked.enter_context(served(settings))
        yield local


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be compared on what. ``questions`` has one a line, ``data`` is a CSV; neither asks the five."""

    questions: Path | None = None
    data: Path | None = None
    modes: str | None = None
    measure: int = 0
    lang: str = "ru"
    grade: bool = False
    probe: bool = False


def evaluate_once(wish: Wish, out: Path, url: str | None, settings: EmbeddedSettings | None) -> None:
    """Ask all questions, write result.txt, show the answers side by side."""
    check_out(out)
    with _server_for(url, settings) as there:
        run_evaluation(there, wish, out, settings.home if settings and not url else None)


def check_out(out: Path) -> None:
    """Find out before the work, not after it, whether result.txt can be written.

    Raises:
        InvalidInput: it is a folder, or its folder is not there or cannot be written.
    """
    folder = out.resolve().parent
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InvalidInput(f"Cannot write {out}: give --out the name of a file in a folder that can be written.")


def run_evaluation(url: str, wish: Wish, out: Path, home: Path | None = None) -> None:
    """Evaluate through a server, with a bar; write result.txt and, where the home is at hand, show what came out."""
    asked = None if wish.questions is None else _read_questions(wish.questions)
    table = None if wish.data is None else (wish.data.name, read_bytes(wish.data))
    with step(f"Asking every question in {(wish.modes or 'rag and ft').replace(',', ', ')}") as advance:
        job, text = asyncio.run(_evaluate(url, wish, asked, table, advance))
    write_atomically(out.resolve(), text.encode())
    if home is not None:
        folder = home / "evaluations" / job.id
        result = EvaluationResult.model_validate_json((folder / "results.json").read_bytes())
        show_answers(result)
        verdict = result.measurement.verdict if result.measurement else None
        for line in verdict_lines(verdict, result.lang, lambda arm: arm_label(arm, result.lang)) if verdict else ():
            say(line)
        say(f"Kept in {folder}/; open {folder}/report.html to look through the answers")
    say(f"Written: {out.resolve()}")


async def _evaluate(
    url: str, wish: Wish, questions: list[str] | None, table: tuple[str, bytes] | None, advance: Advance
) -> tuple[Job, str]:
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        evaluator = EvaluatorClient(http)
        job = await evaluator.start(
            questions, table, modes=wish.modes, measure=wish.measure, lang=wish.lang, grade=wish.grade,
            probe=wish.probe,
        )  # fmt: skip
        while job.state in ("queued", "running"):
            note = f"the judge: {job.graded} of {job.to_grade}" if job.to_grade else ""
            if job.done == job.total and job.graded == job.to_grade:
                note = "measuring the answers"
            advance(job.done + job.graded, job.total + job.to_grade, note)
            await asyncio.sleep(POLL_S)
            job = await evaluator.job(job.id)
        advance(job.done, job.total, "")
        return job, await evaluator.result(job)


def show_answers(result: EvaluationResult) -> None:
    """Print the answers side by side."""
    table = Table(show_lines=True, title=f"{result.model}, {result.quantization}")
    for column in ("Question", *(arm_label(arm, "en") for arm in result.arms)):
        table.add_column(column, ratio=1, overflow="fold")
    shown = shown_questions(result)
    for asked in shown[:MOST_SHOWN]:
        table.add_row(asked.question.question, *(_cell(answer_of(asked, arm)) for arm in result.arms))
    if len(shown) > MOST_SHOWN:
        table.caption = f"The first {MOST_SHOWN} of {len(shown)}"
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
