"""What lies on the disk: whole, side by side, safe to open, and still there after a kill."""

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from fastapi import FastAPI

from contracts.artifacts import Home
from contracts.errors import NotFound, NotReady
from contracts.evaluation import EvaluateRequest, EvaluationQuestion, EvaluationResult, ModeAnswer
from contracts.generation import Mode
from services.evaluator.questions import from_csv, from_json
from services.evaluator.report import result_text
from services.evaluator.settings import EvaluatorSettings
from services.evaluator.store import EvaluationStore, ended
from services.evaluator.tables import side_by_side
from tests.services.evaluator.fakes import make_answer, make_result, opened, plan_of

QUESTIONS = [EvaluationQuestion(question="Сколько стоит?", answer="100"), EvaluationQuestion(question="Есть Python?")]
TEXTS = {Mode.rag: ["Сто.", None], Mode.ft: ["=1+1", "Да;\nдва"]}


@pytest.fixture
def store(tmp_path: Path) -> EvaluationStore:
    return EvaluationStore(Home(path=tmp_path))


def folder(tmp_path: Path, id: str) -> Path:
    return tmp_path / "evaluations" / id


def test_a_finished_evaluation_lies_there_whole(store: EvaluationStore, tmp_path: Path) -> None:
    job = store.create(plan_of(QUESTIONS))
    result = make_result(TEXTS, ["Сколько стоит?", "Есть Python?"], id=job.id)
    store.finish(result)
    store.save(ended(job, "succeeded"))
    there = folder(tmp_path, job.id)
    assert store.text(job.id) == (there / "result.txt").read_text(encoding="utf-8") == result_text(result)
    assert EvaluationResult.model_validate_json((there / "results.json").read_bytes()) == result
    body = EvaluateRequest.model_validate_json((there / "questions.json").read_bytes())
    assert body.items() == QUESTIONS
    assert store.job(job.id).result == f"/evaluations/{job.id}/result.txt"
    assert sorted(path.name for path in there.iterdir()) == [
        "answers.csv",
        "answers.jsonl",
        "items.csv",
        "items.jsonl",
        "job.json",
        "manifest.json",
        "plan.json",
        "questions.json",
        "report.html",
        "result.txt",
        "results.json",
    ]


AWKWARD = [
    EvaluationQuestion(question='=1+1 "да"; нет,', answer="+1", context="а\r\nб\rв\n\nг"),
    EvaluationQuestion(question="Есть ли;\tскидка?"),
    EvaluationQuestion(question="Сколько?", answer="-100"),
    EvaluationQuestion(question="Сколько?", context="@"),
]


def test_the_questions_of_a_table_are_kept_as_a_table_that_reads_back_exactly(
    store: EvaluationStore, tmp_path: Path
) -> None:
    job = store.create(plan_of(AWKWARD, table=True))
    kept = from_csv((folder(tmp_path, job.id) / "questions.csv").read_bytes(), "questions.csv")
    assert kept.items == AWKWARD
    assert (kept.origin.read, kept.origin.rejected, kept.origin.duplicates) == (4, 0, 0)
    store.save(ended(job, "cancelled"))
    with pytest.raises(NotFound, match=r"questions\.csv to /evaluate"):
        store.text(job.id)


def test_the_questions_of_a_body_are_kept_as_a_body_that_is_no_longer(store: EvaluationStore, tmp_path: Path) -> None:
    sent = '{"questions":["Сколько?","Сколько?","a\\"b\\u0007",{"question":"Да?","answer":"нет"}]}'.encode()
    questions = from_json(sent).items
    job = store.create(plan_of(questions))
    kept = (folder(tmp_path, job.id) / "questions.json").read_bytes()
    assert from_json(kept).items == questions
    assert len(kept) <= len(sent)


def test_a_finished_evaluation_is_never_overwritten(store: EvaluationStore) -> None:
    job = store.create(plan_of(QUESTIONS))
    store.finish(make_result(TEXTS, ["а", "б"], id=job.id))
    with pytest.raises(FileExistsError):
        store.finish(make_result(TEXTS, ["в", "г"], id=job.id))
    assert "Вопрос 1: а\n" in store.text(job.id)


