"""Leakage is looked for before anything is asked: test rows whose answer the training rows or the index give away.

The kinds, and what two rows have in common in each:

* ``exact``: the question, but for case, punctuation and spaces, whatever the answers are.
* ``near duplicate``: almost the same question (:mod:`contracts.groups`), unless the answers contradict each other or
  the questions name different things.
* ``rephrased``: the same fact in other words (:mod:`contracts.facts`).
* ``index``: a passage that holds the test row's question and answer, or is its answer, and stands in no context. The
  index is of contexts alone; a question found together with its answer measures nothing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from contracts.facts import Embed, contradict, elsewhere, fact, same_facts
from contracts.groups import near_duplicates, normalized
from contracts.measurement import Regime
from contracts.table import Row

MAX_LEAKED = 0.01
"""Share of leaked test rows above which a verdict is INVALID (a leak of 5% adds about 3 points to fine-tuning)."""
LONG_WORDS = 5
"""Fewer words stand in a passage by chance."""

Kind = Literal["exact", "near duplicate", "rephrased", "index"]
_KINDS: tuple[Kind, ...] = get_args(Kind)
_RUSSIAN: dict[Kind, str] = {
    "exact": "тот же вопрос",
    "near duplicate": "почти тот же вопрос",
    "rephrased": "тот же факт другими словами",
    "index": "вопрос с ответом лежит в индексе",
}
_LISTED = 10


@dataclass(frozen=True, slots=True)
class Leak:
    """Why one test row is not to be measured on. ``train`` is the number of the training row, or of the passage, from
    1, where the kind is ``index``; ``similarity`` is 1 for ``exact`` and ``index``, else 0 to 1."""

    test: int
    train: int
    kind: Kind
    similarity: float


@dataclass(frozen=True, slots=True)
class Leakage:
    """What was found. ``leaks`` has one leak a test row, the plainest, by the row's number."""

    tested: int
    leaks: tuple[Leak, ...]

    @property
    def share(self) -> float:
        """Leaked rows to test rows, 0 to 1; 0 where nothing is tested."""
        return len(self.leaks) / self.tested if self.tested else 0.0

    @property
    def invalid(self) -> bool:
        return self.share > MAX_LEAKED

    def kinds(self) -> dict[Kind, int]:
        """Return how many test rows leaked in each way."""
        counts = Counter(leak.kind for leak in self.leaks)
        return {kind: counts[kind] for kind in _KINDS}

    def reason(self, lang: str = "ru") -> str | None:
        """Return why the verdict is INVALID, with the rows; None where it is not."""
        if not self.invalid:
            return None
        percent = f"{100 * self.share:.1f}%"
        shown, more = self.leaks[:_LISTED], len(self.leaks) - _LISTED
        if lang == "en":
            rows = [f"test row {at.test} from {_source(at)} ({at.kind}, {at.similarity:.2f})" for at in shown]
            rest = f"; and {more} more" if more > 0 else ""
            return (
                f"Leakage: {len(self.leaks)} of {self.tested} test rows ({percent}; at most {MAX_LEAKED:.0%} is"
                f" allowed) are known from training or the index: {'; '.join(rows)}{rest}."
            )
        rows = [f"строка {at.test} из {_source(at, 'ru')} ({_RUSSIAN[at.kind]}, {at.similarity:.2f})" for at in shown]
        rest = f"; и ещё {more}" if more > 0 else ""
        return (
            f"Утечка: {len(self.leaks)} из {self.tested} проверочных строк ({percent.replace('.', ',')}; допустимо не"
            f" больше {MAX_LEAKED:.0%}) известны из обучения или индекса: {'; '.join(rows)}{rest}."
        )


