import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from contracts.facts import fact, same_facts, terms, units, values
from contracts.table import Row

TEXTS = st.text(alphabet="аб вгAб 12.?%«»", max_size=30)


def row(question: str, answer: str, number: int = 1) -> Row:
    return Row(number, {"question": question, "answer": answer})


FILLER = [
    row(f"Где лежит {place} {n}?", f"У {place} номер {n + 40}.", n)
    for n, place in enumerate(str.split("ключ журнал договор пропуск билет чехол провод блокнот зонт пакет"))
]
"""Without other rows no word is rarer than another."""


def alike(one: tuple[str, str], other: tuple[str, str]) -> bool:
    return bool([pair for pair in same_facts([row(*one)], [row(*other), *FILLER]) if pair[1] == 0])


SAME = [
    (("Сколько стоит курс «Маяк»?", "Он стоит 29 900 рублей."), ("какова стоимость курса маяк", "29900 руб.")),
    (("Сколько недель учатся на «Маяке»?", "«Маяк» идёт три недели."), ("«Маяк» — это сколько недель?", "3 нед.")),
    (("How many points did the defense give up?", "308"), ("The defense gave up how many points?", "308 points")),
    (("Who led the team in sacks?", "Kawann Short"), ("Who was first in sacks on the team?", "Kawann Short")),
    (("Какая скидка у студентов очно?", "15 %"), ("Студентам очно скидка положена?", "Да, 15 процентов.")),
]
SAME += [
    (("Сколько стоит «Маяк» по акции?", "29 900 рублей"), ("Сколько стоит «Мякак» по акции?", "29 900 рублей")),
    (("Where is the White Compass tour?", "In York"), ("Where is the Wihte Compass tour?", "In York")),
]
OTHER = [
    pytest.param(("Сколько стоит X100?", "29 900 рублей"), ("Сколько стоит X200?", "29 900 рублей"), id="model"),
    pytest.param(("Сколько стоит «Маяк»?", "29 900 рублей"), ("Сколько стоит «Ветер»?", "29 900 рублей"), id="thing"),
    pytest.param(("Сколько стоит «Маяк»?", "29 900 рублей"), ("Сколько стоит «Маяк»?", "19 900 рублей"), id="price"),
    pytest.param(("Какой срок у «Маяка»?", "5 недель"), ("Какая скидка у «Маяка»?", "5 %"), id="unit"),
    pytest.param(("Who sang first?", "Lady Gaga"), ("Who sang first?", "Idina Menzel"), id="name"),
    pytest.param(("What did she sing?", "the anthem"), ("What did they translate?", "the anthem"), id="answer alone"),
    pytest.param(("Можно вернуть деньги?", "Да"), ("Есть ли пробный урок?", "Да"), id="yes"),
    pytest.param(("А где?", "Да"), ("И как же это?", "Да"), id="nothing asked"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_a_fact_is_known_again_in_other_words(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert alike(one, other)
    assert alike(other, one)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_another_fact_is_none_of_it(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert not alike(one, other)
    assert not alike(other, one)


def test_terms_are_one_for_all_forms_of_a_word() -> None:
    assert terms("Все курсы по нейросетям, три дня") == terms("курса нейросеть 3 день")
    assert terms("The prices of courses") == terms("price: course")
    assert terms("Добрый день! Подскажите, где это?") == frozenset()
    assert "89900" in terms("89 900 рублей")


def test_values_are_numbers_and_names_and_units_what_is_counted() -> None:
    assert values("Курс ведёт Анна Ильина, цена 29 900, на Python") == terms("Анна Ильина 29900 Python")
    assert not values("Сколько стоит курс?")
    assert values("The guide is Ann Hill.") == {"ann", "hill"}
    assert units("За 5 недель, скидка 15%") == {"5": next(iter(terms("недель"))), "15": "percent"}


def test_meaning_is_compared_where_there_are_embeddings_and_the_answers_agree() -> None:
    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1.0, 0.0] if "платить" in text or "дорого" in text else [0.0, 1.0] for text in texts])

    left = [row("Сильно дорого?", "29 900 рублей")]
    right = [row("Много ли платить?", "29 900 руб."), row("Много ли платить?", "19 900 руб."), *FILLER]
    assert same_facts(left, right) == []
    assert same_facts(left, right, embed=embed) == [(0, 0, 1.0)]


def test_the_order_of_rows_does_not_matter_and_nothing_is_found_in_nothing() -> None:
    left = [row(*one) for one, _ in SAME]
    right = [*(row(*other) for _, other in SAME), *FILLER]
    found = {(left[i].question, right[j].question, index) for i, j, index in same_facts(left, right)}
    assert len(found) >= 4
    random.Random(1).shuffle(right)
    assert {(left[i].question, right[j].question, index) for i, j, index in same_facts(left, right)} == found
    assert same_facts([], right) == same_facts(left, []) == []


@given(TEXTS, TEXTS)
def test_any_text_has_a_fact(question: str, answer: str) -> None:
    said = fact(row(question, answer))
    assert said.answer_values <= said.answer
    assert all(0 <= index <= 1 for _, _, index in same_facts([row(question, answer)], [row(answer, question)]))
