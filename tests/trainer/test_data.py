from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from contracts.errors import InvalidInput
from contracts.prompts import PLAIN_CHAT_TEMPLATE, SYSTEM_PROMPT, build_messages
from contracts.table import Row
from trainer.data import Asked, careless_versions, encode, make_examples, to_dataset, without_passages
from trainer.recipe import Recipe

REASONING_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|im_start|>' + m['content'].split('</think>')[-1] + '<|im_end|>' }}{% else %}{{ m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|><think>\n' }}{% endif %}"
)


def row(number: int, question: str = "Сколько стоит курс?", answer: str = "Курс стоит 900 рублей.") -> Row:
    return Row(number, {"question": question, "answer": answer, "context": "Прайс."})


def asked(number: int, question: str = "Сколько стоит курс?") -> Asked:
    [one] = without_passages([row(number, question)])
    return one


@pytest.fixture
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


def test_trained_tokens_are_the_served_prompt_the_answer_and_its_end(tokenizer: Any) -> None:
    example = encode(asked(1), tokenizer, SYSTEM_PROMPT)
    served = tokenizer.apply_chat_template(
        build_messages("Сколько стоит курс?"), add_generation_prompt=True, return_dict=False
    )
    assert example.prompt == served
    assert example.answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(example.answer) == "Курс стоит 900 рублей.<|im_end|>"


def test_a_model_without_a_chat_template_learns_to_go_on_after_the_plain_prompt(tokenizer: Any) -> None:
    tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    example = encode(asked(1), tokenizer, SYSTEM_PROMPT)
    assert tokenizer.decode(example.prompt).endswith("Вопрос: Сколько стоит курс?\nОтвет:")
    assert tokenizer.decode(example.answer) == " Курс стоит 900 рублей.<|im_end|>"


def test_a_reasoning_model_learns_to_answer_without_thoughts(tokenizer: Any) -> None:
    tokenizer.chat_template = REASONING_TEMPLATE
    example = encode(asked(1), tokenizer, SYSTEM_PROMPT)
    assert tokenizer.decode(example.prompt).endswith("<think>\n")
    assert tokenizer.decode(example.answer) == "\n</think>\n\nКурс стоит 900 рублей.<|im_end|>"


def test_prompt_tokens_carry_no_loss(tokenizer: Any) -> None:
    example = encode(asked(1), tokenizer, SYSTEM_PROMPT)
    record = to_dataset([example])[0]
    assert record["input_ids"] == example.prompt + example.answer
    assert record["labels"] == [-100] * len(example.prompt) + example.answer


def test_test_rows_are_neither_trained_on_nor_measured(tokenizer: Any) -> None:
    rows = without_passages([row(n, f"Вопрос {n}?") for n in range(1, 21)])
    made = make_examples(rows, tokenizer, SYSTEM_PROMPT, Recipe(method="qlora", test_fraction=0.2))
    assert len(made.test) == 4
    assert sorted([*(e.row for e in made.train), *(e.row for e in made.dev), *made.test]) == list(range(1, 21))


def test_rows_that_are_too_long_are_left_out_by_number_and_never_cut(tokenizer: Any) -> None:
    rows = [row(n, f"Вопрос {n}?", "слово " * (200 if n in (3, 8) else 1)) for n in range(1, 13)]
    limit = len(encode(without_passages(rows)[0], tokenizer, SYSTEM_PROMPT)) + 50
    recipe = Recipe(method="qlora", max_length=limit)
    examples = make_examples(without_passages(rows), tokenizer, SYSTEM_PROMPT, recipe)
    assert examples.too_long == [3, 8]
    kept = [*examples.train, *examples.dev]
    assert sorted(example.row for example in kept) == [n for n in range(1, 13) if n not in (3, 8)]
    assert all(example.answer[-1] == tokenizer.eos_token_id for example in kept)


def test_a_file_of_rows_that_are_all_too_long_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InvalidInput, match="12 of 12 rows are longer than 20 tokens"):
        make_examples([asked(n) for n in range(1, 13)], tokenizer, SYSTEM_PROMPT, Recipe(method="qlora", max_length=20))


def test_careless_versions_differ_and_keep_what_is_asked() -> None:
    question = "Сколько стоит курс «Нейросети на Python» для школьников?"
    versions = careless_versions(question, 6, "42 1")
    assert len(set(versions)) == 6
    assert question not in versions
    assert versions == careless_versions(question, 6, "42 1") != careless_versions(question, 6, "42 2")
    letters = set(question.lower())
    assert all(set(version.lower()) <= letters for version in versions)
    assert all(len(version.split()) >= len(question.split()) - 2 for version in versions)
    assert careless_versions("Да", 6, "1") in ([], ["да"])


def test_only_training_rows_are_asked_carelessly(tokenizer: Any) -> None:
    rows = [row(n, f"Сколько стоит курс номер {n}, если платить сразу?", f"{n}00 рублей.") for n in range(1, 21)]
    made = make_examples(without_passages(rows), tokenizer, SYSTEM_PROMPT, Recipe(method="qlora", question_variants=3))
    plain = make_examples(without_passages(rows), tokenizer, SYSTEM_PROMPT, Recipe(method="qlora"))
    assert made.dev == plain.dev
    assert {e.row for e in made.train} == {e.row for e in plain.train}
    assert len(made.train) > 2 * len(plain.train)
    by_row = {e.row: e.answer for e in plain.train}
    assert all(e.answer == by_row[e.row] for e in made.train)