def test_the_table_opens_in_a_spreadsheet_and_runs_nothing() -> None:
    content = side_by_side(make_result(TEXTS, ["@SUM(A1)", "Есть Python?"]))
    assert content.startswith(b"\xef\xbb\xbf")
    table = pandas.read_csv(io.BytesIO(content))
    assert list(table["question"]) == ["'@SUM(A1)", "Есть Python?"]
    assert list(table["rag"]) == ["Сто.", "[ошибка: ответ не готов вовремя]"]
    assert list(table["ft"]) == ["'=1+1", "Да;\nдва"]
    assert table["rag_seconds"][0] == 1.5
    assert pandas.isna(table["rag_seconds"][1])
    assert table["rag_sources"][0] == "[1] Курсы"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_begins_like_a_formula(start: str) -> None:
    content = side_by_side(make_result({Mode.rag: [f"{start}cmd"], Mode.ft: ["ок"]}, ["?"]))
    cell = pandas.read_csv(io.BytesIO(content), dtype=str)["rag"][0]
    assert cell.startswith("'")


@pytest.mark.parametrize(
    "id", ["../../etc/passwd", "ev_20260102T030405Z_0123abcd/../x", "", "\x00", "job.json", "Ev_1"]
)
def test_an_id_is_never_a_path(store: EvaluationStore, id: str) -> None:
    for ask in (store.job, store.text, store.kept):
        with pytest.raises(NotFound):
            ask(id)


def test_a_running_evaluation_is_not_ready_and_another_process_sees_that_it_runs(
    store: EvaluationStore, tmp_path: Path
) -> None:
    job = store.create(plan_of(QUESTIONS))
    store.keep(job.id, 0, ModeAnswer(mode=Mode.rag, answer=make_answer("?", Mode.rag)))
    with pytest.raises(NotReady, match="1 of 4"):
        store.text(job.id)
    seen = EvaluationStore(Home(path=tmp_path))
    seen.settle()
    assert (seen.job(job.id).state, seen.job(job.id).done) == ("running", 1)


def test_an_answer_that_a_kill_cut_off_does_not_hide_the_others(store: EvaluationStore, tmp_path: Path) -> None:
    job = store.create(plan_of(QUESTIONS))
    answer = ModeAnswer(mode=Mode.rag, answer=make_answer("?", Mode.rag, "строка\nдругая\u2028третья"))
    store.keep(job.id, 0, answer)
    with (folder(tmp_path, job.id) / "answers.jsonl").open("ab") as file:
        file.write(b'{"index": 1, "answ')
    assert [(kept.index, kept.answer) for kept in store.kept(job.id)] == [(0, answer)]


CHILD = """
import sys
from contracts.artifacts import Home
from contracts.evaluation import EvaluationQuestion, ModeAnswer
from contracts.generation import Mode
from pathlib import Path
from services.evaluator.store import EvaluationStore
from tests.services.evaluator.fakes import plan_of

store = EvaluationStore(Home(path=Path(sys.argv[1])))
job = store.create(plan_of([EvaluationQuestion(question="?")] * 2))
for index, mode in ((0, Mode.rag), (0, Mode.ft), (1, Mode.rag)):
    store.keep(job.id, index, ModeAnswer(mode=mode, error=f"{index} {mode}"))
print(job.id, flush=True)
sys.stdin.read()
"""


def test_after_sigkill_what_was_answered_is_there_and_the_evaluation_is_called_interrupted(
    evaluator: Callable[[EvaluatorSettings], FastAPI], settings: EvaluatorSettings
) -> None:
    async def restart() -> None:
        async with opened(evaluator(settings)):
            pass

    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(settings.home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    id = child.stdout.readline().strip()
    store = EvaluationStore(settings.home_folder)
    assert store.job(id).state == "running"
    child.send_signal(signal.SIGKILL)
    child.wait()
    settings = settings.model_copy(update={"resume": False})
    asyncio.run(restart())
    on_disk = json.loads((folder(settings.home, id) / "job.json").read_bytes())
    assert (on_disk["state"], on_disk["done"], on_disk["total"]) == ("interrupted", 3, 4)
    assert [kept.answer.error for kept in store.kept(id)] == ["0 rag", "0 ft", "1 rag"]
    with pytest.raises(NotFound, match=r"3 of 4 answers are kept"):
        store.text(id)


def test_a_kill_after_the_last_write_loses_nothing(store: EvaluationStore, tmp_path: Path) -> None:
    """Killed between result.txt and job.json: the result is there, so the evaluation succeeded."""
    job = store.create(plan_of(QUESTIONS))
    store.finish(make_result(TEXTS, ["а", "б"], id=job.id))
    store.save(ended(job, "interrupted"))  # lets go of the lock, as a death would
    store.save(job)
    after = EvaluationStore(Home(path=tmp_path))
    after.settle()
    assert after.job(job.id).state == "succeeded"
