"""Grades by people: up to a hundred answers that somebody judged blind, and how far a judge's grades agree with them.

Agreement and Cohen's kappa (Cohen, "A coefficient of agreement for nominal scales", 1960) say how good the judge is;
the sensitivity and specificity of each arm say whether it is as good for all, which is what a comparison stands on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from contracts.errors import InvalidInput
from contracts.table import parse_table, read_bytes

MAX_LABELS = 100
LABELS: dict[str, float] = {
    **{"1": 1.0, "1.0": 1.0, "correct": 1.0, "верно": 1.0, "да": 1.0},
    **{"0.5": 0.5, "0,5": 0.5, "partial": 0.5, "частично": 0.5},
    **{"0": 0.0, "0.0": 0.0, "incorrect": 0.0, "неверно": 0.0, "нет": 0.0},
}

Labels = Mapping[tuple[str, str], float]
"""By item and arm: 1 correct, 0.5 partly, 0 incorrect."""


class ArmAgreement(BaseModel):
    """Of one arm's answers. ``sensitivity``: of those that people call correct, the share that the judge does, too;
    ``specificity``: of the others, the share that the judge does not call correct. None where there are none."""

    arm: str
    labels: int
    agreement: float
    sensitivity: float | None
    specificity: float | None


class Agreement(BaseModel):
    """``kappa`` is None where people and judge give one and the same grade throughout: chance then explains all."""

    labels: int
    unmatched: int
    """Labels of answers that the judge has not graded."""
    agreement: float | None
    kappa: float | None
    arms: list[ArmAgreement]


def read_labels(path: Path, codes: Mapping[str, tuple[str, str]] | None = None) -> dict[tuple[str, str], float]:
    """Read a CSV with the columns item, arm and label, where label is 1, 0.5 or 0, or the word for it.

    Args:
        path: of the CSV; with ``codes`` it may have the column answer_id in place of item and arm, and rows that
            nobody has labelled yet.
        codes: item and arm by answer_id.

    Raises:
        InvalidInput: the file cannot be read, a label is unknown or stands twice, or there are over ``MAX_LABELS``.
    """
    content = read_bytes(path)
    try:
        table = parse_table(content, path.name, ("answer_id",), ("label",)) if codes else None
    except InvalidInput:  # it has no such column
        table = None
    blind = table is not None
    table = table or parse_table(content, path.name, ("item", "arm", "label"))
    if table.rejected:
        raise InvalidInput(f"{path.name}, row {table.errors[0].row}: {table.errors[0].reason}.")
    labels: dict[tuple[str, str], float] = {}
    for row in table.rows:
        label = row.cells.get("label", "").strip().casefold()
        if blind and not label:
            continue
        if blind and row.cells["answer_id"] not in (codes or {}):
            raise InvalidInput(f"{path.name}, row {row.number}: the run has no answer {row.cells['answer_id'][:40]!r}.")
        answer = (codes or {})[row.cells["answer_id"]] if blind else (row.cells["item"], row.cells["arm"])
        if label not in LABELS:
            raise InvalidInput(f"{path.name}, row {row.number}: the label {label[:40]!r} is none of 1, 0.5 and 0.")
        if answer in labels:
            raise InvalidInput(
                f"{path.name}, row {row.number}: item {answer[0]!r} of {answer[1]!r} has a label already."
            )
        labels[answer] = LABELS[label]
    if not labels:
        raise InvalidInput(f"{path.name} has no label yet. Write 1, 0.5 or 0 into the column label.")
    if len(labels) > MAX_LABELS:
        raise InvalidInput(f"{path.name} has {len(labels)} labels; take {MAX_LABELS} of them, drawn by chance.")
    return labels


def agreement(labels: Labels, scores: Labels) -> Agreement:
    """Compare people's labels with a judge's scores.

    Args:
        labels: people's.
        scores: the judge's, of the same answers and any others.
    """
    both = {answer: (label, scores[answer]) for answer, label in labels.items() if answer in scores}
    pairs = list(both.values())
    arms = sorted({arm for _, arm in both})
    return Agreement(
        labels=len(pairs),
        unmatched=len(labels) - len(pairs),
        agreement=_agreement(pairs) if pairs else None,
        kappa=kappa(pairs) if pairs else None,
        arms=[_arm(arm, [pair for (_, of), pair in both.items() if of == arm]) for arm in arms],
    )


def kappa(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Cohen's kappa of two raters, at most 1; None where both give one grade alone."""
    chance = (
        sum(
            sum(one == grade for one, _ in pairs) * sum(other == grade for _, other in pairs)
            for grade in {grade for pair in pairs for grade in pair}
        )
        / len(pairs) ** 2
    )
    return (_agreement(pairs) - chance) / (1 - chance) if chance < 1 else None


def _agreement(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(one == other for one, other in pairs) / len(pairs)


def _arm(arm: str, pairs: Sequence[tuple[float, float]]) -> ArmAgreement:
    right = [score == 1 for label, score in pairs if label == 1]
    wrong = [score != 1 for label, score in pairs if label != 1]
    return ArmAgreement(
        arm=arm,
        labels=len(pairs),
        agreement=_agreement(pairs),
        sensitivity=sum(right) / len(right) if right else None,
        specificity=sum(wrong) / len(wrong) if wrong else None,
    )
