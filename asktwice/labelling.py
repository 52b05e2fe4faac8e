"""``asktwice labels``: answers drawn for people to grade blind, and what their grades make of the verdict."""

import hashlib
import random
from pathlib import Path

from pydantic import BaseModel

from asktwice.judging import finished
from contracts.artifacts import Home, write_atomically
from contracts.errors import InvalidInput
from contracts.evaluation import EvaluationResult
from contracts.verdict import ScoredItem, Verdict
from services.evaluator.arms import CONTROLS
from services.evaluator.labels import MAX_LABELS, Agreement, agreement, read_labels
from services.evaluator.measuring import SCORES, scored_items
from services.evaluator.tables import csv_of, item_id
from services.evaluator.verdict import decide
from services.evaluator.wording import Language, arm_label, number, verdict_lines

_TEXT: dict[str, dict[Language, str]] = {
    "labels": {
        "ru": "Меток: {labels}, без оценки для сравнения: {unmatched}; согласие {agreement}, каппа {kappa}",
        "en": "Labels: {labels}, without a score to compare: {unmatched}; agreement {agreement}, kappa {kappa}",
    },
    "arm": {
        "ru": "{arm}: меток {labels}, согласие {agreement}; верные признаны верными {sensitivity}, неверные неверными"
        " {specificity}",
        "en": "{arm}: {labels} labels, agreement {agreement}; right answers found right {sensitivity}, wrong ones wrong"
        " {specificity}",
    },
    "corrected": {
        "ru": "Вывод с поправкой на метки (PPI++; поправлены разницы, средние прежние):",
        "en": "The verdict corrected by the labels (PPI++; differences are corrected, means are not):",
    },
}


class Labelled(BaseModel):
    """What people's labels say of the scores of a run, and the verdict that they correct."""

    metric: str
    agreement: Agreement
    verdict: Verdict


def write_sheet(home: Home, evaluation: str, out: Path) -> int:
    """Write answers to be graded by people who do not see which arm gave them; return how many.

    All arms' answers to each question that is drawn, in an order of chance: what corrects a difference is labels on
    both of its sides.

    Raises:
        InvalidInput: there is no such evaluation, it had nothing to grade, or the sheet is there already.
    """
    result = finished(home, evaluation)
    if out.exists():
        raise InvalidInput(f"{out} is there already, perhaps with labels in it. Give --out another name.")
    drawn = random.Random(result.id)
    arms = [arm for arm in result.arms if arm not in CONTROLS]
    places = [place for place, asked in enumerate(result.asked) if asked.measures and not asked.leaked]
    rows: list[dict[str, object]] = []
    for place in drawn.sample(places, min(len(places), MAX_LABELS // max(1, len(arms)))):
        asked = result.asked[place]
        for given in asked.answers:
            if given.arm in arms and given.answer:
                rows.append(
                    {
                        "answer_id": answer_id(result, item_id(place + 1), given.arm),
                        "question": asked.question.question,
                        "reference": asked.question.answer,
                        "context": asked.question.context,
                        "answer": given.answer.answer,
                        "label": None,
                    }
                )
    if not rows:
        raise InvalidInput(f"Evaluation {evaluation} has no answers to questions with a reference.")
    drawn.shuffle(rows)
    write_atomically(out.resolve(), csv_of(rows))
    return len(rows)


def labelled(home: Home, evaluation: str, labels: Path) -> Labelled:
    """Return how far people's labels agree with the scores of a run, and the verdict corrected by them.

    Args:
        home: of the evaluation.
        evaluation: a finished one.
        labels: the filled sheet of :func:`write_sheet`, or a CSV with item, arm and label.

    Raises:
        InvalidInput: there is no such evaluation, it compared nothing, or the file is refused; it says why.
    """
    result = finished(home, evaluation)
    found = result.measurement
    if found is None or found.verdict is None:
        raise InvalidInput(f"Evaluation {evaluation} compared nothing that labels could correct.")
    compared = {mean.arm for mean in found.verdict.arms}
    leaked = [number for number, asked in enumerate(result.asked, start=1) if asked.leaked]
    items = [
        each
        for each in scored_items(result.asked, [] if found.leakage.invalid else leaked, SCORES[found.metric])
        if each.arm in compared
    ]
    codes = {answer_id(result, each.item, each.arm): (each.item, each.arm) for each in items}
    told = read_labels(labels, codes)
    scores = {(each.item, each.arm): each.score for each in items if each.score is not None}
    clusters = {each.item: each.cluster for each in items}
    people = [
        ScoredItem(item=item, cluster=clusters[item], arm=arm, score=label)
        for (item, arm), label in told.items()
        if (item, arm) in scores
    ]
    if not people:
        raise InvalidInput(f"{labels.name}: no label is of an answer that evaluation {evaluation} compared.")
    invalid = found.verdict.reasons if found.leakage.invalid else ()
    verdict = decide(items, found.verdict.settings, labels=people, invalid=invalid)
    return Labelled(metric=found.metric, agreement=agreement(told, scores), verdict=verdict)


def answer_id(result: EvaluationResult, item: str, arm: str) -> str:
    """Return a name of an answer that does not tell its arm."""
    # a letter first: a spreadsheet reads 3027903e18 as a number
    return "a" + hashlib.sha256(f"{result.id}\n{item}\n{arm}".encode()).hexdigest()[:10]


def lines_of(found: Labelled, lang: Language) -> list[str]:
    """Return it in words."""

    def share(value: float | None) -> str:
        return "—" if value is None else f"{number(100 * value, lang)}{' %' if lang == 'ru' else '%'}"

    told = found.agreement
    kappa = "—" if told.kappa is None else f"{told.kappa:.2f}".replace(".", "," if lang == "ru" else ".")
    lines = [
        _TEXT["labels"][lang].format(
            labels=told.labels, unmatched=told.unmatched, agreement=share(told.agreement), kappa=kappa
        )
    ]
    lines += [
        _TEXT["arm"][lang].format(
            arm=arm_label(each.arm, lang), labels=each.labels, agreement=share(each.agreement),
            sensitivity=share(each.sensitivity), specificity=share(each.specificity),
        )
        for each in told.arms
    ]  # fmt: skip
    return [*lines, _TEXT["corrected"][lang], *verdict_lines(found.verdict, lang, lambda arm: arm_label(arm, lang))]
