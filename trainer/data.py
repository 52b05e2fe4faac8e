"""Rows in, token ids out: which rows train, which measure the dev loss, and what exactly the model sees of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from contracts.errors import InvalidInput
from contracts.prompts import build_messages
from contracts.table import Row
from trainer.recipe import Recipe
from trainer.split import split_rows

MIN_ROWS = 4
NO_LOSS = -100


@dataclass(frozen=True, slots=True)
class Asked:
    """A row as the model is to see it: in the mode ``rag_ft`` with passages, and then its answer may be another."""

    row: Row
    passages: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Example:
    """One row as token ids: the prompt exactly as it is served, then the answer with the token that ends it."""

    row: int
    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class Examples:
    """The rows by what they are for, and the numbers of those that have no part.

    ``test`` rows are for an evaluation after the training; ``too_long`` ones exceed the recipe's ``max_length``.
    """

    train: list[Example]
    dev: list[Example]
    test: list[int]
    too_long: list[int]


def without_passages(rows: Sequence[Row]) -> list[Asked]:
    """Return the rows as the mode ``ft`` asks them."""
    return [Asked(row, (), row.answer) for row in rows]


def make_examples(asked: Sequence[Asked], tokenizer: Any, system_prompt: str, recipe: Recipe) -> Examples:
    """Tokenize the rows, leave out those over the recipe's ``max_length``, split the others.

    Raises:
        InvalidInput: fewer than ``MIN_ROWS`` rows fit.
    """
    encoded = {each.row.number: encode(each, tokenizer, system_prompt) for each in asked}
    too_long = {number for number, example in encoded.items() if len(example) > recipe.max_length}
    fitting = [each for each in asked if each.row.number not in too_long]
    if len(fitting) < MIN_ROWS:
        raise InvalidInput(
            f"{len(too_long)} of {len(asked)} rows are longer than {recipe.max_length} tokens, fewer than {MIN_ROWS}"
            " are left. Raise max_length in the recipe or shorten the answers."
        )
    rows = [each.row for each in fitting]
    split = split_rows(rows, recipe.dev_fraction, recipe.test_fraction, recipe.seed, recipe.split_by_context)
    dev, test = set(split.dev), set(split.test)
    training = [each for each in fitting if each.row.number not in dev | test]
    versions = [encode(version, tokenizer, system_prompt) for each in training for version in _careless(each, recipe)]
    return Examples(
        train=[encoded[each.row.number] for each in training]
        + [version for version in versions if len(version) <= recipe.max_length],
        dev=[encoded[each.row.number] for each in fitting if each.row.number in dev],
        test=sorted(test),
        too_long=sorted(too_long),
    )


def _careless(asked: Asked, recipe: Recipe) -> list[Asked]:
    row = asked.row
    questions = careless_versions(row.question, recipe.question_variants, f"{recipe.seed} {row.number}")
    return [replace(asked, row=replace(row, cells={**row.cells, "question": question})) for question in questions]


def careless_versions(question: str, number: int, seed: str) -> list[str]:
    """Return up to ``number`` different versions of a question as people type it in a hurry.

    Words are left out or change places, capitals and punctuation go, letters are mistyped. A row is then known by what
    it asks, not by how it was once written. Fewer are returned where the question is too short to differ.
    """
    rng, versions = random.Random(seed), {question: None}
    for _ in range(4 * number):
        if len(versions) > number:
            break
        words = question.split()
        if len(words) > 3 and rng.random() < 0.7:
            del words[rng.randrange(len(words))]
        if len(words) > 4 and rng.random() < 0.3:
            del words[rng.randrange(len(words))]
        if len(words) > 2 and rng.random() < 0.4:
            at = rng.randrange(len(words) - 1)
            words[at], words[at + 1] = words[at + 1], words[at]
        text = " ".join(words)
        if rng.random() < 0.5:
            text = text.lower()
        if rng.random() < 0.5:
            text = text.rstrip("?!. ")
        if len(text) > 8 and rng.random() < 0.3:
            at = rng.randrange(1, len(text) - 1)
            text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        versions[text] = None
    return list(versions)[1 : number + 1]


def encode(asked: Asked, tokenizer: Any, system_prompt: str) -> Example:
    """Tokenize one row: the prompt as it is served, then the answer and the end of the turn."""
    messages = build_messages(asked.row.question, asked.passages, system_prompt)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    answer = tokenizer(_answer_text(tokenizer, messages, asked.answer), add_special_tokens=False)["input_ids"]
    return Example(asked.row.number, list(prompt), list(answer))


def _answer_text(tokenizer: Any, messages: list[dict[str, str]], answer: str) -> str:
    """Return what the template writes after the served prompt, up to and with the token that ends the turn."""
    prompt: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    turn = {"role": "assistant", "content": answer}
    whole: str = tokenizer.apply_chat_template([*messages, turn], tokenize=False)
    before, _, after = whole.rpartition(answer)
    ends = [token for token in tokenizer.all_special_tokens if token in after]
    end = min(ends, key=after.index) if ends else tokenizer.eos_token
    if before.startswith(prompt):
        return f"{before[len(prompt) :]}{answer}{end}"
    # Reasoning models open their thoughts in the served prompt and leave them out of finished turns.
    closing = "\n</think>\n\n" if prompt.rstrip().endswith("<think>") else ""
    return f"{closing}{answer}{end}"


def to_dataset(examples: Sequence[Example], blanks: int = 0) -> Any:
    """Return a ``datasets.Dataset`` with ``input_ids`` and ``labels``; prompt tokens carry no loss.

    Args:
        blanks: how many rows without any loss stand after the others.
    """
    from datasets import Dataset

    rows = [(example.prompt, example.answer) for example in examples] + [(examples[0].prompt, [])] * blanks
    return Dataset.from_dict(
        {
            "input_ids": [prompt + answer for prompt, answer in rows],
            "labels": [[NO_LOSS] * len(prompt) + answer for prompt, answer in rows],
        }
    )
