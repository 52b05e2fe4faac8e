"""``asktwice labels``: answers drawn for people to grade blind, and what their grades make of the verdict."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from asktwice.judging import finished
from contracts.artifacts import Home, write_atomically
from contracts.errors import InvalidInput
from contracts.evaluation import EvaluationResult, ModeAnswer
from contracts.measurement import Measurement
from contracts.verdict import ScoredItem, Verdict
from services.evaluator.labels import MAX_LABELS, Agreement, Labels, agreement, read_labels
from services.evaluator.lines import is_empty
from services.evaluator.measuring import SCORES, harmlessness, leaked_places, scored_items
from services.evaluator.metrics.text import words
from services.evaluator.tables import csv_of, item_id
from services.evaluator.verdict import decide, fewest_labels
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
    "few": {
        "ru": "Этих меток мало, чтобы поправить вывод: нужно не меньше {fewest} на каждый способ и хотя бы {clusters}"
        " разных контекстов. Вывод прогона остаётся прежним.",
        "en": "These labels are too few to correct the verdict: each arm needs {fewest}, on at least {clusters}"
        " different contexts. The verdict of the run stands as it was.",
    },
    "corrected": {
        "ru": "Вывод с поправкой на метки (PPI++; поправлены разницы, а средние и второй показатель прежние):",
        "en": "The verdict corrected by the labels (PPI++; differences are corrected, means and a trade-off's other"
        " measure are not):",
    },
}


class Labelled(BaseModel):
    """What people's labels say of the scores of a run, and the verdict that they correct."""

    metric: str
    agreement: Agreement
    verdict: Verdict


