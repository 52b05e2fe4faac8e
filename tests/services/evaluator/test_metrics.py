"""Metrics of one answer: what people would say of it, in Russian and in English."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from asktwice.cli import cli
from asktwice.profiles import SAMPLE_DATA
from contracts.measurement import AnswerMetrics
from contracts.table import Row, parse_table, read_bytes
from services.evaluator.metrics.answer import (
    WHY,
    chrf,
    copied,
    exact_match,
    measure,
    repetition,
    rouge_l,
)
from services.evaluator.metrics.correctness import abstains, correctness
from services.evaluator.metrics.retrieval import gold_place
from services.evaluator.metrics.text import language, lemmas, russian_share, tokens
from services.evaluator.metrics.values import compare, values
from services.evaluator.planted import figures
from tests.services.evaluator.graded_by_hand import SAMPLE, SAMPLE_HELD_OUT, XQUAD, XQUAD_HELD_OUT

DATA = os.environ.get("ASKTWICE_TEST_DATA")
needs_xquad = pytest.mark.skipif(not DATA, reason="ASKTWICE_TEST_DATA does not name the folder with xquad_en.csv")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("29 900 руб.", [29900]),
        ("29\u00a0900 ₽, то есть 29,9 тыс. рублей", [29900, 29900]),
        ("за трёх человек, двадцать пять тысяч рублей", [3, 25000]),
        ("двухсот сорока пяти страниц", [245]),
        ("1,345,596 people; 12,5 kg", [1345596, 12.5]),
        ("1,345 литра", [1.345]),
        ("1,345 litres", [1345]),
        ("6½ sacks, 2.5 hours, twenty-five days", [6.5, 2.5, 25]),
        ("30 to 50 thousand", [30000, 50000]),
        ("one of them", []),
        ("один из них", []),
        ("один месяц", [1]),
        ("полгода", [0.5]),
        ("версия 1.2.3", []),
        ("всю семью", []),
        ("12th, 15-го, 1990s", [12, 15, 1990]),
    ],
)
def test_numbers_are_read_however_they_are_written(text: str, numbers: list[float]) -> None:
    assert [token.number for token in tokens(text) if token.number is not None] == numbers


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("29 900 рублей", "29900 руб."),
        ("15 %", "пятнадцать процентов"),
        ("15 сентября 2026 года", "2026-09-15"),
        ("15.09.2026", "пятнадцатого сентября 2026"),
        ("October 6, 1973", "6 October 1973"),
        ("09/15/2026 is the day", "15 September 2026"),
        ("8 (495) 123-45-67", "+7 495 1234567"),
        ("в 18:00", "в 18 часов"),
        ("14 дней", "две недели"),
        ("6 месяцев", "полгода"),
        ("90 минут", "полтора часа"),
        ("90-минутное занятие", "занятие на 90 минут"),
        ("$1,500", "1500 dollars"),
        ("https://www.uii.example.org/", "uii.example.org"),
        ("по вторникам", "каждый вторник"),
    ],
)
def test_one_value_in_two_forms_is_matched(one: str, other: str) -> None:
    for answer, reference in ((one, other), (other, one)):
        found = compare(answer, reference)
        assert found.recall == 1, (answer, values(answer), values(reference))
        assert not found.contradicted


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("29 800 рублей", "29 900 рублей"),
        ("5 месяцев", "5 недель"),
        ("15 рублей", "15 %"),
        ("16 сентября", "15 сентября"),
        ("в 18:30", "в 18:00"),
        ("по четвергам", "по вторникам"),
        ("in 1974", "in 1973"),
        ("Martin Short", "Kawann Short"),
        ("курс «Python для анализа данных»", "курс «Python с нуля»"),
        ("Пишите на help@uii.example.org", "Пишите на info@uii.example.org"),
    ],
)
def test_another_value_in_its_place_contradicts(answer: str, reference: str) -> None:
    found = compare(answer, reference)
    assert found.contradicted
    assert not found.matched
    assert correctness(answer, reference) == 0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("Нет, рассрочка есть.", "Да, рассрочка есть."),
        ("Опыт нужен.", "Опыт не нужен."),
        ("Свою базу брать можно.", "Свою базу брать нельзя."),
        ("Учебные классы у нас есть.", "Учебных классов у нас нет."),
        ("Experience is required.", "Experience is not required."),
        ("The course doesn't include lectures.", "The course includes lectures."),
    ],
)
def test_the_opposite_contradicts(answer: str, reference: str) -> None:
    assert compare(answer, reference).opposite
    assert correctness(answer, reference) == correctness(reference, answer) == 0


def test_a_name_is_matched_in_every_case_and_by_its_last_word() -> None:
    reference = "Курс ведёт Анна Кузнецова из Новосибирска."
    assert not compare("Курс ведут с Анной Кузнецовой в Новосибирске.", reference).missing
    assert compare("Newton did.", "Cam Newton").recall == 1
    assert compare("Cam did.", "Cam Newton").recall == 0


def test_a_name_in_addition_contradicts_nothing() -> None:
    found = compare("The Denver Broncos of the AFC beat the Panthers.", "Denver Broncos")
    assert (found.recall, found.contradicted) == (1, [])
    assert {value.text for value in found.foreign} == {"AFC", "Panthers"}


def test_what_the_question_names_is_not_asked_for_but_can_be_contradicted() -> None:
    reference, question = "Курс «Python с нуля» стоит 29 900 рублей.", "Сколько стоит «Python с нуля»?"
    assert correctness("29 900 рублей.", reference, question) == 1
    assert correctness("«Нейрохудожник» стоит 29 900 рублей.", reference, question) == 0


def test_only_the_unit_asked_for_is_required() -> None:
    reference = "Курс «SQL для аналитика» длится 4 недели, в нём 8 занятий."
    assert correctness("Четыре недели.", reference, "сколько недель sql") == 1
    assert correctness("Четыре недели.", reference, "сколько недель и занятий") == 0.5
    assert correctness("Четыре недели, 12 занятий.", reference, "сколько недель sql") == 0


def test_surface_metrics_prefer_the_wrong_answer_and_correctness_does_not() -> None:
    question, reference = "Когда вы ответите?", "Мы ответим вам в течение трёх рабочих дней."
    wrong = measure("Мы ответим вам в течение пяти рабочих дней.", reference, question)
    right = measure("Ответ придёт за 3 рабочих дня.", reference, question)
    assert (wrong.correct, right.correct) == (0, 1)
    assert (wrong.chrf or 0) > (right.chrf or 0) > 0
    assert (wrong.rouge_l or 0) > (right.rouge_l or 0) > 0


def test_identical_russian_sentences_score_one() -> None:
    text = "Учёба длится шесть месяцев."
    assert rouge_l(text, text) == chrf(text, text) == 1
    same = measure("Учеба длится 6 месяцев!", text)
    assert (same.exact_match, same.token_f1, same.correct) == (1, 1, 1)


def test_words_are_compared_by_lemma_and_not_by_chance() -> None:
    assert lemmas("Шли ёжики") == lemmas("идёт ёжик")
    assert lemmas("The courses") == lemmas("a course")
    assert exact_match("не нужен", "нужен") == 0
    assert lemmas("УИИ") != lemmas("у")


@pytest.mark.parametrize(
    "text",
    [
        "Не знаю.",
        "К сожалению, я не знаю, сколько это стоит. Позвоните по телефону 8 800 000-00-00.",
        "У меня нет такой информации, уточните у менеджера.",
        "В предоставленном контексте об этом не сказано.",
        "I'm sorry, but I can’t help with that.",
        "The context does not mention the price.",
        "I do not know the answer.",
    ],
)
def test_an_answer_that_does_not_know_is_recognised(text: str) -> None:
    assert abstains(text)
    assert correctness(text, "Курс стоит 29 900 рублей.") == 0
    assert correctness(text, "К сожалению, этого я не знаю.") == 1


@pytest.mark.parametrize(
    "text",
    ["Точно не знаю, но курс стоит 29 900 рублей.", "Математику знать не нужно.", "Возврата нет.", "There is no fee."],
)
def test_an_answer_that_tells_something_does_not_abstain(text: str) -> None:
    assert not abstains(text)


@pytest.mark.parametrize("path", [SAMPLE_DATA, pytest.param(Path(DATA or "") / "xquad_en.csv", marks=needs_xquad)])
def test_no_reference_abstains_and_each_is_right_of_itself(path: Path) -> None:
    for row in _rows(path):
        assert not abstains(row.answer), row.answer
        assert correctness(row.answer, row.answer, row.question) == 1, row.answer


def test_abstention_is_right_where_nothing_is_known_or_the_passages_lack_it() -> None:
    reference, question = "Курс стоит 29 900 рублей.", "Сколько стоит курс?"
    assert measure("Не знаю.", reference, question).abstention_right is False
    assert measure("Не знаю.", reference, question, ["Кошки спят днём."]).abstention_right is True
    assert measure("Не знаю.", reference, question, ["Цена курса: 29900 руб."]).abstention_right is False
    assert measure("29 900 рублей.", reference, question).abstention_right is True
    assert measure("29 900 рублей.", "Этого я не знаю.", question).abstention_right is False
    assert measure("29 900 рублей.").abstention_right is None


def test_faithfulness_is_the_share_that_the_passages_have() -> None:
    passages = ["Курс «Python с нуля» стоит 29 900 рублей.", "Он длится два месяца, занятия ведут преподаватели."]
    good = measure("Здравствуйте! Курс стоит 29900 руб., длится 2 месяца. Ждём вас!", passages=passages)
    assert (good.faithfulness, good.unsupported) == (1, [])
    bad = measure("Курс стоит 29 900 рублей, длится 3 месяца.", passages=passages)
    assert 0 < (bad.faithfulness or 0) < 1
    assert bad.unsupported == ["3 месяца"]
    assert measure("Кошки спят днём на печи.", passages=passages).faithfulness == 0
    silent = measure("Не знаю.", passages=passages)
    assert (silent.faithfulness, silent.not_measured["faithfulness"]) == (None, "nothing_to_check")


def test_what_cannot_be_measured_is_absent_with_a_reason() -> None:
    found = measure("Да", None, "Есть рассрочка?", [])
    for name, value in found:
        if name != "not_measured":
            assert (value is None) == (name in found.not_measured), name
    assert found.not_measured["correct"] == "no_reference"
    assert found.not_measured["faithfulness"] == "no_passages"
    assert found.not_measured["repetition"] == "too_short"
    assert measure("Да, есть.", "Да, есть.").not_measured["values_recall"] == "no_values"
    empty = measure(" \n*", "Да.", passages=["Да."])
    assert set(empty.not_measured) == set(AnswerMetrics.model_fields) - {"not_measured"}
    assert set(empty.not_measured.values()) == {"no_answer"}
    assert measure("123").not_measured["language"] == "no_letters"
    assert all({"ru", "en"} == set(texts) for texts in WHY.values())


def test_language_is_that_of_most_letters() -> None:
    assert language("Курс ChatGPT идёт 4 месяца") == "ru"
    assert language("The course is in Russia (Россия)") == "en"
    assert language("这个课程的价格是多少") == "other"
    assert language("29 900") is None
    assert russian_share("аб ab") == 0.5


def test_repetition_and_copies_are_counted() -> None:
    assert repetition("раз два три четыре " * 3) == pytest.approx(5 / 9)
    assert repetition("раз два три четыре пять шесть") == 0
    passage = "Курс длится два месяца и стоит двадцать тысяч."
    assert copied("Курс длится два месяца и стоит двадцать тысяч.", [passage]) == 1
    assert copied("Ответ: курс длится два месяца и недорого.", [passage]) == pytest.approx(5 / 7)
    assert copied("Этот курс стоит недорого, всего месяц работы.", [passage]) == 0
    assert copied("Два месяца.", [passage]) is None


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=100))
def test_any_text_is_measured_within_the_ranges(answer: str, reference: str, question: str) -> None:
    found = measure(answer, reference, question, [reference])
    assert found.correct in (None, 0, 0.5, 1)
    shares = (found.values_precision, found.values_recall, found.token_f1, found.chrf, found.rouge_l)
    for value in (*shares, found.faithfulness, found.copied, found.repetition, found.russian_share):
        assert value is None or -1e-9 <= value <= 1 + 1e-9
    assert AnswerMetrics.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("path", "graded", "least"),
    [
        (SAMPLE_DATA, SAMPLE, 0.85),
        (SAMPLE_DATA, SAMPLE_HELD_OUT, 0.75),
        pytest.param(Path(DATA or "") / "xquad_en.csv", XQUAD, 0.9, marks=needs_xquad),
        pytest.param(Path(DATA or "") / "xquad_en.csv", XQUAD_HELD_OUT, 0.9, marks=needs_xquad),
    ],
)
def test_answers_in_other_words_get_the_grade_of_a_person(
    path: Path, graded: Sequence[tuple[int, str, float]], least: float
) -> None:
    rows = {row.number: row for row in _rows(path)}
    got = [(grade, correctness(answer, rows[number].answer, rows[number].question)) for number, answer, grade in graded]
    agreed = sum(ours == theirs for theirs, ours in got) / len(got)
    passed = [pair for pair in got if pair[0] == 0 and pair[1] == 1]
    print(f"{path.name}: {len(got)} answers, {agreed:.3f} graded as by a person, wrong taken for right: {len(passed)}")
    assert agreed >= least
    assert not passed  # the metric may be too strict with other words; it must not be taken in


@pytest.mark.parametrize("path", [SAMPLE_DATA, pytest.param(Path(DATA or "") / "xquad_en.csv", marks=needs_xquad)])
def test_planted_answers_are_graded_as_they_should_be(path: Path) -> None:
    held_out = figures(path)["held_out"]
    least = {"the reference": 1, "padded": 0.99, "a sentence around it": 0.99, "does not know": 0.98}
    least |= {"another row's answer": 0.99, "a number swapped": 0.95, "a name swapped": 0.95, "denied": 0.95}
    least |= {"the context's sentence": 0.95, "truncated": 0.85}
    for kind, found in held_out.items():
        print(f"{path.name} {kind:<26} {found['as_it_should']:.3f} of {found['answers']:.0f}")
        if found["answers"] >= 20:
            assert found["as_it_should"] >= least.get(kind, 0.95), kind


def test_the_command_prints_one_object() -> None:
    result = CliRunner().invoke(cli, ["bench", "metrics", "--data", str(SAMPLE_DATA), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found.keys() == {"chosen_on", "held_out"}
    assert found["held_out"]["the reference"]["as_it_should"] == 1


def test_the_gold_passage_is_the_context_or_a_part_of_it() -> None:
    context = "Курс стоит 29 900 рублей. Он длится два месяца, занятия идут по вечерам."
    assert gold_place(["Кошки спят днём.", "Он длится два месяца, занятия идут по вечерам."], context) == 2
    assert gold_place([context.upper()], context) == 1
    assert gold_place([context.replace("вечерам", "утрам")], context) == 1
    assert gold_place(["Кошки спят днём.", ""], context) is None


def _rows(path: Path) -> list[Row]:
    return parse_table(read_bytes(path), path.name, ("question", "answer", "context")).rows
