"""Questions beside the verdict, which say why an arm is good or bad: what it does with a fact that changed, with what
nobody can know, with passages that mislead, with what it was trained on, with what it knew before.

They never weigh in the verdict. What a probe needs of the index it takes from a search and changes on the way: nothing
that is served is touched.
"""

import hashlib
import re
from collections.abc import Sequence

from contracts.clients import RetrieverClient
from contracts.evaluation import AskedQuestion, EvaluationQuestion
from contracts.groups import normalized
from contracts.measurement import AnswerMetrics, Probe, ProbeFound
from contracts.retrieval import Passage
from contracts.table import Row
from services.evaluator.lines import is_empty
from services.evaluator.plan import Plan
from services.evaluator.probe_questions import GENERAL, UNKNOWN
from services.evaluator.wording import Language

MOST = 40
"""Questions of a probe: 95% intervals of about 15 points to each side."""
TOP_K = 3
DISTRACTORS = 4
_SPACE = "[ \u00a0\u202f]"
_NUMBER = re.compile(rf"(?<![\d.,])(?:\d{{1,3}}(?:{_SPACE}\d{{3}})+|\d{{2,}})(?!{_SPACE}?\d)(?![.,]\d)")
_RUSSIAN = re.compile(r"[а-яё]", re.IGNORECASE)


async def add_probes(plan: Plan, retriever: RetrieverClient) -> None:
    """Put the probes' questions behind those of the plan.

    Raises:
        AskTwiceError: the retriever, from whose passages two of them are made, does not answer.
    """
    arms = {arm.name: arm for arm in plan.arms if not arm.given}
    retrieving = [name for name, arm in arms.items() if arm.mode.retrieves]
    alone = [name for name, arm in arms.items() if not arm.mode.retrieves]
    lang = _language(plan)
    tested = [
        Row(number, {"question": each.question.question, "answer": each.question.answer or "",
                     "context": each.question.context or ""})
        for number, each in enumerate(plan.asked, start=1)
        if each.measures
    ]  # fmt: skip
    known = _drawn(plan.train)
    added = [_question("trained", row.question, row.answer, row.context) for row in known[:MOST]]
    changing = ((row, changed(row)) for row in known or _drawn(tested))
    for row, turned in [(row, turned) for row, turned in changing if turned][:MOST]:
        each = _question("changed", row.question, turned.answer, row.context)
        each.stale = turned.old
        if retrieving:
            found = (await retriever.search(row.question, TOP_K)).results
            each.passages = [turned.of(p.text) if _holds(p, row) else p.text for p in found] or None
        added.append(each)
    added += [_question("unknown", question) for question in UNKNOWN[lang]]
    for row in [row for row in _drawn(tested) if row.context.strip()][: MOST if retrieving else 0]:
        found = (await retriever.search(row.question, TOP_K + DISTRACTORS)).results
        others = [passage.text for passage in found if not _holds(passage, row)][:DISTRACTORS]
        if others:
            each = _question("distractors", row.question, row.answer, row.context)
            each.passages, each.arms = [*others, row.context], retrieving
            added.append(each)
    if alone:
        for question, answer in GENERAL[lang]:
            each = _question("general", question, answer)
            each.arms = alone
            added.append(each)
    for each in added:
        each.arms = each.arms or [*arms]
    plan.asked += added


class Changed:
    """A fact with another number in it."""

    def __init__(self, answer: str, old: str, new: str):
        self.old, self._new = old, new
        self._pattern = _pattern(old)
        self.answer = self.of(answer)

    def of(self, text: str) -> str:
        """Return a text in which the new number stands wherever the old one stood."""
        return self._pattern.sub(self._new, text)


def changed(row: Row) -> Changed | None:
    """Return the row's fact with its first number of two digits or more changed in all digits; None where the answer
    has none that stands in the context, too, and not in the question."""
    for match in _NUMBER.finditer(row.answer):
        old = match[0]
        if _stands(old, row.context) and not _stands(old, row.question):
            return Changed(row.answer, old, re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 9 + 1), old))
    return None


def probes_found(asked: Sequence[AskedQuestion], arms: Sequence[str]) -> list[ProbeFound]:
    """Return what each arm did in each probe; a question that failed is left out and counted."""
    from scipy.stats import binomtest

    found = []
    for probe in dict.fromkeys(each.probe for each in asked if each.probe):
        for arm in arms:
            of = [(each, given) for each in asked if each.probe == probe for given in each.answers if given.arm == arm]
            told = [(each, given.answer.answer, given.metrics) for each, given in of if given.metrics and given.answer]
            silent = sum(is_empty(given.error) for _, given in of)
            if not of:
                continue
            right = sum(_right(probe, metrics) for _, _, metrics in told)
            stale = [
                _stands(each.stale, answer) for each, answer, metrics in told if each.stale and metrics.correct != 1
            ]
            answered = len(told) + silent
            between = binomtest(right, answered).proportion_ci(method="wilson") if answered else None
            found.append(
                ProbeFound(
                    probe=probe, arm=arm, asked=len(of), answered=answered, silent=silent, right=right,
                    share=right / answered if answered else None,
                    low=float(between.low) if between else None, high=float(between.high) if between else None,
                    stale=sum(stale) if probe == "changed" else None,
                )
            )  # fmt: skip
    return found


def _right(probe: Probe, metrics: AnswerMetrics) -> bool:
    return bool(metrics.abstained) if probe == "unknown" else metrics.correct == 1


def _question(probe: Probe, question: str, answer: str | None = None, context: str | None = None) -> AskedQuestion:
    told = EvaluationQuestion(question=question, answer=answer or None, context=context or None)
    return AskedQuestion(question=told, answers=[], held_out=True, probe=probe)


def _drawn(rows: Sequence[Row]) -> list[Row]:
    """Return the rows in an order that is the same each time and has nothing to do with the file's."""
    return sorted(rows, key=lambda row: hashlib.sha256(normalized(row.question).encode()).digest())


def _holds(passage: Passage, row: Row) -> bool:
    """Tell whether a passage is of the row's own context: all of it, or a part."""
    one, other = normalized(passage.text), normalized(row.context)
    return bool(other) and (other in one or one in other)


def _pattern(number: str) -> re.Pattern[str]:
    """Return what finds a number however its thousands are parted, 89 900 and 89900, and no part of another number: no
    15 in 15,5, no 500 in 1 500."""
    digits = f"{_SPACE}?".join(re.split(_SPACE, number))
    return re.compile(rf"(?<![\d.,])(?<!\d{_SPACE}){digits}(?!\d)(?!{_SPACE}\d{{3}}(?!\d))(?![.,]\d)")


def _stands(number: str, text: str) -> bool:
    return _pattern(number).search(text) is not None


def _language(plan: Plan) -> Language:
    russian = sum(bool(_RUSSIAN.search(each.question.question)) for each in plan.asked)
    return "ru" if 2 * russian >= len(plan.asked) else "en"
