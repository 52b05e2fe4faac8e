"""What the answers are worth: every metric of every answer, each arm's figures, and the verdict."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

from contracts.evaluation import AskedQuestion, ModeAnswer
from contracts.generation import Answer
from contracts.groups import normalized
from contracts.measurement import (
    AnswerMetrics,
    ArmMeasured,
    JudgeNote,
    LeakageFound,
    LeakedRow,
    Measurement,
    OperationsMeasured,
    Regime,
)
from contracts.ranking import figures
from contracts.table import Row
from contracts.verdict import ScoredItem, Verdict, VerdictSettings
from services.evaluator.advice import advise
from services.evaluator.arms import CONTROLS
from services.evaluator.judging import Judged
from services.evaluator.leakage import Leakage, find_leakage, regimes
from services.evaluator.lines import is_empty
from services.evaluator.metrics.answer import measure
from services.evaluator.metrics.retrieval import gold_place
from services.evaluator.metrics.text import words
from services.evaluator.operations import Prices, break_even, cost_of_one, cost_per_right, operations
from services.evaluator.plan import ALLOWANCE, Plan
from services.evaluator.probes import probes_found
from services.evaluator.tables import cluster_of, item_id
from services.evaluator.verdict import decide
from services.evaluator.wording import arm_label

Scorer = Callable[[Sequence[str | None], dict[str, list[str | None]]], dict[str, list[float | None]]]
"""References and each arm's answers in, F1 of BERTScore out."""
Score = Callable[[AnswerMetrics], float | None]
SCORES: dict[Literal["correct", "judge"], Score] = {
    "correct": lambda metrics: metrics.correct,
    "judge": lambda metrics: metrics.judge,
}

_UNKNOWN_TRAINING = {
    "ru": "обучающие строки неизвестны ({arms}), поэтому утечка из обучения не проверена; преимущество этих способов"
    " может быть памятью",
    "en": "the training rows are not known ({arms}), so leakage from training was not looked for; a lead of these arms"
    " may be memory",
}


def look_for_leaks(plan: Plan) -> Leakage:
    """Look for questions that training gives away; done before anything is asked."""
    return find_leakage(plan.train, _rows(plan.asked))


def measure_run(
    plan: Plan,
    leakage: Leakage,
    prices: Prices | None = None,
    scorer: Scorer | None = None,
    encoder: str | None = None,
    judged: Judged | None = None,
) -> Measurement | None:
    """Measure every answer in place, and return what follows for the arms; None where no question has a reference.

    Args:
        plan: with all answers.
        leakage: of :func:`look_for_leaks`.
        prices: as the user stated them.
        scorer: computes BERTScore; without one it is not measured.
        encoder: its name, for the report.
        judged: what a judge said, where one was asked; its grades make the verdict if it passed its examination.
    """
    for question in plan.asked:
        for given in question.answers:
            given.metrics = _metrics(question, given)
    tested = [question for question in plan.asked if question.measures]
    if not tested:
        return None
    if scorer:
        _add_bertscore(tested, [arm.name for arm in plan.arms], scorer)
    rows = _rows(plan.asked)
    if judged:
        _add_grades(plan.asked, judged)
    leakage = _with_index(leakage, rows, tested, plan.train)
    found = regimes(plan.train, rows, leakage)
    for row in rows:
        known = not plan.unknown or found[row.number] == "trained question"
        plan.asked[row.number - 1].regime = found[row.number] if known else "not known"
    measurement = Measurement(
        questions=len(tested),
        file=plan.measured_file,
        regimes=dict(Counter(question.regime for question in tested if question.regime)),
        leakage=_told(leakage, plan),
        arms=[_arm(plan, name, tested, prices) for name in (arm.name for arm in plan.arms)],
        encoder=encoder if scorer else None,
        metric="judge" if judged and judged.found.counts else "correct",
        judge=judged.found if judged else None,
        probes=probes_found(plan.asked, [arm.name for arm in plan.arms]),
    )
    for leak in leakage.leaks:
        plan.asked[leak.test - 1].leaked = True
    leaked = () if leakage.invalid else leaked_places(plan.asked)
    measurement.verdict, measurement.why = _verdict(plan, leaked, measurement)
    measurement.break_even = _break_even(plan, tested, prices)
    measurement.advice = advise(measurement, price_hour=prices.hour if prices else 0.0, lang=plan.lang)
    return measurement


