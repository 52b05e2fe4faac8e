"""Everything that is measured of one answer, in one record."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from contracts.measurement import AnswerMetrics, ValuesFound, Why
from services.evaluator.metrics.correctness import abstains, correctness, evidence
from services.evaluator.metrics.text import content, language, lemmas, russian_share, words
from services.evaluator.metrics.values import Value, bare, compare, facts, supported, values

WHY: dict[Why, dict[str, str]] = {
    "no_answer": {"ru": "нет ответа", "en": "there is no answer"},
    "no_reference": {"ru": "нет эталонного ответа", "en": "there is no reference answer"},
    "no_passages": {"ru": "ответ дан без найденных фрагментов", "en": "no passages were retrieved"},
    "no_values": {"ru": "нет чисел, дат и названий", "en": "there are no numbers, dates or names"},
    "nothing_to_check": {"ru": "в ответе нет утверждений", "en": "the answer claims nothing"},
    "no_letters": {"ru": "в ответе нет букв", "en": "the answer has no letters"},
    "no_encoder": {"ru": "не задан кодировщик BERTScore", "en": "no encoder of BERTScore was given"},
    "not_found": {"ru": "своего контекста среди найденных нет", "en": "the own context is not among the passages"},
    "no_judge": {"ru": "судья не оценивал", "en": "no judge graded it"},
    "too_short": {"ru": "ответ слишком короткий", "en": "the answer is too short"},
}
"""Why something was not measured, as it is shown."""

REPEATED = 4
"""Words of the pieces whose repetition is counted."""
COPIED = 5
"""Words from which a piece of a passage is copied and not merely named."""
KNOWN = 0.5
"""Share of the reference's facts from which passages are taken to hold the answer."""


def measure(
    answer: str, reference: str | None = None, question: str = "", passages: Sequence[str] | None = None
) -> AnswerMetrics:
    """Measure one answer.

    Args:
        answer: as the model gave it; a blank one has no metrics.
        reference: the right answer, None or blank where it is not known.
        question: makes the comparison fairer: what it names already is not asked for.
        passages: texts that the prompt held; None or none where nothing was retrieved.
    """
    if not words(answer):
        fields = set(AnswerMetrics.model_fields) - {"not_measured"}
        return AnswerMetrics(not_measured=dict.fromkeys(sorted(fields), "no_answer"))
    reference = reference if reference and words(reference) else None
    passages = [passage for passage in passages or [] if words(passage)]
    found: dict[str, Any] = {"abstained": abstains(answer, question), "words": len(words(answer))}
    why: dict[str, Why] = {"bertscore": "no_encoder", "judge": "no_judge", "judge_note": "no_judge"}
    why["gold_place"] = "not_found" if passages else "no_passages"
    for name, value, reason in (
        *_against_reference(answer, reference, question),
        *_against_passages(answer, passages, question),
        ("abstention_right", _abstention_right(answer, reference, question, passages), "no_reference"),
        ("language", language(answer), "no_letters"),
        ("russian_share", russian_share(answer), "no_letters"),
        ("repetition", repetition(answer), "too_short"),
    ):
        found[name] = value
        if value is None:
            why[name] = reason
    return AnswerMetrics(**found, not_measured=dict(sorted(why.items())))


def exact_match(answer: str, reference: str) -> float:
    """Return 1 where both have the same words and numbers in the same order, in whatever form; else 0."""
    return float(lemmas(answer) == lemmas(reference))


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 of the words in common, by lemmas (Rajpurkar et al. 2016, without its English articles)."""
    ours, theirs = lemmas(answer), lemmas(reference)
    common = sum(min(ours.count(term), theirs.count(term)) for term in set(ours))
    return 2 * common / (len(ours) + len(theirs)) if ours or theirs else 0.0


def chrf(answer: str, reference: str) -> float:
    """Return chrF2 of character 6-grams (Popović 2015), as sacrebleu computes it, 0 to 1."""
    from sacrebleu import sentence_chrf

    return float(sentence_chrf(_plain(answer), [_plain(reference)]).score) / 100


def rouge_l(answer: str, reference: str) -> float:
    """Return ROUGE-L F1 (Lin 2004), as rouge-score computes it, over words of any alphabet."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def faithfulness(answer: str, passages: Sequence[str], question: str = "") -> tuple[float | None, list[str]]:
    """Return the share of the answer's values and content words that the passages have, and the values they lack.

    Greetings, invitations and what the question says already claim nothing. A value counts as much as a word; the
    share is None where the answer claims nothing.
    """
    claimed = [value for value in values(bare(answer)) if not supported(value, [question])]
    told = facts(answer, question)
    there = frozenset(term for passage in passages for term in content(passage))
    lacking = [value for value in claimed if not supported(value, passages)]
    if not claimed and not told:
        return None, []
    return 1 - (len(lacking) + len(told - there)) / (len(claimed) + len(told)), _texts(lacking)


