"""From answers to a verdict: each number is that of the answers, and nothing that leaked or has no grade is claimed."""

import csv
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asktwice.judging import verdict_of
from contracts.evaluation import AskedQuestion, EvaluationQuestion, EvaluationResult, ModeAnswer
from contracts.generation import Mode, Source
from contracts.table import Row
from contracts.verdict import Outcome, VerdictSettings
from services.evaluator.arms import parse_arms
from services.evaluator.lines import EMPTY
from services.evaluator.measuring import look_for_leaks, measure_run
from services.evaluator.operations import Prices
from services.evaluator.page import report_html
from services.evaluator.plan import Plan
from services.evaluator.report import result_text
from services.evaluator.tables import item_lines, items_table
from tests.services.evaluator.fakes import make_answer, make_result, plan_of
from tests.services.evaluator.numbers import strange_numbers

THINGS = ["чайник", "утюг", "фен", "тостер", "пылесос", "миксер", "блендер", "холодильник", "телевизор", "ноутбук"]
Answering = Callable[[int], str | None]


def price(n: int) -> int:
    return 1000 + 37 * n


def asked_by(count: int, arms: dict[str, Answering]) -> Plan:
    """A plan whose questions were answered by these; the contexts repeat after each third question."""
    questions = [
        EvaluationQuestion(
            question=f"Сколько стоит {THINGS[n % 10]} модели {n // 10 + 2}{chr(1072 + n % 30)}?",
            answer=f"Он стоит {price(n)} рублей.",
            context=f"Товары полки {n // 3}: цена {price(n // 3 * 3)} рублей.",
        )
        for n in range(count)
    ]
    plan = plan_of(questions, arms=list(arms))
    plan.unknown = []
    for n, each in enumerate(plan.asked):
        for arm in parse_arms(list(arms)):
            text, question = arms[arm.name](n), each.question
            source = Source(n=1, id="p", title="полка", text=question.context or "", score=1)
            given = make_answer(question.question, arm.mode, text or "", sources=[source] if arm.mode.retrieves else [])
            error = None if text else "ответ не готов вовремя"
            each.answers.append(ModeAnswer(mode=arm.mode, arm=arm.name, answer=given if text else None, error=error))
    return plan


def right(n: int) -> str:
    return f"Цена {price(n)} рублей, приходите!"


def wrong(n: int) -> str:
    return f"Цена {price(n) + 5} рублей."


def measured(plan: Plan, **changes: Any) -> EvaluationResult:
    plan.lang = changes.get("lang", "ru")
    result = make_result({}, []).model_copy(
        update={"asked": plan.asked, "arms": [a.name for a in plan.arms], **changes}
    )
    result.measurement = measure_run(plan, look_for_leaks(plan))
    return result


def sometimes(share: float, seed: int) -> Answering:
    drawn = random.Random(seed)
    return lambda n: right(n) if drawn.random() < share else wrong(n)


def test_the_better_arm_wins_and_every_number_of_the_text_is_in_the_results() -> None:
    plan = asked_by(120, {"rag": sometimes(0.9, 1), "ft": sometimes(0.3, 2)})
    result = measured(plan)
    found = result.measurement
    assert found
    assert found.verdict
    assert (found.verdict.outcome, found.verdict.winner) == (Outcome.better, "rag")
    rag, ft = found.arms
    truth = [
        f"{price(n)} рублей" in each.answers[0].answer.answer
        for n, each in enumerate(plan.asked)
        if each.answers[0].answer
    ]
    assert rag.means["correct"] == pytest.approx(sum(truth) / 120)
    assert (rag.answered, rag.failed, ft.answered) == (120, 0, 120)
    assert rag.retrieval["hit_at_1"] == 1.0
    assert "faithfulness" not in ft.means
    text = result_text(result)
    assert "Вывод: лучше RAG." in text
    assert strange_numbers(text.split("Измерения и вывод")[1], result) == []


def test_what_failed_is_no_zero() -> None:
    plan = asked_by(60, {"rag": lambda n: right(n) if n % 6 else None, "ft": right})
    found = measured(plan).measurement
    assert found
    rag = found.arms[0]
    assert (rag.answered, rag.failed, rag.measured["correct"]) == (50, 10, 50)
    assert rag.means["correct"] == 1.0
    assert found.verdict
    assert found.verdict.contrasts[0].dropped == 10