def has_references(plan: Plan) -> bool:
    """Return whether there is anything to measure against."""
    return any(question.measures for question in plan.asked)


def scored_items(
    asked: Sequence[AskedQuestion], left_out: Collection[int] = (), score: Score = lambda metrics: metrics.correct
) -> list[ScoredItem]:
    """Return the scores that the verdict compares; questions on one context are one cluster.

    Args:
        asked: those without a reference have no scores.
        left_out: their places, from 1.
        score: of an answer, from what was measured of it.
    """
    return [
        ScoredItem(
            item=item_id(number),
            cluster=cluster_of(question, number),
            arm=given.arm,
            score=score(given.metrics) if given.metrics else None,
        )
        for number, question in enumerate(asked, start=1)
        if question.measures and number not in left_out
        for given in question.answers
    ]


def leaked_places(asked: Sequence[AskedQuestion]) -> set[int]:
    """Return the places, from 1, of the questions that training or the index gives away."""
    return {number for number, question in enumerate(asked, start=1) if question.leaked}


def _has_reference(question: AskedQuestion) -> bool:
    return bool((question.question.answer or "").strip())


def _rows(asked: Sequence[AskedQuestion]) -> list[Row]:
    """Number the questions by their place: their own row numbers may be those of two files."""
    return [
        Row(
            number,
            {
                "question": each.question.question,
                "answer": each.question.answer or "",
                "context": each.question.context or "",
            },
        )
        for number, each in enumerate(asked, start=1)
        if each.measures
    ]


def _metrics(question: AskedQuestion, given: ModeAnswer) -> AnswerMetrics | None:
    if given.answer is None:
        # Nothing said is an answer of the model's, and a wrong one; what failed is none and has no score.
        return AnswerMetrics(correct=0.0) if is_empty(given.error) and _has_reference(question) else None
    passages = [source.text for source in given.answer.sources]
    found = measure(given.answer.answer, question.question.answer, question.question.question, passages or None)
    if found.correct is None and not words(given.answer.answer) and _has_reference(question):
        found.correct = 0.0
        found.not_measured.pop("correct", None)
    if passages and question.question.context:
        found.gold_place = gold_place(passages, question.question.context)
    if found.gold_place is not None:
        del found.not_measured["gold_place"]
    return found


def _add_bertscore(tested: Sequence[AskedQuestion], arms: Sequence[str], scorer: Scorer) -> None:
    answers = {name: [_text(question, name) for question in tested] for name in arms}
    scores = scorer([question.question.answer for question in tested], answers)
    for place, question in enumerate(tested):
        for given in question.answers:
            if given.metrics:
                given.metrics.bertscore = scores[given.arm][place]
                given.metrics.not_measured.pop("bertscore", None)


def _add_grades(asked: Sequence[AskedQuestion], judged: Judged) -> None:
    for (number, arm), grade in judged.grades.items():
        for given in asked[number - 1].answers:
            if given.arm == arm and given.metrics:
                given.metrics.judge = grade.score
                given.metrics.judge_note = JudgeNote(
                    rationale=grade.judged.rationale, marked=grade.instructs, capped=grade.capped,
                    quote_found=grade.quote_found,
                )  # fmt: skip
                for field in ("judge", "judge_note"):
                    given.metrics.not_measured.pop(field, None)
    if judged.found.counts:
        for question in asked:
            for given in question.answers:
                silent = given.answer is None or not words(given.answer.answer)
                if given.metrics and silent and question.measures:  # nothing to grade, and wrong all the same
                    given.metrics.judge = 0.0
                    given.metrics.not_measured.pop("judge", None)


