"""Training with retrieved context, for the mode ``rag_ft``: RAFT, Zhang et al. 2024, arXiv:2403.10131.

A row is asked with its own context among wrong passages that the index finds for its question, in any order. In a share
of the rows the right one is left out, and the answer is that it is not known: so the model learns to read, to pass over
what does not matter, and to say when nothing does. (RAFT keeps the row's answer there, to have it learnt by heart; a
sales bot that invents a price is worse than one that asks back.)
"""

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence

import httpx

from contracts.clients import RetrieverClient
from contracts.errors import InvalidInput, Unavailable
from contracts.table import Row
from trainer.data import Asked
from trainer.recipe import Recipe

Retrieve = Callable[[str, int], Sequence[str]]
"""Question and number -> that many texts of the index, best first."""

PATIENCE_S = 600
UNKNOWN = "К сожалению, об этом у меня нет сведений. Спросите, пожалуйста, о чём-нибудь ещё."
UNKNOWN_EN = "I am sorry, I have no information on that. Please ask me about something else."
_CANDIDATES = 20  # the most that a search gives: some of them hold the answer themselves
_HOLDS = 0.75


def search_at(url: str, patience_s: float = PATIENCE_S) -> Retrieve:
    """Return a search through a running retriever, or through the gateway before it.

    Args:
        patience_s: how long it may be starting or indexing before that is an error.
    """

    async def search(question: str, number: int) -> list[str]:
        end = time.monotonic() + patience_s
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            while True:
                try:
                    found = await RetrieverClient(http).search(question, number)
                    return [passage.text for passage in found.results]
                except Unavailable as error:
                    if time.monotonic() > end:
                        raise
                    await asyncio.sleep(min(error.retry_after or 1, max(0.0, end - time.monotonic())))

    return lambda question, number: asyncio.run(search(question, number))


def with_passages(rows: Sequence[Row], retrieve: Retrieve, recipe: Recipe) -> list[Asked]:
    """Return each row with one right and up to ``recipe.distractors`` wrong passages, or with wrong ones alone.

    What is drawn depends on the row and the recipe's seed, not on the order of the rows.

    Args:
        rows: accepted rows; each has a context.
        retrieve: searches the index that is going to be served.

    Raises:
        InvalidInput: the index finds nothing wrong for any row, so there is nothing to learn to pass over.
    """
    asked = [_with_passages(row, retrieve, recipe) for row in rows]
    if all(len(each.passages) == 1 for each in asked):
        raise InvalidInput(
            "The index holds no passage beside the right one, for any row: there is nothing to learn to pass over."
            " Index your documents first: asktwice index FILE."
        )
    return asked


def _with_passages(row: Row, retrieve: Retrieve, recipe: Recipe) -> Asked:
    rng = random.Random(f"{recipe.seed} {row.question} {row.context}")
    wanted = rng.randint(1, recipe.distractors)
    found = retrieve(row.question, _CANDIDATES)
    wrong = [text for text in found if not holds_answer(text, row)][:wanted]
    if wrong and _proofs(row) and rng.random() < recipe.without_right_passage:
        rng.shuffle(wrong)
        return Asked(row, tuple(wrong), unknown(row.question))
    passages = [row.context, *wrong]
    rng.shuffle(passages)
    return Asked(row, tuple(passages), row.answer)


def holds_answer(text: str, row: Row) -> bool:
    """Tell whether a passage could answer the row's question as its own context does.

    It does where it is that context, or a part or an extension of it; and where it has every number of the answer and
    most of the beginnings of its words that the right context has. Where nothing but the question's words tells
    ("Yes."), a passage that has half of them may answer.
    """
    own, other = _plain(row.context), _plain(text)
    if own in other or other in own:
        return True
    proofs, there = _proofs(row), _beginnings(text)
    if not proofs:
        asked = _beginnings(row.question)
        return 2 * len(asked & there) >= len(asked)
    numbers = {proof for proof in proofs if proof.isdigit()}
    return numbers <= there and len(proofs & there) >= _HOLDS * len(proofs)


def _proofs(row: Row) -> set[str]:
    """What of the answer comes from the context and not from the question."""
    return (_beginnings(row.answer) & _beginnings(row.context)) - _beginnings(row.question)


def unknown(question: str) -> str:
    """Return the answer where nothing in the passages tells it, in the question's language."""
    letters = re.findall(r"[^\W\d_]", question)
    cyrillic = sum("а" <= letter <= "я" or letter == "ё" for letter in map(str.lower, letters))
    return UNKNOWN if 2 * cyrillic >= len(letters) else UNKNOWN_EN


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _beginnings(text: str) -> set[str]:
    """Numbers whole, words of four letters and more by their first five: most endings of Russian come after them."""
    return set(_stems(re.findall(r"\d+|[^\W\d_]+", text.casefold().replace("ё", "е"))))


def _stems(words: Iterable[str]) -> Iterable[str]:
    return (word if word.isdigit() else word[:5] for word in words if word.isdigit() or len(word) > 3)
