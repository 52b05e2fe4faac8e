"""The passages that a row is trained with, found by an index that is written out here."""

from collections.abc import Sequence

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from contracts.errors import InvalidInput, Unavailable
from contracts.retrieval import Passage, SearchRequest, SearchResponse
from contracts.table import Row
from services.kit import problem_response
from tests.serving import serving
from trainer.data import Asked
from trainer.raft import UNKNOWN, UNKNOWN_EN, holds_answer, search_at, unknown, with_passages
from trainer.recipe import Recipe

CONTEXTS = [
    f"Курс «{name}» длится {n + 2} месяца. Стоимость курса — {n + 1}9 900 рублей, есть рассрочка."
    for n, name in enumerate(("Аналитик", "Верстальщик", "Геодезист", "Дизайнер", "Инженер", "Художник"))
]


def rows(number: int = 60) -> list[Row]:
    return [
        Row(
            n + 1,
            {
                "question": f"Сколько стоит курс, вопрос {n}?",
                "answer": f"Курс стоит {n % 6 + 1}9 900 рублей.",
                "context": CONTEXTS[n % 6],
            },
        )
        for n in range(number)
    ]


def search(question: str, number: int) -> Sequence[str]:
    return CONTEXTS[:number]


def trained(**recipe: object) -> list[Asked]:
    return with_passages(rows(), search, Recipe(method="raft", **recipe))


def test_the_right_passage_stands_among_one_to_three_wrong_ones_in_any_order() -> None:
    asked = trained(without_right_passage=0.0)
    for each in asked:
        assert each.row.context in each.passages
        assert each.answer == each.row.answer
        assert len(set(each.passages)) == len(each.passages)
    assert {len(each.passages) for each in asked} == {2, 3, 4}
    assert len({each.passages.index(each.row.context) for each in asked}) == 4


def test_in_a_share_of_the_rows_it_is_missing_and_the_answer_is_that_it_is_not_known() -> None:
    asked = trained(without_right_passage=0.3)
    missing = [each for each in asked if each.row.context not in each.passages]
    assert 10 <= len(missing) <= 26  # of 60; the expectation is 18
    assert all(each.passages and each.answer == UNKNOWN for each in missing)
    assert all(each.answer == each.row.answer for each in asked if each not in missing)


def test_what_is_drawn_depends_on_the_row_and_the_seed_alone() -> None:
    recipe = Recipe(method="raft")
    backwards = with_passages(rows()[::-1], search, recipe)
    assert {each.row.number: each for each in backwards} == {each.row.number: each for each in trained()}
    assert trained(seed=7) != trained()


def test_a_passage_that_answers_too_is_no_distractor() -> None:
    row = rows()[0]
    other_words = "Прайс-лист: «Аналитик» — стоимость 19 900 рублей при оплате сразу."
    assert holds_answer(other_words, row)
    assert holds_answer(row.context.upper() + " Приходите!", row)
    assert holds_answer("Стоимость курса — 19 900 рублей, есть рассрочка.", row)
    assert not any(holds_answer(text, row) for text in CONTEXTS[1:])
    asked = with_passages([row], lambda _, __: [other_words, *CONTEXTS], Recipe(method="raft", distractors=1))
    assert other_words not in asked[0].passages


def test_an_answer_that_nothing_but_the_question_tells_is_never_called_unknown() -> None:
    row = Row(1, {"question": "Есть ли рассрочка?", "answer": "Да.", "context": "Курс можно оплатить в рассрочку."})
    assert holds_answer("Рассрочка доступна на 12 месяцев.", row)
    recipes = [Recipe(method="raft", seed=seed, without_right_passage=0.9) for seed in range(20)]
    asked = [with_passages([row], lambda _, __: ["Занятия вечером."], recipe)[0] for recipe in recipes]
    assert all(each.answer == "Да." and row.context in each.passages for each in asked)


def test_an_index_without_anything_wrong_teaches_nothing_and_is_refused() -> None:
    with pytest.raises(InvalidInput, match="asktwice index"):
        with_passages(rows(6)[:1], lambda _, __: CONTEXTS[:1], Recipe(method="raft"))


def test_a_running_retriever_is_searched_and_waited_for_while_it_starts() -> None:
    app, asked = FastAPI(), []

    @app.post("/search")
    async def found(body: SearchRequest) -> Response:
        asked.append(body.query)
        if len(asked) < 3:
            return problem_response(Unavailable("The index is being opened.", retry_after=0.05))
        passages = [Passage(id=str(n), title="t", text=text, score=1.0) for n, text in enumerate(CONTEXTS)]
        return JSONResponse(SearchResponse(results=passages[: body.top_k]).model_dump())

    with serving(app) as url:
        assert search_at(url)("Сколько?", 2) == CONTEXTS[:2]
        assert asked == ["Сколько?"] * 3
    with pytest.raises(Unavailable, match="cannot be reached"):
        search_at(url, patience_s=0.1)("Сколько?", 2)


@pytest.mark.parametrize(
    ("question", "answer"),
    [("Сколько стоит Python?", UNKNOWN), ("What is the price of «Питон»?", UNKNOWN_EN), ("2 + 2?", UNKNOWN)],
)
def test_it_is_not_known_in_the_language_of_the_question(question: str, answer: str) -> None:
    assert unknown(question) == answer
