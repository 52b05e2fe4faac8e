"""Leaks between training, index and test are found and named; related facts are no leaks.

``pytest -s -k hand tests/services/evaluator/test_leakage.py`` prints the tables of docs/leakage.md.
"""

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from contracts.facts import same_facts
from contracts.table import Row, read_table
from services.evaluator.leakage import Leak, Leakage, find_leakage, regimes
from services.evaluator.leakage_bench import false_alarms, figures, leak_caught
from tests.services.evaluator.rephrased import (
    SAMPLE,
    SAMPLE_UNSEEN,
    XQUAD,
    XQUAD_SAME,
    XQUAD_UNSEEN,
    Rephrased,
)

DATA = os.environ.get("ASKTWICE_TEST_DATA")
SAMPLE_FILE = Path("data/selected_qa_full.csv")
SPLITS = 20


def row(number: int, question: str, answer: str = "Да.", context: str = "") -> Row:
    return Row(number, {"question": question, "answer": answer, "context": context})


TRAIN = [
    row(1, "Сколько стоит курс «Маяк»?", "Курс «Маяк» стоит 29 900 рублей.", "Курс «Маяк» стоит 29 900 рублей."),
    row(2, "Где проходят занятия по курсу «Ветер»?", "В Казани, на улице Баумана.", "«Ветер»: Казань, Баумана."),
    row(3, "Кто ведёт курс «Старт»?", "Его ведёт Анна Ильина.", "«Старт» ведёт Анна Ильина."),
    row(4, "Можно ли вернуть деньги за «Маяк»?", "Да, в течение 14 дней.", "Деньги вернут в течение 14 дней."),
]


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Сколько стоит курс «Маяк»?", "Не знаю", Leak(9, 1, "exact", 1.0)),
        ("  СКОЛЬКО стоит курс маяк", "", Leak(9, 1, "exact", 1.0)),
        ("Почём курс «Маяк»?", "29900 руб.", Leak(9, 1, "rephrased", 1.0)),
        ("Сколько стоит курс «Ветер»?", "39 900 рублей", None),
        ("Сколько недель идёт курс «Маяк»?", "5 недель", None),
    ],
)
def test_a_leak_is_named_with_both_rows(question: str, answer: str, expected: Leak | None) -> None:
    leaks = find_leakage(TRAIN, [row(9, question, answer)]).leaks
    assert [(at.test, at.train, at.kind) for at in leaks] == (
        [(expected.test, expected.train, expected.kind)] if expected else []
    )


def test_near_duplicates_are_leaks_unless_they_ask_for_something_else() -> None:
    asked = "Где именно проходят вечерние практические занятия по курсу «{}» для студентов второго года обучения?"
    train = [row(1, asked.format("Ветер"), "В Казани.")]
    typo = find_leakage(train, [row(2, asked.format("Ветер").replace("вечерние", "вечрение"), "В Казани.")])
    assert [leak.kind for leak in typo.leaks] == ["near duplicate"]
    assert 0.8 <= typo.leaks[0].similarity < 1
    assert find_leakage(train, [row(2, asked.format("Полюс"), "В Казани.")]).leaks == ()
    assert find_leakage(train, [row(2, asked.format("Ветер") + "!", "В Казани.")]).leaks[0].kind == "exact"


def test_question_and_answer_in_the_index_are_a_leak_and_contexts_are_not() -> None:
    test = [row(7, "Сколько стоит тариф «Полюс»?", "Он стоит 700 рублей.", "Полюс. Сколько стоит тариф? Семьсот.")]
    assert find_leakage(TRAIN, test, [test[0].context, "Тариф «Полюс» стоит 700 рублей в месяц."]).leaks == ()
    pair = "Вопрос: сколько стоит тариф Полюс\nОтвет: он стоит 700 рублей"
    assert find_leakage(TRAIN, test, ["О нас", pair]).leaks == (Leak(7, 2, "index", 1.0),)
    long = [row(8, "Что за тариф?", "Это тариф для тех, кто много ездит.")]
    assert find_leakage(TRAIN, long, ["Это тариф для тех, кто много ездит"]).leaks == (Leak(8, 1, "index", 1.0),)
    in_context = [row(8, "Что за тариф?", "Тариф", "Что за тариф? Тариф на год. Подробнее на сайте.")]
    assert find_leakage(TRAIN, in_context, ["Что за тариф? Тариф на год."]).leaks == ()


def test_above_one_percent_the_verdict_is_invalid_and_says_which_rows() -> None:
    test = [row(100 + n, f"Вопрос о предмете номер {n}?", f"Ответ {n}") for n in range(99)]
    assert find_leakage(TRAIN, test).reason() is None
    one = find_leakage(TRAIN, [*test, row(500, "Кто ведёт курс «Старт»?")])
    assert (one.share, one.invalid) == (0.01, False)
    two = find_leakage(TRAIN, [*test[1:], row(500, "Кто ведёт курс «Старт»?"), row(501, "сколько стоит курс «маяк»")])
    assert (two.share, two.invalid) == (0.02, True)
    russian, english = two.reason() or "", two.reason("en") or ""
    assert "строка 500 из строки 3 обучения (тот же вопрос, 1.00)" in russian
    assert "2 из 100" in russian
    assert "test row 501 from training row 1 (exact, 1.00)" in english
    assert Leakage(0, ()).share == 0.0


def test_a_long_list_is_cut_and_counted() -> None:
    leaks = tuple(Leak(n, n, "exact", 1.0) for n in range(1, 31))
    assert "и ещё 20" in (Leakage(40, leaks).reason() or "")


