"""Which rows ask for the same fact in other words: offline, without a model, in Russian and English.

Words are compared by their lemma and stem, and count by their rarity in the rows at hand (inverse document frequency:
Spärck Jones, "A statistical interpretation of term specificity", 1972). Two rows state one fact where enough of what
their questions and answers say is the same, and no number or name of the one contradicts the other.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache, lru_cache
from itertools import pairwise
from math import fsum, log
from typing import TYPE_CHECKING, Any

from contracts.groups import normalized
from contracts.table import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Embed = Callable[[Sequence[str]], "NDArray[np.float32]"]
"""Texts in, a row of floats for each; they need not be of length 1."""

SAME_FACT = 0.53
"""Least likeness of two rows that state one fact; docs/leakage.md has the rows that it was set by."""
SAME_ANSWER = 0.65
"""Least Dice index of two answers that agree, without what the questions say."""
SAME_QUESTION = 0.45
"""Least Dice index of two questions where the answers agree in numbers and names alone."""
SAME_MEANING = 0.92
"""Least cosine of two questions' embeddings, where there are embeddings."""
_SOME_QUESTION, _SOME_ANSWER = 0.1, 0.2  # under these a pair is not looked at any closer
_SAME_NAME, _SAME_LETTERS = 0.75, 0.85  # ratio of the names as they are, and of their letters in alphabetical order
_UNIT_BEGINS = 3  # letters: руб. and рублей, нед. and недели
_UNSEEN = 5
_CHUNK = 64

_GREETING = re.compile(r"\bдобр(?:ый|ое|ого) (?:день|дня|вечер|вечера|утро|утра)\b", re.IGNORECASE)
_GROUPED_DIGITS = re.compile(r"(?<!\d)\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)")
_TOKEN = re.compile(r"\w+|[.!?…]")
_RUSSIAN = re.compile(r"[а-яё]", re.IGNORECASE)
_FUNCTION_TAGS = frozenset({"PREP", "CONJ", "PRCL", "NPRO", "INTJ"})
# What the tagger takes for a noun, verb or adverb, and what still says nothing of what is asked for.
_EMPTY_RUSSIAN = frozenset(
    str.split(
        "быть мочь который какой каков сколько где когда как почему зачем здравствовать привет подсказать сказать"
        " скажите пожалуйста"
    )
)
_EMPTY_ENGLISH = frozenset(
    str.split(
        "a an the of in on at to for from by with about as into over after before during between and or but"
        " if than then so not no nor is are was were be been being am do does did done has have had having can"
        " could will would shall should may might must i you he she it we they me him her us them my your his"
        " its our their this that these those there here what which who whom whose when where why how many"
        " much some any all also very just only too s t d ll re ve m please hello hi tell"
    )
)
_WRITTEN_OUT = {"процент": "percent", "руб": "рубль", "мес": "месяц", "нед": "неделя", "мин": "минута"}
_NUMERALS = {
    word: str(number)
    for words in (
        "zero one two three four five six seven eight nine ten eleven twelve",
        "ноль один два три четыре пять шесть семь восемь девять десять одиннадцать двенадцать",
    )
    for number, word in enumerate(words.split())
}


@dataclass(frozen=True, slots=True)
class Fact:
    """What a row says, as sets of terms. ``*_values`` are its numbers and names, ``units`` what the answer's numbers
    count."""

    question: frozenset[str]
    answer: frozenset[str]
    question_values: frozenset[str]
    answer_values: frozenset[str]
    units: Mapping[str, str]

    @property
    def terms(self) -> frozenset[str]:
        return self.question | self.answer


def fact(row: Row) -> Fact:
    """Return what a row says."""
    return Fact(terms(row.question), terms(row.answer), values(row.question), values(row.answer), units(row.answer))


def terms(text: str) -> frozenset[str]:
    """Return the content words of a text, each in one form for all its forms, and its numbers: 29 900 as 29900."""
    return frozenset(_terms(normalized(_joined(text)).split()))


def values(text: str) -> frozenset[str]:
    """Return the terms of a text that name something: numbers, names, and Latin words in a Russian text."""
    text = _joined(text)
    russian = _RUSSIAN.search(text) is not None
    named, begins = [], True
    for token in _TOKEN.findall(text):
        capital = token[0].isupper() and (not begins or token[1:].lower() != token[1:])
        if token[0].isdigit() or capital or (russian and token.isascii() and token.isalpha()):
            named.append(token)
        begins = not token[0].isalnum()
    numerals = (word for word in normalized(text).split() if word in _NUMERALS)
    return frozenset(_terms([*(word for token in named for word in normalized(token).split()), *numerals]))


def units(text: str) -> dict[str, str]:
    """Return the term right after each number, where there is one; ``%`` is a word, too."""
    found: dict[str, str] = {}
    words = normalized(_joined(text)).split()
    for number, word in pairwise(words):
        term, unit = _term(number), _term(word)
        if term and term.isdigit() and unit and not unit.isdigit():
            found.setdefault(term, unit)
    return found