def write_sheet(home: Home, evaluation: str, out: Path, arms: Sequence[str] = ()) -> int:
    """Write answers to be graded by people who do not see which arm gave them; return how many.

    All arms' answers to each question that is drawn, one question after the other, the arms in an order of chance: what
    corrects a difference is labels on both of its sides. An answer that says nothing has its label already, 0: left
    out, it would make an arm that is often silent look better than it is.

    Args:
        home: of the evaluation.
        evaluation: a finished one.
        out: the sheet, a CSV.
        arms: those to be graded; none means all that were compared.

    Raises:
        InvalidInput: there is no such evaluation, it compared nothing, an arm is none of those compared, there are more
            than the labels suffice for, or the sheet is there already.
    """
    result = finished(home, evaluation)
    _, found = _compared(result)
    if out.exists():
        raise InvalidInput(f"{out} is there already, perhaps with labels in it. Give --out another name.")
    compared = sorted(mean.arm for mean in found.arms)
    if strange := [arm for arm in arms if arm not in compared]:
        raise InvalidInput(f"--arms: {strange[0][:100]} was not compared; {', '.join(compared)} were.")
    graded = [arm for arm in compared if not arms or arm in arms]
    if len(graded) * fewest_labels(found.settings) > MAX_LABELS:
        raise InvalidInput(
            f"{len(graded)} arms share {MAX_LABELS} labels, and each needs {fewest_labels(found.settings)}. Name those"
            f" that matter: --arms {','.join(found.top[:2] if len(found.top) > 1 else graded[:2])}"
        )
    rows = [
        {
            "answer_id": answer_id(result, item_id(place + 1), given.arm),
            "question": result.asked[place].question.question,
            "reference": result.asked[place].question.answer,
            "context": result.asked[place].question.context,
            "answer": given.answer.answer if given.answer else None,
            "label": 0 if _silent(given) else None,
        }
        for place in _drawn(result)[: MAX_LABELS // len(graded)]
        for given in _shuffled(result, place)
        if given.arm in graded and (given.answer or _silent(given))
    ]
    write_atomically(out.resolve(), csv_of(rows))
    return len(rows)


def labelled(home: Home, evaluation: str, labels: Path) -> Labelled:
    """Return how far people's labels agree with the scores of a run, and the verdict corrected by them.

    It compares the arms that have labels.

    Args:
        home: of the evaluation.
        evaluation: a finished one.
        labels: the filled sheet of :func:`write_sheet`, all of it or its beginning, or a CSV with item, arm and label.

    Raises:
        InvalidInput: there is no such evaluation, it compared nothing, or the file is refused; it says why.
    """
    result = finished(home, evaluation)
    measured, before = _compared(result)
    compared = {mean.arm for mean in before.arms}
    leaked = () if measured.leakage.invalid else leaked_places(result.asked)
    score = SCORES[measured.metric]
    items = [each for each in scored_items(result.asked, leaked, score) if each.arm in compared]
    codes = {answer_id(result, each.item, each.arm): (each.item, each.arm) for each in items}
    told = _without_the_rest(read_labels(labels, codes), result)
    scores = {(each.item, each.arm): each.score for each in items if each.score is not None}
    clusters = {each.item: each.cluster for each in items}
    people = [
        ScoredItem(item=item, cluster=clusters[item], arm=arm, score=label)
        for (item, arm), label in told.items()
        if (item, arm) in scores
    ]
    graded = {each.arm for each in people}
    if len(graded) < 2:
        raise InvalidInput(
            f"{labels.name}: labels correct a comparison where two arms have some; of those that evaluation"
            f" {evaluation} compared, {', '.join(graded) or 'none'} has."
        )
    items = [each for each in items if each.arm in graded]
    secondary = harmlessness(result.asked, leaked, score, items, before.settings)
    invalid = before.reasons if measured.leakage.invalid else ()
    verdict = decide(items, before.settings, labels=people, secondary=secondary, invalid=invalid)
    return Labelled(metric=measured.metric, agreement=agreement(told, scores), verdict=verdict)


def _compared(result: EvaluationResult) -> tuple[Measurement, Verdict]:
    if result.measurement is None or result.measurement.verdict is None:
        raise InvalidInput(f"Evaluation {result.id} compared nothing that labels could correct.")
    return result.measurement, result.measurement.verdict


def _drawn(result: EvaluationResult) -> list[int]:
    """Return the places of the questions that are compared, in the order in which they are drawn for labels."""
    places = [place for place, asked in enumerate(result.asked) if asked.measures and not asked.leaked]
    return random.Random(f"questions of {result.id}").sample(places, len(places))


def _shuffled(result: EvaluationResult, place: int) -> list[ModeAnswer]:
    answers = result.asked[place].answers
    return random.Random(f"{place} of {result.id}").sample(answers, len(answers))


def _silent(given: ModeAnswer) -> bool:
    """Whether a model said nothing; what failed is no answer at all."""
    return is_empty(given.error) or bool(given.answer and not words(given.answer.answer))


def _without_the_rest(told: Labels, result: EvaluationResult) -> dict[tuple[str, str], float]:
    """Drop the labels that silent answers have of themselves behind the last answer that a person has labelled: of a
    sheet that is half filled they would be too large a share."""
    silent = {
        (item_id(number), given.arm)
        for number, asked in enumerate(result.asked, start=1)
        for given in asked.answers
        if _silent(given)
    }
    order = {item_id(place + 1): n for n, place in enumerate(_drawn(result))}
    last = max((order.get(item, -1) for item, arm in told if (item, arm) not in silent), default=-1)
    return {
        (item, arm): label
        for (item, arm), label in told.items()
        if (item, arm) not in silent or order.get(item, -1) <= last
    }


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
    if all(contrast.low is None for contrast in found.verdict.contrasts):
        fewest = fewest_labels(found.verdict.settings)
        return [*lines, _TEXT["few"][lang].format(fewest=fewest, clusters=found.verdict.settings.min_clusters)]
    return [*lines, _TEXT["corrected"][lang], *verdict_lines(found.verdict, lang, lambda arm: arm_label(arm, lang))]