def _text(question: AskedQuestion, arm: str) -> str | None:
    given = next((given for given in question.answers if given.arm == arm), None)
    return given.answer.answer if given and given.answer else None


def _with_index(
    leakage: Leakage, rows: Sequence[Row], tested: Sequence[AskedQuestion], train: Sequence[Row]
) -> Leakage:
    """Add what the passages that were found give away, those of the training rows' contexts apart."""
    passages = {s.text for q in tested for given in q.answers if given.answer for s in given.answer.sources}
    contexts = "\n".join({normalized(row.context) for row in train})
    indexed = find_leakage([], rows, sorted(text for text in passages if normalized(text) not in contexts)).leaks
    known = {leak.test for leak in leakage.leaks}
    added = [leak for leak in indexed if leak.test not in known]
    return Leakage(leakage.tested, tuple(sorted([*leakage.leaks, *added], key=lambda leak: leak.test)))


def _told(leakage: Leakage, plan: Plan) -> LeakageFound:
    checked = not plan.unknown
    own = {leak.test: plan.asked[leak.test - 1].row or leak.test for leak in leakage.leaks}
    by_row = replace(leakage, leaks=tuple(replace(leak, test=own[leak.test]) for leak in leakage.leaks))
    return LeakageFound(
        checked=checked,
        tested=leakage.tested,
        rows=[
            LeakedRow(
                row=own[leak.test],
                source=leak.train,
                kind=leak.kind,
                similarity=round(leak.similarity, 4),
            )
            for leak in leakage.leaks
        ],
        share=leakage.share,
        invalid=leakage.invalid,
        reason=by_row.reason(plan.lang)
        or (None if checked else _UNKNOWN_TRAINING[plan.lang].format(arms=", ".join(plan.unknown))),
    )


def _verdict(plan: Plan, leaked: Collection[int], found: Measurement) -> tuple[Verdict | None, str | None]:
    score: Score = SCORES[found.metric]
    items, leakage = scored_items(plan.asked, leaked, score), found.leakage
    arms = [arm.name for arm in plan.arms if arm.name not in CONTROLS]
    silent = [arm for arm in arms if not any(i.arm == arm and i.score is not None for i in items)]
    why = None
    if silent:
        names = ", ".join(arm_label(arm, plan.lang) for arm in silent)
        why = {"ru": f"нет ни одного оценённого ответа ({names})", "en": f"no answer could be graded ({names})"}[
            plan.lang
        ]
    if len(arms) - len(silent) < 2:
        return None, why or {"ru": "опрошен только один способ", "en": "one arm alone was asked"}[plan.lang]
    compared = [item for item in items if item.arm in arms and item.arm not in silent]
    invalid = [leakage.reason] if leakage.invalid and leakage.reason else []
    settings = plan.verdict
    if found.metric == "judge":
        settings = settings.model_copy(update={"bias_allowance": ALLOWANCE})
    secondary = harmlessness(plan.asked, leaked, score, compared, settings)
    verdict = decide(compared, settings, secondary=secondary, invalid=invalid)
    if found.metric == "judge" and verdict.winner:
        found.outweighed_at = _outweighed_at(compared, verdict)
    return verdict, why


def _outweighed_at(items: Sequence[ScoredItem], verdict: Verdict) -> float | None:
    """Return from which favour of the judge on the winner would no longer be named, by bisection."""
    low, high = verdict.settings.bias_allowance, 0.49

    def wins(allowance: float) -> bool:
        return decide(items, verdict.settings.model_copy(update={"bias_allowance": allowance})).winner == verdict.winner

    if wins(high):
        return None
    while high - low > 0.001:
        middle = (low + high) / 2
        low, high = (middle, high) if wins(middle) else (low, middle)
    return round(high, 3)