def contradict(one: Fact, other: Fact) -> bool:
    """Tell whether each answer has a number or name that the other row lacks, or one number counts other things."""
    lacking = _lacks(other.terms, one.answer_values, other.answer_values) and _lacks(
        one.terms, other.answer_values, one.answer_values
    )
    return lacking or _other_units(one, other)


def elsewhere(one: Fact, other: Fact) -> bool:
    """Tell whether each question names something that the other row lacks: "курс X" here and "курс Y" there."""
    return _lacks(other.terms, one.question_values, other.question_values) and _lacks(
        one.terms, other.question_values, one.question_values
    )


def same_facts(
    left: Sequence[Row], right: Sequence[Row], threshold: float = SAME_FACT, embed: Embed | None = None
) -> list[tuple[int, int, float]]:
    """Find the pairs, one row of each side, that ask for the same fact.

    Args:
        left: any number; pairs name their places in it.
        right: likewise.
        threshold: least index of a pair, 0 to 1.
        embed: finds more: pairs whose questions' vectors have a cosine of at least ``SAME_MEANING``, if the answers
            agree.

    Returns:
        ``(i, j, index)``, sorted: ``left[i]``, ``right[j]`` and the weighted Dice index of their terms, or the cosine.
    """
    if not left or not right:
        return []
    facts = [fact(row) for row in left], [fact(row) for row in right]
    weights = _weights([*facts[0], *facts[1]])
    found = {(i, j): index for i, j, index in _alike(*facts, weights, threshold)}
    if embed:
        for i, j, cosine in _near(embed([row.question for row in left]), embed([row.question for row in right])):
            one, other = facts[0][i], facts[1][j]
            if _agreed(one, other, weights, same_question=True) and not elsewhere(one, other):
                found.setdefault((i, j), cosine)
    return sorted((i, j, index) for (i, j), index in found.items())


def _alike(
    left: Sequence[Fact], right: Sequence[Fact], weights: dict[str, float], threshold: float
) -> Iterator[tuple[int, int, float]]:
    import numpy as np

    questions = _Common([one.question for one in left], [other.question for other in right], weights)
    answers = _Common([one.answer for one in left], [other.answer for other in right], weights)
    for start in range(0, len(left), _CHUNK):
        asked, both = 2 * questions.chunk(start), questions.sizes(start)
        most = _ratio(asked + answers.sizes(start), both + answers.sizes(start))  # were the answers the same
        close = (_ratio(asked, both) >= _SOME_QUESTION) & (most >= threshold)
        close &= _ratio(answers.chunk(start), answers.smaller(start)) >= _SOME_ANSWER
        for i, j in zip(*np.nonzero(close), strict=True):
            one, other = left[start + int(i)], right[int(j)]
            index = likeness(one, other, weights)
            if index >= threshold and not elsewhere(one, other):
                yield start + int(i), int(j), round(index, 4)


def likeness(one: Fact, other: Fact, weights: Mapping[str, float]) -> float:
    """Return the weighted Dice index of what two rows say, 0 to 1; 0 where their answers disagree."""
    question, questions = _dice(one.question, other.question, weights)
    agreed = _agreed(one, other, weights, question >= SAME_QUESTION * questions)
    if agreed is None or not questions:
        return 0.0
    return (question + agreed[0]) / (questions + agreed[1])


def _agreed(one: Fact, other: Fact, weights: Mapping[str, float], same_question: bool) -> tuple[float, float] | None:
    """Return what two answers have in common and all that they have; None where they disagree.

    An answer counts without what either question says already, so that "308" is the answer of "The defense gave up 308
    points". Two answers that say nothing more, such as "Да", leave it to the questions. To the same question answers
    may agree in numbers and names alone.
    """
    if contradict(one, other):
        return None
    asked = one.question | other.question if one.answer != other.answer else frozenset()
    answer, answers = _dice(one.answer - asked, other.answer - asked, weights)
    if answer >= SAME_ANSWER * answers:
        return answer, answers
    fewer, more = sorted((one.answer_values - asked, other.answer_values - asked), key=len)
    return _dice(fewer, fewer, weights) if same_question and fewer and fewer <= more else None


def _dice(one: frozenset[str], other: frozenset[str], weights: Mapping[str, float]) -> tuple[float, float]:
    """Return twice the weight of what two sets share, and the weight of both; their quotient is the Dice index."""

    def size(terms: frozenset[str]) -> float:
        return fsum(map(weights.__getitem__, terms))  # the same in whichever order a set has them

    return 2 * size(one & other), size(one) + size(other)


def _lacks(terms: frozenset[str], values: frozenset[str], others: frozenset[str]) -> bool:
    """Tell whether one of the values is not among the terms, and no slip of the pen or form of one of the others."""
    return any(not any(_same_name(value, other) for other in others) for value in values - terms)


@lru_cache(maxsize=200_000)
def _same_name(one: str, other: str) -> bool:
    """Tell whether two names differ by their form or by a slip: Californian and California, Wihte and White."""
    if any(map(str.isdigit, one + other)):
        return one == other
    letters = SequenceMatcher(None, "".join(sorted(one)), "".join(sorted(other)))
    return SequenceMatcher(None, one, other).ratio() >= _SAME_NAME or letters.ratio() >= _SAME_LETTERS


