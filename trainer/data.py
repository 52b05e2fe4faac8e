"""Rows in, token ids out: which rows train, which measure the dev loss, and what exactly the model sees of them."""

import hashlib
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from contracts.errors import InvalidInput
from contracts.prompts import build_messages
from contracts.table import Row, Table

MIN_ROWS = 4
MIN_ROWS_FOR_DEV = 10
NO_LOSS = -100


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
    """``too_long`` are the numbers of the rows that were left out because they exceed the recipe's ``max_length``."""

    train: list[Example]
    dev: list[Example]
    too_long: list[int]


def check_rows(table: Table) -> None:
    """Refuse a file that is too small to learn from.

    Raises:
        InvalidInput: fewer than ``MIN_ROWS`` accepted rows.
    """
    if len(table.rows) < MIN_ROWS:
        raise InvalidInput(f"{table.summary()}. At least {MIN_ROWS} accepted rows are needed to train.")


def make_examples(
    table: Table,
    tokenizer: Any,
    system_prompt: str,
    max_length: int,
    dev_fraction: float,
    seed: int,
    variants: int = 0,
) -> Examples:
    """Tokenize the rows, leave out those over ``max_length`` tokens, split the others.

    Args:
        variants: how many carelessly typed versions of its question each training row is trained with besides its own.

    Raises:
        InvalidInput: fewer than ``MIN_ROWS`` rows fit.
    """
    encoded = [encode(row, tokenizer, system_prompt) for row in table.rows]
    too_long = {example.row for example in encoded if len(example) > max_length}
    fitting = [row for row in table.rows if row.number not in too_long]
    if len(fitting) < MIN_ROWS:
        raise InvalidInput(
            f"{table.name}: {len(too_long)} of {len(table.rows)} rows are longer than {max_length} tokens,"
            f" fewer than {MIN_ROWS} are left. Raise max_length in the recipe or shorten the answers."
        )
    dev = dev_rows(fitting, dev_fraction, seed)
    kept = [example for example in encoded if example.row not in too_long]
    train = [example for example in kept if example.row not in dev]
    for row in fitting:
        if row.number not in dev:
            questions = careless_versions(row.question, variants, f"{seed} {row.number}")
            asked = [replace(row, cells={**row.cells, "question": question}) for question in questions]
            versions = [encode(version, tokenizer, system_prompt) for version in asked]
            train += [version for version in versions if len(version) <= max_length]
    return Examples(
        train=train,
        dev=[example for example in kept if example.row in dev],
        too_long=sorted(too_long),
    )


def dev_rows(rows: Sequence[Row], fraction: float, seed: int) -> set[int]:
    """Choose the rows that only the dev loss sees, by their numbers.

    Rows with the same question, but for case, punctuation and spaces, are never divided. The choice depends on the
    questions and the seed, not on the order of the file. Empty below ``MIN_ROWS_FOR_DEV`` rows.
    """
    if len(rows) < MIN_ROWS_FOR_DEV:
        return set()
    groups: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        groups[normalized(row.question)].append(row.number)
    wanted = max(1, round(len(rows) * fraction))
    chosen: set[int] = set()
    order = sorted(groups, key=lambda question: hashlib.sha256(f"{seed} {question}".encode()).digest())
    for question in order:
        if len(chosen) + len(groups[question]) <= wanted:
            chosen.update(groups[question])
    if not chosen and len(groups) > 1:  # every question is asked more often than there is room for
        chosen.update(groups[min(order, key=lambda question: len(groups[question]))])
    return chosen


def normalized(question: str) -> str:
    """Return the question without what does not change it: case, punctuation, spaces, ё for е."""
    text = unicodedata.normalize("NFKC", question).casefold().replace("ё", "е")
    return " ".join(re.findall(r"\w+", text)) or text


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


def encode(row: Row, tokenizer: Any, system_prompt: str) -> Example:
    """Tokenize one row: question as in the mode ``ft`` (no passages), then the answer and the end of the turn."""
    messages = build_messages(row.question, system=system_prompt)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    answer = tokenizer(_answer_text(tokenizer, messages, row.answer), add_special_tokens=False)["input_ids"]
    return Example(row.number, list(prompt), list(answer))


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


def to_dataset(examples: Sequence[Example]) -> Any:
    """Return a ``datasets.Dataset`` with ``input_ids`` and ``labels``; prompt tokens carry no loss."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [example.prompt + example.answer for example in examples],
            "labels": [[NO_LOSS] * len(example.prompt) + example.answer for example in examples],
        }
    )
