import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.groups import normalized
from contracts.table import Row, read_table
from trainer.split import LONG_ANSWER, row_groups, split_rows

SAMPLE = Path(__file__).parents[2] / "data" / "selected_qa_full.csv"
QUESTIONS = ["Сколько стоит?", "сколько стоит", "Есть скидки?", "Где вы?", "А рассрочка?", "Кто учит?", "кто учит!"]
LONG = "Обучение на курсе длится четыре месяца, занятия проходят вечером два раза в неделю, записи остаются у вас {}"


def row(number: int, question: str, answer: str = "Да.", context: str = "") -> Row:
    return Row(number, {"question": question, "answer": answer, "context": context})


def distinct(rows: int) -> list[Row]:
    return [row(n, f"Вопрос {n}?") for n in range(1, rows + 1)]


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    number = draw(st.integers(0, 40))
    question = st.sampled_from(QUESTIONS) | st.integers(1, 60).map("Вопрос {}?".format)
    answer = st.sampled_from(["Да.", "Нет.", LONG.format("."), LONG.format("навсегда.")])
    context = st.sampled_from(["", "Прайс.", "прайс", "Устав.", "Правила."])
    return [row(n, draw(question), draw(answer), draw(context)) for n in range(1, number + 1)]


FRACTIONS = st.tuples(st.sampled_from([0, 0.05, 0.1, 0.3, 0.49]), st.sampled_from([0, 0.1, 0.2, 0.5]))


@settings(deadline=None)  # the first call imports datasketch
@given(tables(), FRACTIONS, st.integers(0, 5), st.booleans())
def test_every_row_is_in_one_part_and_no_group_in_two(
    rows: list[Row], fractions: tuple[float, float], seed: int, by_context: bool
) -> None:
    split = split_rows(rows, *fractions, seed, by_context)
    parts = [split.train, split.dev, split.test]
    assert sorted(number for part in parts for number in part) == [r.number for r in rows]
    assert bool(split.train) == bool(rows)
    groups = row_groups(rows, by_context)
    assert split.groups == len(groups)
    for group in groups:
        assert sum(bool(part & {r.number for r in group}) for part in parts) == 1
    for key in ["question", "context"] if by_context else ["question"]:
        texts = [{normalized(r.cells[key]) for r in rows if r.number in part and r.cells[key]} for part in parts]
        assert sum(map(len, texts)) == len(set().union(*texts))


@settings(deadline=None)  # the first call imports datasketch
@given(tables(), FRACTIONS, st.booleans())
def test_a_part_is_short_of_its_share_by_less_than_a_group(
    rows: list[Row], fractions: tuple[float, float], by_context: bool
) -> None:
    split = split_rows(rows, *fractions, 1, by_context)
    sizes = {frozenset(r.number for r in group) for group in row_groups(rows, by_context)}
    left = [len(group) for group in sizes if group <= split.train]
    for part, fraction in ((split.dev, fractions[0]), (split.test, fractions[1])):
        if fraction == 0 or len(rows) < 10:
            assert not part
            continue
        wanted = max(1, round(fraction * len(rows)))
        if len(part) > wanted:
            assert part in sizes
        elif len(left) > 1:
            assert wanted - len(part) < min(left)


@settings(deadline=None)  # the first call imports datasketch
@given(tables(), FRACTIONS, st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter(
    rows: list[Row], fractions: tuple[float, float], by_context: bool, rng: random.Random
) -> None:
    shuffled = rows[:]
    rng.shuffle(shuffled)
    assert split_rows(rows, *fractions, 1, by_context) == split_rows(shuffled, *fractions, 1, by_context)


def test_the_seed_chooses_and_the_test_rows_do_not_depend_on_the_dev_rows() -> None:
    rows = distinct(200)
    one = split_rows(rows, 0.1, 0.2, seed=1)
    assert (len(one.train), len(one.dev), len(one.test), one.groups) == (140, 20, 40, 200)
    assert one.test == split_rows(rows, 0.3, 0.2, seed=1).test == split_rows(rows, 0, 0.2, seed=1).test
    assert one.test != split_rows(rows, 0.1, 0.2, seed=2).test
    assert split_rows(rows, 0.1, 0, seed=1).test == frozenset()


@pytest.mark.parametrize(("rows", "dev", "test"), [(0, 0, 0), (9, 0, 0), (10, 1, 2), (25, 2, 5)])
def test_all_rows_train_where_there_are_too_few(rows: int, dev: int, test: int) -> None:
    split = split_rows(distinct(rows), 0.1, 0.2, seed=1)
    assert (len(split.dev), len(split.test)) == (dev, test)


def test_mistyped_questions_and_reworded_long_answers_stay_together() -> None:
    rows = [
        row(1, "Сколько стоит обучение на курсе «Нейросети для школьников»?"),
        row(2, "сколько стоит обучение на курсе нейросети для школников"),
        row(3, "Когда занятия?", LONG.format("навсегда.")),
        row(4, "Есть ли записи уроков?", LONG.format("и потом.")),
        row(5, "Можно вернуть деньги?", "Да, можно."),
        row(6, "А ученикам из Омска можно?", "Да, можно."),
        row(7, "Сколько стоит курс 1?"),
        row(8, "Сколько стоит курс 2?"),
    ]
    assert len(normalized(LONG.format("навсегда."))) >= LONG_ANSWER
    together = [[r.number for r in group] for group in row_groups(rows)]
    assert together == [[1, 2], [3, 4], [5], [6], [7], [8]]


def test_a_part_gets_the_smallest_group_where_all_are_larger_and_the_last_group_trains() -> None:
    rows = [row(n, "Раз?" if n < 5 else "Два?") for n in range(1, 13)]
    assert split_rows(rows, 0.1, 0, seed=1).dev == frozenset({1, 2, 3, 4})
    both = split_rows(rows, 0.1, 0.1, seed=1)
    assert both.test == frozenset({1, 2, 3, 4})
    assert both.dev == frozenset()
    assert split_rows([row(n, "Раз?") for n in range(1, 13)], 0.1, 0.2, seed=1).train == frozenset(range(1, 13))


@pytest.mark.parametrize("fractions", [(-0.1, 0), (0, -0.1), (0.5, 0.5), (1, 0)])
def test_shares_that_leave_nothing_to_train_on_are_a_mistake(fractions: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="leave nothing"):
        split_rows(distinct(20), *fractions, seed=1)


def test_the_documents_of_the_sample_are_not_divided_where_they_are_to_be_unknown() -> None:
    rows = read_table(SAMPLE).rows
    split = split_rows(rows, 0.1, 0.2, seed=42, by_context=True)
    contexts = {r.number: r.context for r in rows}
    trained = {contexts[number] for number in split.train}
    assert not trained & {contexts[number] for number in split.dev | split.test}
    assert 24 <= len(split.dev) <= 30
    assert 54 <= len(split.test) <= 60