def _other_units(one: Fact, other: Fact) -> bool:
    """Tell whether all the numbers that both answers have count other things: 5 weeks and 5 percent."""
    both = one.units.keys() & other.units.keys()
    return bool(both) and all(
        _lacks_unit(other.terms, one.units[number]) and _lacks_unit(one.terms, other.units[number]) for number in both
    )


def _lacks_unit(terms: frozenset[str], unit: str) -> bool:
    return not any(term[:_UNIT_BEGINS] == unit[:_UNIT_BEGINS] for term in terms)


class _Common:
    """The weight that the sets of two sides have in common, some rows of the left side at a time."""

    def __init__(self, left: Sequence[frozenset[str]], right: Sequence[frozenset[str]], weights: dict[str, float]):
        import numpy as np

        places = {term: place for place, term in enumerate(weights)}
        self._weights = np.array(list(weights.values()))
        self._left, self._right = _matrix(left, places), _matrix(right, places).T.tocsr()
        self._left_sizes = np.asarray(self._left @ self._weights)
        self._right_sizes = np.asarray(self._weights @ self._right)

    def chunk(self, start: int) -> "NDArray[np.float64]":
        rows = self._left[start : start + _CHUNK].multiply(self._weights).tocsr()
        dense: NDArray[np.float64] = (rows @ self._right).toarray()
        return dense

    def sizes(self, start: int) -> "NDArray[np.float64]":
        summed: NDArray[np.float64] = self._left_sizes[start : start + _CHUNK, None] + self._right_sizes
        return summed

    def smaller(self, start: int) -> "NDArray[np.float64]":
        import numpy as np

        least: NDArray[np.float64] = np.minimum(self._left_sizes[start : start + _CHUNK, None], self._right_sizes)
        return least


def _matrix(sets: Sequence[frozenset[str]], places: dict[str, int]) -> Any:
    import numpy as np
    from scipy.sparse import csr_matrix

    columns = [places[term] for terms in sets for term in terms]
    starts = np.cumsum([0, *map(len, sets)])
    return csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(sets), len(places)))


def _ratio(part: "NDArray[np.float64]", whole: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the quotient, and 1 where nothing is compared with nothing: two answers "Да" agree."""
    import numpy as np

    quotient: NDArray[np.float64] = np.divide(part, whole, out=np.ones_like(whole), where=whole > 0)
    return quotient


def _near(left: "NDArray[np.float32]", right: "NDArray[np.float32]") -> Iterator[tuple[int, int, float]]:
    import numpy as np

    def unit(vectors: "NDArray[np.float32]") -> "NDArray[np.float32]":
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        made: NDArray[np.float32] = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
        return made

    one, other = unit(np.asarray(left)), unit(np.asarray(right))
    for start in range(0, len(one), _CHUNK):
        cosines = one[start : start + _CHUNK] @ other.T
        for i, j in zip(*np.nonzero(cosines >= SAME_MEANING), strict=True):
            yield start + int(i), int(j), round(float(cosines[i, j]), 4)


def _weights(facts: Sequence[Fact]) -> dict[str, float]:
    """Return how much each term says: the logarithm of one and the rows to a row that has it.

    A few rows are added to those that have it. A word that stands in one row alone is as often a way to say it as what
    is spoken of.
    """
    counts = Counter(term for fact in facts for term in fact.terms)
    return {term: log(1 + len(facts) / (count + _UNSEEN)) for term, count in sorted(counts.items())}


def _joined(text: str) -> str:
    plain = _GREETING.sub(" ", text).replace("%", " percent ")
    return _GROUPED_DIGITS.sub(lambda match: re.sub(r"\s", "", match[0]), plain)


def _terms(words: Iterable[str]) -> Iterator[str]:
    return filter(None, map(_term, words))


@lru_cache(maxsize=200_000)
def _term(word: str) -> str | None:
    """Return the one form of a word; None where the word says nothing of what is asked for."""
    import snowballstemmer

    if word in _NUMERALS:
        return _NUMERALS[word]
    if not "а" <= word[0] <= "я":
        # A stemmer keeps its place in itself, so threads must not share one.
        return None if word in _EMPTY_ENGLISH else str(snowballstemmer.stemmer("english").stemWord(word))
    parse = _morphology().parse(word)[0]
    lemma = str(parse.normal_form).replace("ё", "е")
    lemma = _WRITTEN_OUT.get(lemma, lemma)
    if parse.tag.POS in _FUNCTION_TAGS or "Apro" in parse.tag or lemma in _EMPTY_RUSSIAN:
        return None
    if lemma.isascii():
        return lemma
    return _NUMERALS.get(lemma) or str(snowballstemmer.stemmer("russian").stemWord(lemma))


@cache
def _morphology() -> Any:
    """Return the dictionary of Russian (15 MB, read once, at the first Russian word)."""
    import pymorphy3

    return pymorphy3.MorphAnalyzer()
