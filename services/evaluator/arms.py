"""What is compared: modes, adapters, and two controls that say how much of an answer is the retriever's doing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from contracts.errors import InvalidInput
from contracts.evaluation import AskedQuestion
from contracts.generation import AdapterId, Mode

DEFAULT = ("rag", "ft")
MAX_ARMS = 12
Given = Literal["own", "other"]
CONTROLS: dict[str, Given] = {"oracle": "own", "shuffled": "other"}
"""``oracle`` answers from the question's own context, ``shuffled`` from another question's; both with the base."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer. ``given``: whose context stands in the place of what would be retrieved."""

    name: str
    mode: Mode
    adapter: str | None = None
    given: Given | None = None


def parse_arms(names: Sequence[str]) -> tuple[Arm, ...]:
    """Return the arms of these names: a mode, ``ft:<adapter>``, ``rag_ft:<adapter>``, ``oracle`` or ``shuffled``.

    Raises:
        InvalidInput: a name is none of these, stands twice, or there are more than ``MAX_ARMS``.
    """
    names = [name.strip() for name in names if name.strip()]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidInput(f"modes: {twice[:100]} stands twice.")
    if not 1 <= len(names) <= MAX_ARMS:
        raise InvalidInput(f"modes: name 1 to {MAX_ARMS}, such as base,rag,ft.")
    return tuple(map(_parse, names))


def passage_for(arm: Arm, asked: Sequence[AskedQuestion], index: int) -> str | None:
    """Return the text that a control answers this question from; None where there is none.

    The other question's context is the next different one in the list, so that a run can be repeated.
    """
    own = (asked[index].question.context or "").strip()
    if arm.given == "own":
        return own or None
    around = (asked[(index + step) % len(asked)] for step in range(1, len(asked)))
    others = (each.question.context for each in around if not each.probe)
    return next((text.strip() for text in others if text and text.strip() and text.strip() != own), None)


def _parse(name: str) -> Arm:
    if given := CONTROLS.get(name):
        return Arm(name, Mode.rag, given=given)
    head, colon, adapter = name.partition(":")
    try:
        mode = Mode(head)
        if colon and not mode.tuned:
            raise ValueError("no adapter answers in it")
        return Arm(name, mode, TypeAdapter(AdapterId).validate_python(adapter) if colon else None)
    except (ValueError, ValidationError) as error:
        known = ", ".join([*Mode, "ft:ADAPTER", "rag_ft:ADAPTER", *CONTROLS])
        raise InvalidInput(f"modes: {name[:100]!r} is none of {known}.") from error