def copied(answer: str, passages: Sequence[str]) -> float | None:
    """Return the share of the answer's words in pieces of five or more words of a passage; None for fewer words.

    This is the coverage of Grusky et al. 2018, for long pieces alone.
    """
    ours = words(answer)
    if len(ours) < COPIED:
        return None
    theirs = {piece for passage in passages for piece in _pieces(words(passage), COPIED)}
    covered = {
        place
        for begin, piece in enumerate(_pieces(ours, COPIED))
        if piece in theirs
        for place in range(begin, begin + COPIED)
    }
    return len(covered) / len(ours)


def repetition(answer: str) -> float | None:
    """Return the share of the answer's 4-word pieces that came before in it; None where there are not two."""
    pieces = list(_pieces(words(answer), REPEATED))
    return 1 - len(set(pieces)) / len(pieces) if len(pieces) > 1 else None


def _against_reference(answer: str, reference: str | None, question: str) -> Iterator[tuple[str, Any, Why]]:
    if reference is None:
        names = "correct values values_precision values_recall exact_match token_f1 chrf rouge_l".split()
        yield from ((name, None, "no_reference") for name in names)
        return
    found = compare(answer, reference, question)
    yield "correct", correctness(answer, reference, question), "no_reference"
    lists = ValuesFound(
        matched=_texts(found.matched),
        missing=_texts(found.missing),
        contradicted=[*_texts(found.contradicted), *found.opposite],
        foreign=_texts(found.foreign),
    )
    yield "values", lists, "no_values"
    yield "values_precision", found.precision, "no_values"
    yield "values_recall", found.recall, "no_values"
    yield "exact_match", exact_match(answer, reference), "no_reference"
    yield "token_f1", token_f1(answer, reference), "no_reference"
    yield "chrf", chrf(answer, reference), "no_reference"
    yield "rouge_l", rouge_l(answer, reference), "no_reference"


def _against_passages(answer: str, passages: Sequence[str], question: str) -> Iterator[tuple[str, Any, Why]]:
    if not passages:
        yield from ((name, None, "no_passages") for name in ("faithfulness", "unsupported", "copied"))
        return
    share, lacking = (None, None) if abstains(answer, question) else faithfulness(answer, passages, question)
    yield "faithfulness", share, "nothing_to_check"
    yield "unsupported", None if share is None else lacking, "nothing_to_check"
    yield "copied", copied(answer, passages), "too_short"


def _abstention_right(answer: str, reference: str | None, question: str, passages: Sequence[str]) -> bool | None:
    """Tell whether to answer, or to say that one does not know, was right.

    Not to know is right where the reference does not know, and where passages were given that do not hold the
    reference's facts.
    """
    if reference is None:
        return None
    unknown = abstains(reference, question)
    if passages and not unknown and abstains(answer, question):
        held = evidence(" ".join(passages), reference, question)
        shares = [share for share in (held.values, held.words) if share is not None]
        unknown = bool(shares) and min(shares) < KNOWN
    return abstains(answer, question) == unknown


def _texts(found: Sequence[Value]) -> list[str]:
    return list(dict.fromkeys(value.text for value in found))


def _pieces(of: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    return zip(*(of[start:] for start in range(size)), strict=False)


def _plain(text: str) -> str:
    return " ".join(words(text))


class _Words:
    """The tokenizer for rouge-score: its own knows a to z alone, and two identical Russian sentences score 0."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())
