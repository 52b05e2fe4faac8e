"""What a run will ask, fixed before it begins: the questions that are shown, the rows that measure, the arms.

The rows that measure are those that the adapters' manifests say were not trained on.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from contracts.artifacts import AdapterManifest, Home, published
from contracts.dataset import read_dataset
from contracts.errors import AskTwiceError, InvalidInput
from contracts.evaluation import AskedQuestion, EvaluationQuestion, QuestionsOrigin
from contracts.generation import AdapterInfo, AskRequest
from contracts.groups import normalized
from contracts.table import Row
from contracts.verdict import VerdictSettings
from services.evaluator.arms import Arm
from services.evaluator.questions import Questions, Readings
from services.evaluator.wording import Language

MAX_HELD_OUT = 5000
ALLOWANCE = 0.05
"""How much a judge that no label corrects may favour an arm: differences up to this are not claimed by its grades."""
log = logging.getLogger("asktwice")


@dataclass(slots=True)
class Plan:
    """``asked`` holds every question once, those that are shown first. ``train`` is what is known of the training rows,
    ``unknown`` names the arms of which nothing is."""

    asked: list[AskedQuestion]
    origin: QuestionsOrigin
    arms: tuple[Arm, ...]
    train: list[Row]
    verdict: VerdictSettings
    unknown: list[str] = field(default_factory=list)
    lang: Language = "ru"
    manifests: dict[str, AdapterManifest] = field(default_factory=dict)
    """Of the adapters that answer, by arm."""
    measured_file: str | None = None
    """The data file that the held-out rows are of."""
    grade: bool = False
    """Whether a judge grades the answers."""
    served: dict[str, Any] = field(default_factory=dict)
    """What generator and index say of themselves, as far as they did."""
    upload: Annotated[bytes, Field(exclude=True)] = b""
    """The table that the questions came in, as it came: a repeated run must know it again as what was trained on."""
    wanted: int = 0
    """Rows of the data file that were asked for to measure on; there may be fewer."""

    @property
    def shown(self) -> list[EvaluationQuestion]:
        return [each.question for each in self.asked if not each.held_out]

    @property
    def total(self) -> int:
        return sum(len(self.asked_of(each)) for each in self.asked)

    def asked_of(self, question: AskedQuestion) -> list[Arm]:
        """Return the arms that are asked a question."""
        return [arm for arm in self.arms if question.arms is None or arm.name in question.arms]

    def frozen(self) -> dict[str, object]:
        """Return what is written down before the run, so that nothing can be chosen after it."""
        questions = json.dumps([each.model_dump(mode="json") for each in self.asked], ensure_ascii=False)
        return {
            "schema_version": 1,
            "arms": [arm.name for arm in self.arms],
            "adapters": {arm.name: arm.adapter for arm in self.arms if arm.adapter},
            "greedy": True,
            "top_k": AskRequest.model_fields["top_k"].default,
            "served": self.served,
            "asktwice": version("asktwice"),
            "lang": self.lang,
            "origin": self.origin.model_dump(mode="json"),
            "shown": sum(not each.held_out for each in self.asked),
            "held_out": sum(each.held_out and not each.probe for each in self.asked),
            "probes": dict(Counter(each.probe for each in self.asked if each.probe)),
            "held_out_file": self.measured_file,
            "questions_sha256": hashlib.sha256(questions.encode("utf-8", "replace")).hexdigest(),
            "trained_rows": len(self.train),
            "training_unknown": self.unknown,
            "data_sha256": {name: manifest.data.sha256 for name, manifest in self.manifests.items()},
            "metric": "the judge's grades if it passes its examination, else correct" if self.grade else "correct",
            "verdict": self.verdict.model_dump(mode="json"),
            "judge_allowance": ALLOWANCE if self.grade else None,
        }


def make_plan(
    questions: Questions,
    arms: Sequence[Arm],
    served: Sequence[AdapterInfo],
    *,
    home: Home,
    data: Path,
    measure: int = 0,
    lang: Language = "ru",
    grade: bool = False,
    settings: VerdictSettings | None = None,
) -> Plan:
    """Choose what is asked. Blocks: it reads the data file.

    A table of questions that is the file an adapter was trained on is asked for its test rows alone.

    Args:
        questions: as they came.
        arms: as they were named; those without an adapter get the newest one for their mode.
        served: the generator's adapters, newest first.
        home: whose manifests tell what was trained on.
        data: the file that the server was given.
        measure: how many rows of ``data`` that were not trained on are asked beside the questions.

    Raises:
        InvalidInput: a control has no context to answer from, or the data file is not the one that was trained on.
    """
    arms = tuple(_with_adapter(arm, served) for arm in arms)
    manifests = _manifests(home, arms)
    measures = bool(measure) or any(question.answer for question in questions.items)
    data_readings = _read(data, _stamp(data)) if measures and (manifests or measure) else {}
    asked = [
        AskedQuestion(question=question, answers=[], row=row)
        for question, row in zip(questions.items, questions.rows, strict=True)
    ]
    origin = questions.origin
    if kept := _held_out(questions.readings, manifests):  # where all were trained on, the search for leaks says so
        left = [each for each in asked if each.row in kept]
        origin = origin.model_copy(update={"trained_on": len(asked) - len(left)})
        asked = left
    if measure:
        asked += _rows_to_measure(data, data_readings, manifests, measure, asked)
    train, unknown = _trained(arms, manifests, data_readings | questions.readings)
    plan = Plan(
        asked=asked,
        origin=origin,
        arms=arms,
        train=train,
        unknown=unknown,
        verdict=settings or VerdictSettings(),
        lang=lang,
        manifests=manifests,
        measured_file=data.name if measure else origin.file if origin.kind == "table" else None,
        grade=grade,
        wanted=measure,
        upload=questions.upload,
    )
    if any(arm.given for arm in arms) and not any((each.question.context or "").strip() for each in asked):
        raise InvalidInput("modes: oracle and shuffled need questions with a context: a CSV with that column.")
    return plan


def _with_adapter(arm: Arm, served: Sequence[AdapterInfo]) -> Arm:
    if not arm.mode.tuned or arm.adapter:
        return arm
    fitting = (info.id for info in served if arm.mode in info.modes and info.state != "refused")
    return replace(arm, adapter=next(fitting, None))


def _manifests(home: Home, arms: Sequence[Arm]) -> dict[str, AdapterManifest]:
    found: dict[str, AdapterManifest] = {}
    wanted = {arm.adapter for arm in arms if arm.adapter}
    if wanted:
        known = {
            m.id: m for m in (*published(home.adapters, AdapterManifest), *published(home.checkpoints, AdapterManifest))
        }
        found = {arm.name: known[arm.adapter] for arm in arms if arm.adapter in known}
    return found


def _stamp(data: Path) -> tuple[int, int]:
    """Return what changes when a file does."""
    try:
        told = data.stat()
    except OSError:
        return 0, 0
    return told.st_mtime_ns, told.st_size


@lru_cache(maxsize=2)
def _read(data: Path, stamp: tuple[int, int]) -> Readings:
    """Return the data file by its digest, in both ways that a training reads it: rows without a context may train."""
    found: Readings = {}
    for required in (("question", "answer"), ("question", "answer", "context")):
        try:
            table = read_dataset(data, required, ("context",) if len(required) == 2 else ())
        except (AskTwiceError, ImportError) as error:  # of what reads Parquet
            log.warning("what was trained on is not known from %s: %s", data.name, error)
            continue
        found.setdefault(table.sha256, table)
    return found


def _trained(
    arms: Sequence[Arm], manifests: dict[str, AdapterManifest], readings: Readings
) -> tuple[list[Row], list[str]]:
    """Return the rows that an adapter was trained on or chosen by, and the arms of which nobody knows them."""
    rows: dict[tuple[str, int], Row] = {}
    unknown = []
    for arm in arms:
        if not arm.mode.tuned:
            continue
        manifest = manifests.get(arm.name)
        table = readings.get(manifest.data.sha256) if manifest else None
        if manifest is None or table is None:
            unknown.append(arm.name)
            continue
        trained = {*manifest.data.train_rows, *manifest.data.dev_rows}
        rows |= {(row.question, row.number): row for row in table.rows if row.number in trained}
    return list(rows.values()), unknown


def _held_out(readings: Readings, manifests: dict[str, AdapterManifest]) -> set[int]:
    """Return the rows of a file that none of the adapters saw that were trained on it, however each of them read it.

    Nothing where none was trained on it. Rows have the same numbers in all readings.
    """
    seen = [set(manifest.data.test_rows) for manifest in manifests.values() if manifest.data.sha256 in readings]
    return set.intersection(*seen) if seen else set()


def _rows_to_measure(
    data: Path, readings: Readings, manifests: dict[str, AdapterManifest], most: int, asked: Sequence[AskedQuestion]
) -> list[AskedQuestion]:
    """Return up to so many rows that were not trained on and are not asked already, the same ones each time.

    Raises:
        InvalidInput: the file cannot be read, or an adapter was trained on another one, so that nobody knows its rows.
    """
    if not readings:
        raise InvalidInput(f"measure: {data} cannot be read, so there are no rows to measure on.")
    for arm, manifest in manifests.items():
        if manifest.data.sha256 not in readings:
            raise InvalidInput(
                f"measure: {arm} was trained on {manifest.data.file} as it was then, and {data.name} is another file or"
                " has changed since. Train again, or measure on a file of new questions with --data."
            )
    table = max(readings.values(), key=lambda table: len(table.rows))
    held_out = _held_out(readings, manifests) if manifests else {row.number for row in table.rows}
    there = {normalized(each.question.question) for each in asked}
    rows = []
    for row in sorted(table.rows, key=lambda row: hashlib.sha256(normalized(row.question).encode()).digest()):
        if row.number in held_out and row.answer and normalized(row.question) not in there:
            there.add(normalized(row.question))
            rows.append(row)
    return [
        AskedQuestion(
            question=EvaluationQuestion(question=row.question, answer=row.answer or None, context=row.context or None),
            answers=[],
            row=row.number,
            held_out=True,
        )
        for row in sorted(rows[:most], key=lambda row: row.number)
    ]
