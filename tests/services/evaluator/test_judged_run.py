"""A run with a judge that is right, forgiving, broken or not there; people's labels; and the probes. Real HTTP."""

import asyncio
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from asktwice.cli import cli
from asktwice.labelling import answer_id, labelled, write_sheet
from contracts.artifacts import Home
from contracts.clients import GeneratorClient, RetrieverClient
from contracts.evaluation import EvaluationResult, Job
from contracts.generation import Answer, Mode
from contracts.health import Readiness
from contracts.retrieval import Passage, SearchRequest, SearchResponse
from contracts.table import Row, read_table
from contracts.verdict import Outcome
from services.evaluator.app import create_app
from services.evaluator.measuring import SCORES, scored_items
from services.evaluator.probes import changed
from services.evaluator.settings import EvaluatorSettings
from services.evaluator.summary import notes
from services.evaluator.tables import csv_of
from services.evaluator.verdict import decide
from tests import fake_openai as fake
from tests.fake_openai import FakeOpenAI, Recorded
from tests.services.evaluator import fake_judges as judges
from tests.services.evaluator.fakes import (
    ADAPTER,
    FakeGenerator,
    client_of,
    make_adapter,
    make_answer,
    opened,
    retriever_app,
)
from tests.services.evaluator.numbers import strange_numbers
from tests.services.evaluator.test_app import post

ROWS = read_table(Path("data/selected_qa_full.csv")).rows[:60]
REFERENCES = {row.question: row.answer for row in ROWS}
Judge = Callable[[Recorded], str]


