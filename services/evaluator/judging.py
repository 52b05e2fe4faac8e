"""The judge in a run: examined on answers made from the user's own rows, and only then let at the arms' answers."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from contracts.evaluation import AskedQuestion
from contracts.measurement import JudgeFound, PreferenceFound
from contracts.table import Row
from services.evaluator.arms import CONTROLS
from services.evaluator.completions import Completions
from services.evaluator.examination import Examination, examine, examine_pairwise
from services.evaluator.grading import CRITERIA, Grade, Grader, Item, Preference
from services.evaluator.plan import Plan
from services.evaluator.settings import EvaluatorSettings
from services.evaluator.tables import item_id
from services.evaluator.wording import Language

_FEW: dict[Language, str] = {
    "ru": "Судья {model} прошёл проверку, но ответов оценил мало: {graded} из {of}; его оценки в выводе не учтены.",
    "en": "The judge {model} passed its examination and graded only {graded} of {of} answers; its grades do not count.",
}
_FEW_PAIRS: dict[Language, str] = {
    "ru": "пар ответов судья сравнил мало: {chosen} из {of}",
    "en": "the judge compared only {chosen} of {of} pairs of answers",
}
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judge said. ``grades`` are by the question's place, from 1, and the arm; none where it failed."""

    found: JudgeFound
    grades: dict[tuple[int, str], Grade] = field(default_factory=dict)


async def judge_run(plan: Plan, settings: EvaluatorSettings, report: Report) -> Judged:
    """Examine the judge, and where it passes have it grade every answer that has a reference.

    Never raises for what the judge's server does.

    Args:
        plan: with all answers.
        settings: of the judge.
        report: told how many replies are there, of how many that are known to be needed.
    """
    rows = _rows(plan)
    completions = await asyncio.to_thread(Completions.for_grading, settings)
    tally = _Tally(report)
    async with completions:
        grader = Grader(completions, tally)
        examination = await examine(grader, rows, settings.judge_examined, settings.judge_seed, plan.lang)
        found = JudgeFound(
            model=examination.model,
            served={},
            checks=examination.checks,
            passed=examination.passed,
            reason=examination.reason(plan.lang),
            planted=examination.planted,
        )
        grades: dict[tuple[int, str], Grade] = {}
        if found.passed:
            items = _items(plan)
            grading = await grader.grade(list(items.values()), plan.lang)
            by_item = {grade.of: grade for grade in grading.grades}
            grades = {place: by_item[item] for place, item in items.items() if item in by_item}
            found.graded = len(grading.grades)
            found.ungraded = len(items) - found.graded
            found.left_out = {str(why): number for why, number in grading.left_out.items()}
            if found.ungraded > plan.verdict.max_dropped * len(items):
                found.reason = _FEW[plan.lang].format(model=found.model, graded=found.graded, of=len(items))
            found.mismatches = grading.mismatches
            found.marked = sum(grade.instructs for grade in grading.grades)
            if found.counts:
                await _prefer(plan, grader, rows, settings, found)
        spent = completions.spending
        found.served = dict(grader.models)
        found.calls, found.cached, found.cost = spent.calls, completions.cached, spent.cost
        found.prompt_tokens, found.completion_tokens = spent.prompt_tokens, spent.completion_tokens
    return Judged(found, grades)


async def _prefer(
    plan: Plan, grader: Grader, rows: Sequence[Row], settings: EvaluatorSettings, found: JudgeFound
) -> None:
    """Ask which of the first two arms has the better tone and the more persuasion, if the judge can be asked that."""
    arms = [arm.name for arm in plan.arms if arm.name not in CONTROLS][:2]
    if len(arms) < 2:
        return
    examination: Examination = await examine_pairwise(
        grader, rows, settings.judge_examined, settings.judge_seed, plan.lang
    )
    found.checks = [*found.checks, *examination.checks]
    if not examination.passed:
        found.preferences_reason = examination.reason(plan.lang)
        return
    pairs = []
    for number, asked in enumerate(plan.asked, start=1):
        if not asked.probe:
            both = [_item(number, asked, name) for name in arms]
            if both[0] and both[1]:
                pairs.append((both[0], both[1]))
    preferences, failed = await grader.compare(pairs, plan.lang)
    if len(failed) > plan.verdict.max_dropped * len(pairs):
        found.preferences_reason = _FEW_PAIRS[plan.lang].format(chosen=len(preferences), of=len(pairs))
        return
    for criterion in CRITERIA:
        won = [_winner(each, criterion) for each in preferences]
        found.preferences.append(
            PreferenceFound(
                criterion=criterion, a=arms[0], b=arms[1], wins_a=won.count(arms[0]), wins_b=won.count(arms[1]),
                ties=won.count(None), left_out=len(failed),
            )
        )  # fmt: skip


def _winner(preference: Preference, criterion: str) -> str | None:
    return next((arm for name, arm in preference.winner.items() if name == criterion), None)


def _rows(plan: Plan) -> list[Row]:
    """Return the user's rows, those that are tested and those that were trained on, each once."""
    told = [
        (each.question.question, each.question.answer or "", each.question.context or "")
        for each in plan.asked
        if (each.question.answer or "").strip() and not each.probe
    ]
    told += [(row.question, row.answer, row.context) for row in plan.train]
    return [
        Row(number, {"question": question, "answer": answer, "context": context})
        for number, (question, answer, context) in enumerate(dict.fromkeys(told), start=1)
    ]


def _items(plan: Plan) -> dict[tuple[int, str], Item]:
    """Return the answers to grade, by the question's place and the arm."""
    found = {}
    for number, asked in enumerate(plan.asked, start=1):
        for arm in plan.arms:
            item = _item(number, asked, arm.name)
            if item and item.reference.strip() and not asked.probe:
                found[number, arm.name] = item
    return found


def _item(number: int, asked: AskedQuestion, arm: str) -> Item | None:
    given = next((each.answer for each in asked.answers if each.arm == arm and each.answer), None)
    if given is None:
        return None
    question = asked.question
    return Item(item_id(number), arm, question.question, question.answer or "", question.context or "", given.answer)


class _Tally:
    """Adds up the progress of gradings that come one after the other."""

    def __init__(self, report: Report):
        self._report = report
        self._before = self._done = self._total = 0

    def __call__(self, done: int, total: int) -> None:
        if done < self._done:  # another grading has begun
            self._before += self._total
        self._done, self._total = done, total
        self._report(self._before + done, self._before + total)
