"""Whole short texts with slots, as people write them: JSON lines in the folder ``notices``.

Where the sentences of a domain tell one fact each, these are dense: several values of one sort in a sentence, ellipsis,
pronouns, asides. Each slot has its own questions, and each text has questions that it does not answer.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "notices"


@dataclass(frozen=True, slots=True)
class Slot:
    """A value that is drawn.

    Attributes:
        sort: what draws it, a method of :class:`~trainer.pretrain.words.Words`, or "v" for one of ``values``.
        values: the alternatives of a "v".
        unit: the three forms of what a "count" counts.
        asked: questions that this value alone answers.
    """

    sort: str
    values: tuple[str, ...]
    unit: tuple[str, ...]
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Agreed:
    """A yes/no question that the sentence with this index answers."""

    sentence: int
    answer: str
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opposite:
    """What can be so or not so.

    Attributes:
        yes, no: sentences that say that it is so, that it is not.
        asked: questions with the answer yes where it is so.
        inverted: questions with the answer no where it is so.
    """

    yes: tuple[str, ...]
    no: tuple[str, ...]
    asked: tuple[str, ...]
    inverted: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Notice:
    """One text: its sentences, its slots by name, its yes/no questions, the questions that it does not answer.

    The first ``fixed`` sentences are never left out.
    """

    field: str
    english: bool
    sentences: tuple[str, ...]
    slots: dict[str, Slot]
    agreed: tuple[Agreed, ...]
    missing: tuple[str, ...]
    fixed: int = 0


def read_slots(facts: list[dict[str, Any]]) -> dict[str, Slot]:
    """Read the slots by name."""
    return {
        fact["slot"]: Slot(
            re.sub(r"\d+$", "", fact["slot"]),
            tuple(fact.get("values", ())),
            tuple(fact.get("unit", ())),
            tuple(fact["q"]),
        )
        for fact in facts
    }


def read_agreed(raw: dict[str, Any]) -> Agreed:
    """Read a yes/no question."""
    return Agreed(raw["sentence"], raw["answer"], tuple(raw["q"]))


def read_notice(raw: dict[str, Any], field: str) -> Notice:
    """Read a text of this field of life."""
    return Notice(
        field,
        field.endswith("(en)"),
        tuple(raw["sentences"]),
        read_slots(raw["facts"]),
        tuple(read_agreed(yes) for yes in raw.get("yes", ())),
        tuple(raw["missing"]),
    )


@cache
def notices(held_out: bool, english: bool) -> tuple[Notice, ...]:
    """The texts of the training, or those that are kept for the evaluation: every eighth of a file."""
    every = [
        (at % 8 == 7, read_notice(raw, raw["field"]))
        for file in sorted(FOLDER.glob("*.jsonl"))
        for at, raw in enumerate(map(json.loads, file.read_text(encoding="utf-8").splitlines()))
    ]
    return tuple(notice for kept, notice in every if kept == held_out and notice.english == english)


@cache
def opposites(held_out: bool) -> tuple[Opposite, ...]:
    """The statements of the training, or those that are kept for the evaluation: every eighth."""
    lines = (FOLDER.parent / "opposites.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [json.loads(line) for at, line in enumerate(lines) if (at % 8 == 7) == held_out]
    return tuple(Opposite(*(tuple(raw[key]) for key in ("yes", "no", "asked", "inverted"))) for raw in kept)