def test_each_row_is_told_in_which_regime_it_is_asked() -> None:
    test = [
        row(11, "кто ведёт курс старт", "Анна Ильина", TRAIN[2].context),
        row(12, "Сколько человек в группе «Старта»?", "Двенадцать", TRAIN[2].context.upper()),
        row(13, "Какова ширина ворот гаража?", "Три метра", "Гараж: ворота шириной три метра."),
        row(14, "Какова высота башни?", "Сорок метров", "Башня в сорок метров."),
        row(15, "Есть ли буфет?", "Есть"),
    ]
    leakage = find_leakage(TRAIN, test)
    assert regimes(TRAIN, test, leakage, ["башня в сорок метров"]) == {
        11: "trained question",
        12: "new question, known context",
        13: "new context",
        14: "new question, known context",
        15: "no context",
    }


def test_what_is_found_does_not_depend_on_the_order_of_rows() -> None:
    rows = read_table(SAMPLE_FILE).rows
    train, test = rows[::2], rows[1::2]
    found = find_leakage(train, test)
    assert found.leaks
    assert find_leakage(train, test[::-1]) == found
    turned = find_leakage(train[::-1], test)
    assert [leak.test for leak in turned.leaks] == [leak.test for leak in found.leaks]


def test_planted_leaks_are_caught_and_clean_worlds_are_not_accused() -> None:
    assert leak_caught(24, seed=5) >= 0.95
    assert false_alarms(24, seed=5) <= 0.05


@pytest.mark.slow
def test_planted_leaks_are_caught_in_many_worlds() -> None:
    caught, accused = leak_caught(120, seed=7), false_alarms(120, seed=7)
    found = {"leaking worlds INVALID": caught, "clean worlds INVALID": accused, **figures(120, seed=7)}
    assert caught >= 0.95
    assert accused <= 0.01
    print("\n" + "\n".join(f"| {name} | {value:.3f} |" for name, value in found.items()))
    assert found["recall, exact"] == found["recall, case and punctuation"] == 1
    assert found["recall, near duplicate"] >= 0.95
    assert found["recall, rephrased"] >= 0.95
    assert found["alarms"] <= 0.01


def is_alarm(leak: Leak) -> bool:
    """Whether a leak of XQuAD is none by hand."""
    return (leak.test, leak.train) not in XQUAD_SAME and (leak.train, leak.test) not in XQUAD_SAME


def recalled(rows: Sequence[Row], table: Rephrased) -> float:
    """The share of hand-made rephrasings that are traced to their row."""
    number = {row.number: row for row in rows}
    test = [row(n, question, answer or number[n].answer, number[n].context) for n, (question, answer) in table.items()]
    found = {test[i].number for i, j, _ in same_facts(test, rows) if rows[j].number == test[i].number}
    return len(found) / len(table)


def test_rows_of_the_sample_rephrased_by_hand_are_found() -> None:
    rows = read_table(SAMPLE_FILE).rows
    seen, unseen = recalled(rows, SAMPLE), recalled(rows, SAMPLE_UNSEEN)
    print(f"\n| sample, {len(SAMPLE)} rows | {seen:.2f} |\n| sample, unseen {len(SAMPLE_UNSEEN)} | {unseen:.2f} |")
    assert seen >= 0.92
    assert unseen >= 0.8


@pytest.mark.skipif(not DATA, reason="ASKTWICE_TEST_DATA does not name the folder that holds xquad_en.csv")
def test_rows_of_xquad_rephrased_by_hand_are_found_and_related_facts_are_no_alarm() -> None:
    assert DATA
    rows = read_table(Path(DATA) / "xquad_en.csv").rows
    seen, unseen = recalled(rows, XQUAD), recalled(rows, XQUAD_UNSEEN)
    print(f"\n| XQuAD, {len(XQUAD)} rows | {seen:.2f} |\n| XQuAD, unseen {len(XQUAD_UNSEEN)} | {unseen:.2f} |")
    assert seen >= 0.92
    assert unseen >= 0.85
    alarms, flagged, tested = 0, 0, 0
    for seed in range(SPLITS):
        shuffled = random.Random(seed).sample(rows, len(rows))
        test, train = shuffled[: len(rows) // 5], shuffled[len(rows) // 5 :]
        leaks = find_leakage(train, test).leaks
        flagged, tested = flagged + len(leaks), tested + len(test)
        alarms += sum(map(is_alarm, leaks))
    print(f"| XQuAD, {SPLITS} splits by rows: flagged | {flagged / tested:.4f} |")
    print(f"| of them not the same fact by hand | {alarms / tested:.4f} |")
    assert flagged > alarms
    assert alarms / tested <= 0.01


@pytest.mark.skipif(not DATA, reason="ASKTWICE_TEST_DATA does not name the folder that holds xquad_en.csv")
def test_splits_of_xquad_by_context_raise_no_alarm_by_hand() -> None:
    assert DATA
    rows = read_table(Path(DATA) / "xquad_en.csv").rows
    contexts = sorted({row.context for row in rows})
    shares = []
    for seed in range(SPLITS):
        held = set(random.Random(seed).sample(contexts, len(contexts) // 5))
        test = [row for row in rows if row.context in held]
        leaks = find_leakage([row for row in rows if row.context not in held], test).leaks
        shares.append(sum(map(is_alarm, leaks)) / len(test))
    print(f"\n| XQuAD, {SPLITS} splits by context: not the same fact by hand | {sum(shares) / SPLITS:.4f} |")
    assert max(shares) <= 0.01