def test_who_fails_most_questions_does_not_win_with_the_rest() -> None:
    result = measured(asked_by(60, {"rag": lambda n: None if n % 5 else right(n), "ft": wrong}))
    assert result.measurement
    assert result.measurement.verdict
    assert result.measurement.verdict.outcome is Outcome.not_enough_data
    assert "у 48 вопросов из 60 нет пары ответов" in result_text(result)
    assert "Fine-tuning: ответов 60, без ответа 0" in result_text(result)


@pytest.mark.parametrize("said", ["...", *EMPTY.values()])
def test_an_answer_that_says_nothing_is_wrong_and_no_failure(said: str) -> None:
    plan = asked_by(
        60, {"rag": lambda n: "..." if n % 3 else right(n), "ft": lambda n: right(n) if n % 3 else wrong(n)}
    )
    if said in EMPTY.values():
        for each in plan.asked:
            if each.answers[0].answer and each.answers[0].answer.answer == "...":
                each.answers[0] = ModeAnswer(mode=Mode.rag, error=said)
    found = measured(plan).measurement
    assert found
    assert found.verdict
    assert {arm.arm: round(arm.means["correct"], 2) for arm in found.arms} == {"rag": 0.33, "ft": 0.67}
    assert (found.verdict.outcome, found.verdict.winner) == (Outcome.better, "ft")


def test_passages_that_were_not_found_are_misses() -> None:
    plan = asked_by(40, {"rag": right, "ft": right})
    for each in plan.asked[::2]:
        assert each.answers[0].answer
        each.answers[0].answer.sources = []
    found = measured(plan).measurement
    assert found
    assert found.arms[0].retrieval["hit_at_1"] == 0.5


def test_one_question_asked_sixty_times_is_one_piece_of_evidence() -> None:
    plan = asked_by(60, {"rag": right, "ft": wrong})
    for each in plan.asked:
        each.question = each.question.model_copy(update={"question": "Сколько стоит чайник?", "context": None})
    found = measured(plan).measurement
    assert found
    assert found.verdict
    assert found.verdict.outcome is Outcome.not_enough_data
    assert found.verdict.contrasts[0].clusters == 1


def test_a_silent_arm_is_named_and_the_others_are_compared() -> None:
    arms = {"base": wrong, "rag": right, "ft": lambda n: None, "oracle": lambda n: None}
    result = measured(asked_by(60, arms))
    assert result.measurement
    assert result.measurement.verdict
    assert (result.measurement.verdict.outcome, result.measurement.verdict.winner) == (Outcome.better, "rag")
    assert "Не сравнивается: нет ни одного оценённого ответа (Fine-tuning)" in result_text(result)


def test_an_arm_without_a_single_answer_ends_the_comparison_and_not_the_run() -> None:
    result = measured(asked_by(30, {"rag": right, "ft": lambda n: None}))
    assert result.measurement
    assert result.measurement.verdict is None
    assert "Вывод: сравнить нельзя: нет ни одного оценённого ответа (Fine-tuning)." in result_text(result)


def test_questions_that_were_trained_on_make_the_verdict_invalid_and_are_named() -> None:
    plan = asked_by(60, {"rag": wrong, "ft": right})
    for n, each in enumerate(plan.asked):
        each.row = 101 + n
    known = [plan.asked[n].question for n in (3, 17)]
    plan.train = [
        Row(n + 1, {"question": q.question, "answer": q.answer or "", "context": ""}) for n, q in enumerate(known)
    ]
    result = measured(plan)
    found = result.measurement
    assert found
    assert found.verdict
    assert found.verdict.outcome is Outcome.invalid
    assert [row.row for row in found.leakage.rows] == [104, 118]
    assert found.regimes["trained question"] == 2
    text = result_text(result)
    assert "Вывод: результат недействителен." in text
    assert "строка 104 из строки 1 обучения" in text


def test_an_index_that_holds_questions_with_their_answers_makes_the_verdict_invalid() -> None:
    plan = asked_by(60, {"rag": right, "ft": right})
    for each in plan.asked[:3]:
        source = Source(n=1, id="p", title="", text=f"{each.question.question} {each.question.answer}", score=1)
        given = each.answers[0].answer
        assert given
        given.sources = [source]
    found = measured(plan).measurement
    assert found
    assert found.verdict
    assert found.verdict.outcome is Outcome.invalid
    assert {row.kind for row in found.leakage.rows} == {"index"}