def harmlessness(
    asked: Sequence[AskedQuestion],
    left_out: Collection[int],
    score: Score,
    compared: Sequence[ScoredItem],
    settings: VerdictSettings,
) -> dict[str, list[ScoredItem]]:
    """Return what else an arm can be better in, for a TRADE_OFF: how many of its answers are not wrong.

    An arm that is hardly ever right is no choice, however harmless, and takes no part.

    Args:
        asked: with what was measured.
        left_out: places of questions, from 1.
        score: what the verdict compares.
        compared: its items.
        settings: its margin says from which mean on an arm is a choice.
    """
    of: dict[str, list[float]] = {}
    for each in compared:
        if each.score is not None:
            of.setdefault(each.arm, []).append(each.score)
    able = {arm for arm, scores in of.items() if fmean(scores) > settings.margin}
    if len(able) < 2:
        return {}
    items = scored_items(asked, left_out, lambda metrics: _harmless(metrics, score))
    return {"harmless": [item for item in items if item.arm in able]}


def _harmless(metrics: AnswerMetrics, score: Score) -> float | None:
    """Return 0 for a wrong answer, 1 for any other: one that owns not to know misleads nobody."""
    value = score(metrics)
    return None if value is None else float(value > 0 or bool(metrics.abstained))


def _arm(plan: Plan, name: str, tested: Sequence[AskedQuestion], prices: Prices | None) -> ArmMeasured:
    given = [(q, a) for q in tested for a in q.answers if a.arm == name]
    answers = [a.answer for _, a in given if a.answer]
    found = [a.metrics for _, a in given if a.metrics]
    values = {field: [v for m in found if (v := _number(m, field)) is not None] for field in _FIELDS}
    by_regime: dict[Regime, list[float]] = {}
    for question, answer in given:
        if question.regime and answer.metrics and answer.metrics.correct is not None:
            by_regime.setdefault(question.regime, []).append(answer.metrics.correct)
    means = {field: fmean(told) for field, told in values.items() if told}
    manifest = plan.manifests.get(name)
    places = [
        a.metrics.gold_place
        for q, a in given
        if a.metrics and q.question.context and a.answer and a.answer.mode.retrieves
    ]
    depth = max((len(answer.sources) for answer in answers), default=0)
    return ArmMeasured(
        arm=name,
        adapter=next((answer.adapter for answer in answers if answer.adapter), None),
        answered=len(answers),
        failed=len(given) - len(answers),
        means=means,
        measured={field: len(told) for field, told in values.items() if told},
        by_regime={regime: fmean(scores) for regime, scores in by_regime.items()},
        retrieval=figures(places, depth) if places and depth and name not in CONTROLS else {},
        operations=_operations(answers, prices, means.get("correct")),
        training_seconds=sum(manifest.seconds.values()) if manifest else None,
    )


_FIELDS = tuple(
    name
    for name in AnswerMetrics.model_fields
    if name not in ("values", "unsupported", "language", "judge_note", "gold_place", "not_measured")
)


def _number(metrics: AnswerMetrics, field: str) -> float | None:
    value = getattr(metrics, field)
    return None if value is None else float(value)


def _operations(answers: Sequence[Answer], prices: Prices | None, right: float | None) -> OperationsMeasured | None:
    told = operations(answers)
    if told is None:
        return None
    cost = cost_of_one(answers, prices) if prices else None
    fields = {name: value for name, value in told._asdict().items() if name in OperationsMeasured.model_fields}
    return OperationsMeasured(
        **fields,
        cost_per_thousand=None if cost is None else 1000 * cost,
        cost_per_right=cost_per_right(cost, right),
    )


def _break_even(plan: Plan, tested: Sequence[AskedQuestion], prices: Prices | None) -> int | None:
    manifest = plan.manifests.get("ft")
    if not prices or not prices.hour or manifest is None:
        return None
    costs = {
        name: cost_of_one([a.answer for q in tested for a in q.answers if a.arm == name and a.answer], prices)
        for name in ("rag", "ft")
    }
    return break_even(sum(manifest.seconds.values()) / 3600 * prices.hour, costs["rag"], costs["ft"])