def table(rows: list[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("question", "answer", "context"))
    writer.writerows((row.question, row.answer, row.context) for row in rows)
    return text.getvalue().encode()


def judging(judge: Judge) -> Judge:
    """The judge, which also writes analyses."""
    return lambda request: judge(request) if judges.parts(request) else "Оба хороши.\nИтог: ничья"


async def rag_knows(question: str, mode: Mode) -> Answer:
    return make_answer(question, mode, REFERENCES[question] if mode is Mode.rag else "Ждём вас на курсах!")


@pytest.fixture
def build(generator: FakeGenerator, index: Readiness) -> Callable[[EvaluatorSettings], FastAPI]:
    """The evaluator around a generator and a retriever that searches the rows' contexts by words."""
    retriever = retriever_app(index)

    @retriever.post("/search")
    async def search(body: SearchRequest) -> SearchResponse:
        words = set(body.query.lower().split())
        texts = sorted({row.context for row in ROWS}, key=lambda text: -len(words & set(text.lower().split())))
        own = next((row.context for row in ROWS if row.question == body.query), None)
        texts = [own, *(text for text in texts if text != own)] if own else texts
        return SearchResponse(
            results=[Passage(id=str(n), title="т", text=text, score=1) for n, text in enumerate(texts[: body.top_k])]
        )

    def make(settings: EvaluatorSettings) -> FastAPI:
        return create_app(settings, GeneratorClient(client_of(generator.app())), RetrieverClient(client_of(retriever)))

    return make


def evaluated(
    app: FastAPI, settings: EvaluatorSettings, rows: list[Row] = ROWS, **params: Any
) -> tuple[EvaluationResult, str, Path]:
    response = post(app, params=params, files={"file": ("свои.csv", table(rows))})
    assert response.status_code == 200, response.text
    folder = settings.home / "evaluations" / response.headers["X-Evaluation-Id"]
    return EvaluationResult.model_validate_json((folder / "results.json").read_bytes()), response.text, folder


def with_judge(settings: EvaluatorSettings, url: str, **changes: Any) -> EvaluatorSettings:
    told = {"openai_api_key": "sk-test", "openai_base_url": url, "judge_timeout_s": 5.0, "judge_examined": 12}
    return EvaluatorSettings(**settings.model_dump(exclude={"openai_api_key", "openai_base_url"}) | told | changes)


def test_a_judge_that_passes_grades_and_its_grades_make_the_verdict(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    generator.answering = rag_knows
    with FakeOpenAI(fake.answering(judging(judges.right))) as server:
        told = with_judge(settings, server.url)
        result, text, folder = evaluated(build(told), told, grade=True)
        prompts = [request.prompt for request in server.requests]
    found = result.measurement
    assert found
    assert found.judge
    assert found.judge.passed, found.judge.reason
    assert (found.metric, found.judge.graded, found.judge.left_out) == ("judge", 120, {})
    assert found.verdict
    assert (found.verdict.outcome, found.verdict.winner) == (Outcome.better, "rag")
    assert found.verdict.settings.bias_allowance == 0.05
    assert "Судья gpt-4o-mini-2024-07-18: прошёл проверку" in text
    assert found.outweighed_at is None
    assert "Даже если бы судья был мягче к RAG на полбалла" in text
    assert f"прошёл проверку на {found.judge.planted} ответах" in text
    assert not any("rag" in prompt or "Fine-tuning" in prompt for prompt in prompts if "REFERENCE>>>" in prompt)
    items = list(csv.DictReader(io.StringIO((folder / "items.csv").read_text(encoding="utf-8-sig"))))
    assert all(row["score"] == row["judge"] != "" for row in items)
    tone = {each.criterion: each for each in found.judge.preferences}
    assert tone["tone"].ties == 60
    assert found.judge.calls == len([prompt for prompt in prompts if "REFERENCE>>>" in prompt or "FIRST>>>" in prompt])


def test_a_judges_verdict_says_how_much_milder_it_would_have_to_be(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    places = {row.question: n for n, row in enumerate(ROWS)}

    async def often(question: str, mode: Mode) -> Answer:
        known = places[question] % 2 == 0 and mode is Mode.rag
        return make_answer(question, mode, REFERENCES[question] if known else "Ждём вас на курсах!")

    generator.answering = often
    with FakeOpenAI(fake.answering(judging(judges.right))) as server:
        told = with_judge(settings, server.url)
        result, text, _ = evaluated(build(told), told, grade=True)
    found = result.measurement
    assert found
    assert found.verdict
    assert found.outweighed_at
    items = scored_items(result.asked, score=SCORES["judge"])

    def winner(allowance: float) -> str | None:
        return decide(items, found.verdict.settings.model_copy(update={"bias_allowance": allowance})).winner

    assert (winner(found.outweighed_at - 0.002), winner(found.outweighed_at)) == ("rag", None)
    points = f"{100 * found.outweighed_at:.1f}".replace(".", ",")
    assert f"Чтобы вывод изменился, судья должен быть мягче к RAG на {points} п. п." in text


@pytest.mark.parametrize("context", ["", "Всё, что мы знаем о школе."])
def test_rows_with_one_context_for_all_do_for_an_examination_of_the_judge(
    build: Callable[[EvaluatorSettings], FastAPI],
    generator: FakeGenerator,
    settings: EvaluatorSettings,
    context: str,
) -> None:
    generator.answering = rag_knows
    rows = [Row(row.number, row.cells | {"context": context}) for row in ROWS]
    with FakeOpenAI(fake.answering(judging(judges.right))) as server:
        told = with_judge(settings, server.url)
        result, text, _ = evaluated(build(told), told, rows=rows, grade=True)
    assert result.measurement
    assert result.measurement.judge
    assert result.measurement.judge.passed, text


def test_a_judge_that_cannot_be_examined_is_not_told_as_failed_and_asked_nothing(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    generator.answering = rag_knows
    with FakeOpenAI(fake.answering(judging(judges.right))) as server:
        told = with_judge(settings, server.url)
        result, text, _ = evaluated(build(told), told, rows=ROWS[:6], grade=True)
        asked = [request for request in server.requests if judges.parts(request)]
    assert result.measurement
    assert result.measurement.judge
    assert (asked, result.measurement.judge.calls, result.measurement.metric) == ([], 0, "correct")
    assert "на этих строках проверить нельзя" in text
    assert "эталонов: 6" in text
    assert "не прошёл" not in text


def test_pairs_that_the_judge_does_not_compare_are_counted(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    generator.answering = rag_knows

    def tired(broken: str) -> Judge:
        def judge(request: Recorded) -> str:
            told = judges.parts(request)
            return "{" if "FIRST" in told and broken in told["QUESTION"] else judges.right(request)

        return judge

    for broken, reason in ((ROWS[0].question, None), ("?", "пар ответов судья сравнил мало")):
        with FakeOpenAI(fake.answering(judging(tired(broken)))) as server:
            told = with_judge(settings, server.url, judge_examined=12)
            result, text, _ = evaluated(build(told), told, grade=True)
        assert result.measurement
        assert result.measurement.judge
        if reason is None:
            assert [each.left_out for each in result.measurement.judge.preferences] == [1, 1]
            assert ", без сравнения 1" in text
        else:
            assert result.measurement.judge.preferences == []
            assert "Тон и убедительность не сравниваются" in text


def test_a_judge_that_fails_its_examination_is_told_and_not_used(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    generator.answering = rag_knows
    with FakeOpenAI(fake.answering(judging(judges.forgiving))) as server:
        told = with_judge(settings, server.url)
        result, text, _ = evaluated(build(told), told, grade=True)
    found = result.measurement
    assert found
    assert found.judge
    assert (found.metric, found.judge.passed, found.judge.graded) == ("correct", False, 0)
    assert "не прошёл проверку, и его оценки в выводе не учтены: подменённый факт замечен" in text
    assert found.verdict
    assert found.verdict.settings.bias_allowance == 0
    assert "judge" not in found.arms[0].means


def test_a_judge_that_breaks_costs_the_run_nothing_but_its_grades(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    generator.answering = rag_knows
    with FakeOpenAI(fake.refuse_key()) as server:
        told = with_judge(settings, server.url)
        result, text, _ = evaluated(build(told), told, grade=True)
    found = result.measurement
    assert found
    assert found.judge
    assert (found.metric, found.judge.passed) == ("correct", False)
    assert "не измерено" in text
    assert found.verdict
    assert found.verdict.winner == "rag"


def test_grades_without_a_key_or_a_reference_are_refused_before_anything_is_asked(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    response = post(build(settings), params={"grade": True})
    assert (response.status_code, response.json()["detail"][:28]) == (422, "grade: no judge can be asked")
    response = post(build(with_judge(settings, "http://127.0.0.1:9/v1")), params={"grade": True})
    assert response.status_code == 422
    assert "no question has a reference" in response.json()["detail"]
    assert generator.requests == []


def test_people_grade_blind_and_their_labels_correct_the_verdict(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings, tmp_path: Path
) -> None:
    generator.answering = rag_knows
    result, _, _ = evaluated(build(settings), settings)
    sheet, home = tmp_path / "labels.csv", ["--home", str(settings.home)]
    cli_runner = CliRunner()
    written = cli_runner.invoke(cli, ["labels", result.id, "--out", str(sheet), *home])
    assert written.exit_code == 0, written.output
    assert "100 answers" in written.output
    rows = list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"))))
    assert set(rows[0]) == {"answer_id", "question", "reference", "context", "answer", "label"}
    again = cli_runner.invoke(cli, ["labels", result.id, "--out", str(sheet), *home])
    assert again.exit_code != 0  # it may hold labels by now
    empty = cli_runner.invoke(cli, ["labels", result.id, "--labels", str(sheet), *home])
    assert empty.exit_code != 0
    rag = {answer_id(result, f"q{n}", "rag") for n in range(1, 61)}
    for row in rows:
        row["label"] = "1" if row["answer_id"] in rag else "0"
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    told = cli_runner.invoke(cli, ["labels", result.id, "--labels", str(sheet), *home])
    assert told.exit_code == 0, told.output
    assert re.search(r"Меток: 100, .*согласие \d", told.output)
    assert "Вывод: лучше RAG." in told.output


async def bold(question: str, mode: Mode) -> Answer:
    """Retrieval knows more and says wrong what it does not know; the tuned model knows little and owns it."""
    place = [row.question for row in ROWS].index(question) % 5
    if mode is Mode.rag:
        return make_answer(question, mode, REFERENCES[question] if place < 3 else "Это будет 7 777 777 рублей.")
    return make_answer(question, mode, REFERENCES[question] if place == 0 else "К сожалению, я этого не знаю.")


def fill(sheet: Path, label: Callable[[dict[str, str]], str]) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"))))
    for row in rows:
        row["label"] = row["label"] or label(row)
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_answers_that_say_nothing_are_labelled_wrong_as_far_as_the_sheet_is_filled(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings, tmp_path: Path
) -> None:
    places = {row.question: n for n, row in enumerate(ROWS)}

    async def often_silent(question: str, mode: Mode) -> Answer:
        silent = places[question] % 2 and mode is Mode.ft
        return make_answer(question, mode, "" if silent else REFERENCES[question])

    generator.answering = often_silent
    result, _, _ = evaluated(build(settings), settings)
    sheet, home = tmp_path / "labels.csv", Home(path=settings.home)
    assert write_sheet(home, result.id, sheet) == 100
    written = list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"))))
    silent = [row for row in written if not row["answer"]]
    assert [row["label"] for row in silent] == ["0.0"] * len(silent) != []
    last = written[59]["question"]
    done = False

    def until_there(row: dict[str, str]) -> str:
        nonlocal done
        label = "" if done else "1"
        done = done or row["question"] == last
        return label

    rows = fill(sheet, until_there)
    found = labelled(home, result.id, sheet)
    voiced = [n for n, row in enumerate(rows) if row["label"] == "1"]
    counted = [row for row in rows[: voiced[-1] + 2] if row["label"] and row["question"] in
               {each["question"] for each in rows[: voiced[-1] + 1]}]  # fmt: skip
    assert found.agreement.labels == len(counted) < sum(row["label"] != "" for row in rows)
    assert (found.verdict.outcome, found.verdict.winner) == (Outcome.better, "rag")
    contrast = found.verdict.contrasts[0]
    assert contrast.low is not None
    assert contrast.high is not None
    assert contrast.low <= -0.5 <= contrast.high


def test_labels_keep_a_trade_off(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings, tmp_path: Path
) -> None:
    generator.answering = bold
    result, _, _ = evaluated(build(settings), settings)
    sheet, home = tmp_path / "labels.csv", Home(path=settings.home)
    write_sheet(home, result.id, sheet)
    fill(sheet, lambda row: str(int(row["answer"] == row["reference"])))
    found = labelled(home, result.id, sheet)
    assert (found.verdict.outcome, found.verdict.winner) == (Outcome.trade_off, "rag")
    assert found.agreement.agreement == 1.0


def test_more_arms_than_the_labels_suffice_for_are_refused_and_can_be_chosen_from(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings, tmp_path: Path
) -> None:
    generator.answering = rag_knows
    names = [f"qa.{n:012x}" for n in range(4)]
    generator.adapters = [make_adapter(name, "qa.csv") for name in names]
    modes = ["base", "rag", *(f"ft:{name}" for name in names)]
    result, _, _ = evaluated(build(settings), settings, modes=",".join(modes))
    sheet = tmp_path / "labels.csv"
    command = ["labels", result.id, "--out", str(sheet), "--home", str(settings.home)]
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code != 0
    assert "6 arms share 100 labels, and each needs 20" in str(refused.exception) + refused.output
    strange = CliRunner().invoke(cli, [*command, "--arms", "rag,rag_ft"])
    assert "rag_ft was not compared" in str(strange.exception) + strange.output
    told = CliRunner().invoke(cli, [*command, "--arms", f"rag,ft:{names[0]}"])
    assert told.exit_code == 0, told.output
    rag = {answer_id(result, f"q{n}", "rag") for n in range(1, 61)}
    rows = fill(sheet, lambda row: str(int(row["answer_id"] in rag)))
    found = labelled(Home(path=settings.home), result.id, sheet)
    assert [mean.arm for mean in found.verdict.arms] == ["rag", f"ft:{names[0]}"]
    assert (found.verdict.outcome, found.verdict.winner) == (Outcome.better, "rag")
    few = tmp_path / "few.csv"
    few.write_bytes(csv_of([row | {"label": row["label"] if n < 30 else ""} for n, row in enumerate(rows)]))
    told = CliRunner().invoke(cli, ["labels", result.id, "--labels", str(few), "--home", str(settings.home)])
    assert "Этих меток мало, чтобы поправить вывод: нужно не меньше 20 на каждый способ" in told.output
    assert "Вывод с поправкой" not in told.output


async def from_passages(generator: FakeGenerator, question: str, mode: Mode) -> Answer:
    """Retrieval repeats the first passage that it is given, or says that it does not know; the tuned model knows the
    rows as they were."""
    body, _ = generator.requests[-1]
    if mode is Mode.rag:
        own = next((row for row in ROWS if row.question == question), None)
        if body.passages and own:
            turned = changed(own)
            given = [text for text in body.passages if turned and text == turned.of(own.context) != own.context]
            return make_answer(question, mode, turned.answer if turned and given else "Не знаю.")
        return make_answer(question, mode, REFERENCES.get(question, "К сожалению, я не знаю."))
    return make_answer(question, mode, REFERENCES.get(question, "Это стоит 500 рублей."))


def test_probes_say_who_follows_a_changed_fact_and_who_owns_not_to_know(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    async def answering(question: str, mode: Mode) -> Answer:
        mute = mode is Mode.ft and question == "Сколько углов у треугольника?"
        return make_answer(question, mode, "") if mute else await from_passages(generator, question, mode)

    generator.answering = answering
    result, text, folder = evaluated(build(settings), settings, probe=True)
    found = result.measurement
    assert found
    probes = {(each.probe, each.arm): each for each in found.probes}
    rag, tuned = probes["changed", "rag"], probes["changed", "ft"]
    assert rag.asked == tuned.asked == tuned.stale
    assert rag.asked >= 10
    assert rag.right / rag.answered > 0.8
    assert (tuned.right, rag.stale) == (0, 0)
    assert probes["unknown", "rag"].share == 1.0
    assert probes["unknown", "ft"].right == 0
    general = probes["general", "ft"]
    assert general.answered == general.asked == 30
    assert general.silent == 1
    assert f"пустой ответ дал Fine-tuning: {general.silent}" in text
    assert ("distractors", "ft") not in probes
    assert ("general", "rag") not in probes
    assert probes["distractors", "rag"].asked == 40
    assert "Проба «факт изменён после обучения, верно по-новому»" in text
    assert f"прежний факт назвал Fine-tuning: {tuned.stale}" in text
    assert found.questions == 60
    assert all(mean.items <= 60 for mean in found.verdict.arms) if found.verdict else False
    items = list(csv.DictReader(io.StringIO((folder / "items.csv").read_text(encoding="utf-8-sig"))))
    assert all(not row["score"] for row in items if row["probe"])
    side = list(csv.DictReader(io.StringIO((folder / "answers.csv").read_text(encoding="utf-8-sig"))))
    assert [row["question"] for row in side] == [row.question for row in ROWS]
    assert "вопрос не был задан" not in (folder / "answers.csv").read_text(encoding="utf-8-sig")
    assert "probe=true" in text


@pytest.mark.parametrize("lang", ["ru", "en"])
def test_every_number_of_a_judged_and_probed_run_is_in_the_results(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings, lang: str
) -> None:
    async def answering(question: str, mode: Mode) -> Answer:
        await from_passages(generator, question, mode)
        return await (bold if question in REFERENCES else rag_or_nothing)(question, mode)

    async def rag_or_nothing(question: str, mode: Mode) -> Answer:
        return make_answer(question, mode, "" if mode is Mode.ft else "Не знаю.")

    generator.answering = answering
    with FakeOpenAI(fake.answering(judging(judges.right))) as server:
        told = with_judge(settings, server.url)
        result, text, _ = evaluated(build(told), told, grade=True, probe=True, lang=lang)
    assert result.measurement
    assert result.measurement.metric == "judge"
    strange = strange_numbers(text.split("Измерения и вывод")[1], result)
    assert strange == []
    lines = [line for line in notes(result) if line.startswith(("Судья", "The judge"))]
    assert "9999" in strange_numbers(f"{lines[0]} 9999", result)


def test_probes_that_need_a_retriever_which_is_gone_are_refused(
    generator: FakeGenerator, index: Readiness, settings: EvaluatorSettings
) -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("gone", request=request)

    retriever = httpx.AsyncClient(transport=httpx.MockTransport(gone), base_url="http://retriever")
    app = create_app(settings, GeneratorClient(client_of(generator.app())), RetrieverClient(retriever))
    response = post(app, params={"probe": True}, files={"file": ("q.csv", table(ROWS))})
    assert response.status_code == 503
    assert generator.requests == []


def test_an_arm_that_is_right_more_often_and_misleads_more_often_is_a_trade_off(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    generator.answering = bold
    result, text, _ = evaluated(build(settings), settings)
    assert result.measurement
    assert result.measurement.verdict
    assert result.measurement.verdict.outcome is Outcome.trade_off, text
    assert "Точнее RAG, но Fine-tuning лучше по показателю «ответы без ошибок, отказ не ошибка»" in text
    assert "- но Fine-tuning реже вводит в заблуждение: на " in text


def test_an_arm_that_never_answers_is_no_trade_off_and_the_winner_can_be_served(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    places = {row.question: n for n, row in enumerate(ROWS)}

    async def answering(question: str, mode: Mode) -> Answer:
        if mode is Mode.rag:
            known = places[question] % 2 == 0
            return make_answer(question, mode, REFERENCES[question] if known else "Это будет 7 777 777 рублей.")
        return make_answer(question, mode, "К сожалению, я этого не знаю.")

    generator.answering = answering
    result, _, _ = evaluated(build(settings), settings)
    assert result.measurement
    assert result.measurement.verdict
    assert (result.measurement.verdict.outcome, result.measurement.verdict.winner) == (Outcome.better, "rag")


def test_what_cannot_be_measured_or_asked_is_told_before_or_in_the_result(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    generator.answering = rag_knows
    generator.adapters = [make_adapter(ADAPTER, "qa.csv")]
    response = post(build(settings), params={"modes": "rag,ft:qa.ffffffffffff"}, files={"file": ("q.csv", table(ROWS))})
    assert response.status_code == 422
    assert ADAPTER in response.json()["detail"]
    assert generator.requests == []
    long = Row(1, {"question": "Что в договоре?", "answer": "100 рублей.", "context": "слово " * 20_000})
    result, text, folder = evaluated(build(settings), settings, rows=[long, *ROWS[:2]], modes="rag,oracle", lang="en")
    told = {given.arm: given.error for given in result.asked[0].answers}
    assert told["oracle"] == "the context is longer than 100000 characters"
    assert (folder / "questions.csv").read_bytes() == table([long, *ROWS[:2]])
    frozen = json.loads((folder / "manifest.json").read_bytes())
    assert frozen["served"]["index"]["passages"] == 50
    assert frozen["asktwice"]
    assert "Control: the right context" in text


def test_cells_are_safe_where_a_spreadsheet_splits_at_semicolons() -> None:
    told = csv_of([{"answer": "Цена 5;=HYPERLINK(1)", "more": "Список:\n-1+cmd|' /C calc'!A0", "plain": "a - b; c"}])
    assert b";'=HYPERLINK" in told
    assert b"\n'-1+cmd" in told
    assert b"a - b; c" in told


def test_a_run_that_ends_while_the_judge_grades_goes_on_and_asks_it_nothing_twice(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    generator.answering = rag_knows

    async def until(client: httpx.AsyncClient, id: str, ready: Callable[[Job], bool]) -> Job:
        while not ready(job := Job.model_validate_json((await client.get(f"/jobs/{id}")).content)):  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.05)
        return job

    async def twice(told: EvaluatorSettings) -> tuple[Job, Job]:
        async with opened(build(told)) as client:
            body = {"files": {"file": ("q.csv", table(ROWS))}, "headers": {"Prefer": "respond-async"}}
            id = (await client.post("/evaluate", params={"grade": True}, **body)).json()["id"]
            before = await until(client, id, lambda job: job.graded >= 60)
        async with opened(build(told)) as client:
            return before, await until(client, id, lambda job: job.state not in ("queued", "running"))

    with FakeOpenAI(fake.answering(judging(judges.right), after_s=0.05)) as server:
        told = with_judge(settings, server.url)
        before, after = asyncio.run(asyncio.wait_for(twice(told), 90))
        asked = Counter(request.prompt for request in server.requests if request.body and judges.parts(request))
    assert before.to_grade > before.graded
    assert (after.state, after.done, len(generator.requests)) == ("succeeded", 120, 120)
    # a tenth is asked again on purpose; beside that only what was in flight
    again = sum(count - 1 for count in asked.values())
    planted = 12 * 7
    assert again <= planted // 10 + 1 + told.judge_concurrency


def test_a_judge_whose_budget_ends_grades_too_little_to_count(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    generator.answering = rag_knows
    with FakeOpenAI(fake.answering(judging(judges.right))) as server:
        told = with_judge(settings, server.url, judge_max_calls=150)
        result, text, folder = evaluated(build(told), told, grade=True)
    found = result.measurement
    assert found
    assert found.judge
    assert (found.metric, found.judge.passed, found.judge.counts, found.judge.calls) == ("correct", True, False, 150)
    assert f"ответов оценил мало: {found.judge.graded} из 120" in text
    assert json.loads((folder / "manifest.json").read_bytes())["served"]["judge"]["examined"] == 12


def test_an_answer_that_says_nothing_is_wrong_before_a_judge_too(
    build: Callable[[EvaluatorSettings], FastAPI], generator: FakeGenerator, settings: EvaluatorSettings
) -> None:
    async def silent(question: str, mode: Mode) -> Answer:
        return make_answer(question, mode, REFERENCES[question] if mode is Mode.rag else "...")

    generator.answering = silent
    with FakeOpenAI(fake.answering(judging(judges.right))) as server:
        told = with_judge(settings, server.url)
        found = evaluated(build(told), told, grade=True)[0].measurement
    assert found
    assert found.metric == "judge"
    assert {arm.arm: arm.means["judge"] for arm in found.arms} == {"rag": 1.0, "ft": 0.0}
    assert found.verdict
    assert found.verdict.contrasts[0].dropped == 0


@pytest.mark.parametrize(
    ("answer", "context", "new"),
    [
        ("Курс стоит 5 000 рублей.", "Цена: 5000 рублей, а не 15 000.", "Курс стоит 7 222 рублей."),
        ("Цена 89 900 рублей.", "89 900 рублей за курс.", "Цена 12 222 рублей."),
        ("Это 45 минут.", "Урок идёт 45 минут.", "Это 67 минут."),
        ("Скидка 10,5 %.", "Скидка 10,5 %.", None),
        ("Да, есть.", "Есть рассрочка на 12 месяцев.", None),
        ("Их 24.", "Курсов 240.", None),
        ("Их 15.", "Всего 15, а цена 15,5 рублей, скидка 1.15 и телефон 8 15 900.", "Их 37."),
    ],
)
def test_a_fact_is_changed_where_its_number_stands_in_the_context(answer: str, context: str, new: str | None) -> None:
    found = changed(Row(1, {"question": "Сколько?", "answer": answer, "context": context}))
    assert (found.answer if found else None) == new
    if found:
        assert found.of(context) != context
        for other in ("15 000 и 245", "15,5", "1 15 000", "1.15", "45,5", "1 45"):
            assert found.of(other) == other