def find_leakage(
    train: Sequence[Row], test: Sequence[Row], passages: Sequence[str] = (), embed: Embed | None = None
) -> Leakage:
    """Look for test rows that training or the index give away.

    Args:
        train: what was trained on, the rows that chose the checkpoint included.
        test: what is to be measured on.
        passages: the texts of the index; those of the rows' contexts are no leak.
        embed: finds rephrased questions by their meaning as well; without it words are compared.
    """
    found: dict[int, Leak] = {}

    def add(place: int, source: int, kind: Kind, similarity: float) -> None:
        leak = Leak(test[place].number, source, kind, similarity)
        known = found.get(place)
        if known is None or (_KINDS.index(kind), -similarity) < (_KINDS.index(known.kind), -known.similarity):
            found[place] = leak

    for i, j, similarity in _questions(train, test):
        kind: Kind = "exact" if similarity == 1 else "near duplicate"
        one, other = fact(train[i]), fact(test[j])
        if kind == "exact" or not (contradict(one, other) or elsewhere(one, other)):
            add(j, train[i].number, kind, similarity)
    for j, i, similarity in same_facts(test, train, embed=embed):
        add(j, train[i].number, "rephrased", similarity)
    for j, passage in _indexed(test, passages, [row.context for row in (*train, *test)]):
        add(j, passage + 1, "index", 1.0)
    return Leakage(len(test), tuple(sorted(found.values(), key=lambda leak: leak.test)))


def regimes(
    train: Sequence[Row], test: Sequence[Row], leakage: Leakage, contexts: Sequence[str] = ()
) -> dict[int, Regime]:
    """Return for each test row, by its number, what measuring on it tells.

    ``new question, known context`` is the primary one; ``new context`` tells how the arms fare with documents that
    nobody trained on; ``trained question`` is a diagnosis of memory and no more; ``no context`` is a new question
    without a context, which may belong to either.

    Args:
        leakage: of the same rows.
        contexts: what was trained on as text, beside the contexts of ``train``.
    """
    asked = {leak.test for leak in leakage.leaks if leak.kind != "index"}
    known = {normalized(text) for text in (*(row.context for row in train), *contexts) if text.strip()}

    def regime(row: Row) -> Regime:
        if row.number in asked:
            return "trained question"
        if not row.context.strip():
            return "no context"
        return "new question, known context" if normalized(row.context) in known else "new context"

    return {row.number: regime(row) for row in test}


def _questions(train: Sequence[Row], test: Sequence[Row]) -> Iterator[tuple[int, int, float]]:
    """Yield the places of training and test rows with the same or almost the same question, and their Jaccard index."""
    places: dict[str, tuple[list[int], list[int]]] = {}
    for side, rows in enumerate((train, test)):
        for place, row in enumerate(rows):
            places.setdefault(normalized(row.question), ([], []))[side].append(place)
    texts = list(places)
    pairs = [(text, text, 1.0) for text in texts]
    # Jaccard indexes of different texts may be 1, too: "да да да да" and "да да да да да".
    pairs += [(texts[i], texts[j], min(index, 0.9999)) for i, j, index in near_duplicates(texts)]
    for one, other, index in pairs:
        for left, right in ((one, other), (other, one)) if one != other else ((one, other),):
            yield from ((i, j, index) for i in places[left][0] for j in places[right][1])


def _indexed(test: Sequence[Row], passages: Sequence[str], contexts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the places of test rows and of passages that hold their question with the answer, or are their answer."""
    known = "\n".join(sorted({normalized(context) for context in contexts}))
    starts: dict[tuple[str, ...], list[int]] = {}
    rows = [(f" {normalized(row.question)} ", f" {normalized(row.answer)} ") for row in test]
    for place, texts in enumerate(rows):
        for text in texts:
            if text.strip():
                starts.setdefault(tuple(text.split()[:LONG_WORDS]), []).append(place)
    for number, passage in enumerate(passages):
        plain = normalized(passage)
        words = plain.split()
        met = {
            place
            for length in range(1, LONG_WORDS + 1)
            for at in range(len(words) - length + 1)
            for place in starts.get(tuple(words[at : at + length]), ())
        }
        if met and plain not in known:
            yield from ((place, number) for place in sorted(met) if _holds(f" {plain} ", *rows[place]))


def _holds(passage: str, question: str, answer: str) -> bool:
    """Tell whether a passage is the answer, or holds question and answer; few words stand in it by chance."""
    if len((question + answer).split()) < LONG_WORDS or not answer.strip():
        return False
    both = bool(question.strip()) and question in passage and answer in passage.replace(question, "  ", 1)
    return both or (passage == answer and len(answer.split()) >= LONG_WORDS)


def _source(leak: Leak, lang: str = "en") -> str:
    if leak.kind == "index":
        return f"фрагмента {leak.train}" if lang == "ru" else f"passage {leak.train}"
    return f"строки {leak.train} обучения" if lang == "ru" else f"training row {leak.train}"