def test_one_known_question_of_many_is_left_out_of_the_verdict() -> None:
    plan = asked_by(150, {"rag": wrong, "ft": right})
    first = plan.asked[0].question
    plan.train = [Row(1, {"question": first.question, "answer": first.answer or "", "context": ""})]
    found = measured(plan).measurement
    assert found
    assert found.verdict
    assert (found.verdict.outcome, found.verdict.winner) == (Outcome.better, "ft")
    assert found.verdict.contrasts[0].items == 149


def test_where_the_training_is_not_known_it_says_so() -> None:
    plan = asked_by(30, {"rag": right, "ft": right})
    plan.unknown = ["ft"]
    result = measured(plan)
    assert "обучающие строки неизвестны" in result_text(result)
    assert result.measurement
    assert result.measurement.regimes == {"not known": 30}


def test_controls_are_measured_and_never_win() -> None:
    plan = asked_by(60, {"rag": sometimes(0.5, 1), "ft": sometimes(0.5, 2), "oracle": right, "shuffled": wrong})
    found = measured(plan).measurement
    assert found
    assert found.verdict
    assert {arm.arm for arm in found.verdict.arms} == {"rag", "ft"}
    assert {arm.arm: arm.means["correct"] for arm in found.arms if arm.arm in ("oracle", "shuffled")} == {
        "oracle": 1.0,
        "shuffled": 0.0,
    }


def test_items_csv_is_what_asktwice_verdict_reads_and_it_says_the_same(tmp_path: Path) -> None:
    arms = {"rag": sometimes(0.8, 1), "ft": sometimes(0.4, 2), "base": wrong, "oracle": right}
    result = measured(asked_by(90, arms))
    path = tmp_path / "items.csv"
    path.write_bytes(items_table(result))
    assert result.measurement
    assert verdict_of(path, VerdictSettings()) == result.measurement.verdict
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    assert len(rows) == 360
    lines = [json.loads(line) for line in item_lines(result).decode().splitlines()]
    assert [line["arm"] for line in lines[:4]] == ["rag", "ft", "base", "oracle"]
    assert lines[0]["metrics"]["correct"] == float(rows[0]["score"])


def test_costs_are_those_of_the_price_and_absent_without_one() -> None:
    plan = asked_by(30, {"rag": right, "ft": sometimes(0.5, 1)})
    free = measure_run(plan, look_for_leaks(plan))
    assert free
    assert all(arm.operations and arm.operations.cost_per_thousand is None for arm in free.arms)
    paid = measure_run(plan, look_for_leaks(plan), Prices(hour=3.6))
    assert paid
    rag = paid.arms[0].operations
    assert rag
    assert rag.cost_per_thousand == pytest.approx(1000 * 1.5 / 3600 * 3.6)
    assert rag.cost_per_right == pytest.approx(1.5 / 3600 * 3.6)


def test_in_english_nothing_but_headings_questions_and_answers_is_russian() -> None:
    result = measured(asked_by(60, {"rag": right, "ft": sometimes(0.5, 2)}), lang="en")
    measured_part = result_text(result).split("Измерения и вывод")[1]
    assert "Verdict: RAG is better." in measured_part
    assert not re.search("[а-яё]", measured_part, re.IGNORECASE), re.findall(".*[а-яё].*", measured_part)


def test_no_answer_can_leave_the_page_that_shows_it() -> None:
    evil = "</script><script>alert(1)</script><!-- \u2028"
    page = report_html(measured(asked_by(12, {"rag": lambda n: evil, "ft": right})))
    assert evil not in page
    assert page.count("</script>") == 2
    data = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert json.loads(data)["result"]["asked"][0]["answers"][0]["answer"]["answer"] == evil
    assert not re.search(r"(src|href)=", page.replace(data, ""))


def test_a_run_without_references_measures_answers_and_compares_nothing() -> None:
    plan = plan_of([EvaluationQuestion(question="Есть рассрочка?")])
    plan.asked[0].answers = [ModeAnswer(mode=Mode.rag, answer=make_answer("Есть рассрочка?", Mode.rag, "Да, есть."))]
    assert measure_run(plan, look_for_leaks(plan)) is None
    assert plan.asked[0].answers[0].metrics
    assert plan.asked[0].answers[0].metrics.words == 2
    assert isinstance(plan.asked[0], AskedQuestion)
