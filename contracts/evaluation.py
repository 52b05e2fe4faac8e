"""Questions in, result.txt out."""

from collections.abc import Sequence
from datetime import datetime
from statistics import fmean, median
from typing import Literal, Self

from pydantic import BaseModel, Field, computed_field, model_validator

from contracts.generation import Answer, Mode, Question
from contracts.measurement import AnswerMetrics, Measurement, Probe, Regime
from contracts.retrieval import RowError
from contracts.wire import Body


class EvaluationQuestion(Body):
    """A question, with the reference answer and its context where they are known."""

    question: Question
    answer: str | None = None
    context: str | None = None


class EvaluateRequest(Body):
    """The questions to ask in every mode; strings or objects."""

    questions: list[Question | EvaluationQuestion] = Field(min_length=1, max_length=10_000)

    def items(self) -> list[EvaluationQuestion]:
        """Return the questions in one form."""
        return [EvaluationQuestion(question=q) if isinstance(q, str) else q for q in self.questions]


class ModeAnswer(BaseModel):
    """What one arm answered to one question: an answer or the reason why there is none, never both."""

    mode: Mode
    arm: str = ""
    """The mode's name, unless an adapter was named (``ft:<adapter>``) or it is a control (``oracle``)."""
    answer: Answer | None = None
    error: str | None = None
    metrics: AnswerMetrics | None = None
    """None where there is nothing to measure: no answer."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        self.arm = self.arm or self.mode.value
        return self


class AskedQuestion(BaseModel):
    question: EvaluationQuestion
    answers: list[ModeAnswer]
    row: int | None = None
    """Its number in the file that it comes from, from 1."""
    held_out: bool = False
    """Whether it only measures and is not shown in result.txt."""
    regime: Regime | None = None
    leaked: bool = False
    """Whether training or the index gives it away; then the verdict is not about it."""
    probe: Probe | None = None
    """What it is a probe of; then the verdict is not about it."""
    arms: list[str] | None = None
    """Which arms are asked; None is all."""
    passages: list[str] | None = None
    """What the arms that retrieve answer from, in place of what they would find."""
    stale: str | None = None
    """The number that was there before a fact was changed."""

    @property
    def measures(self) -> bool:
        """Whether the verdict is about it: it has a reference answer and is no probe."""
        return bool((self.question.answer or "").strip()) and not self.probe


class QuestionsOrigin(BaseModel):
    """Where the questions came from; for a table, what became of each of its rows."""

    kind: Literal["default", "request", "table"]
    file: str | None = None
    read: int | None = None
    rejected: int | None = None
    duplicates: int | None = None
    errors: list[RowError] = []
    trained_on: int | None = None
    """Rows that were left out because an adapter was trained on them."""


Preferred = Literal["rag", "ft", "tie"]


class Analysis(BaseModel):
    """The judge's text, or one line that says why there is none; and what it said to the sections in the other order.

    ``preferred`` and ``swapped_preferred`` are what the texts name as the better approach; absent where they name none.
    """

    model: str
    text: str | None = None
    error: str | None = None
    preferred: Preferred | None = None
    swapped_text: str | None = None
    swapped_error: str | None = None
    swapped_preferred: Preferred | None = None


class ArmCounts(BaseModel):
    """What one arm answered to the questions that are shown in result.txt; seconds are of all that are no probes."""

    arm: str
    asked: int
    given: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    sources: float | None
    """Passages an answer, on average; None where the arm does not retrieve."""
    seconds_median: float | None
    seconds_most: float | None


class EvaluationResult(BaseModel):
    """results.json: everything that result.txt shows, and what it was made from.

    ``profile``, ``device``, ``store`` and ``embedding`` are told by the services; absent where they did not tell.
    """

    schema_version: int = 1
    id: str
    created: datetime
    model: str
    quantization: Literal["nf4", "none"]
    adapter: str | None
    profile: str | None = None
    device: str | None = None
    memory_bytes: int | None = None
    """The most that the generator has held since its start, all arms together."""
    data_file: str
    store: str | None = None
    embedding: str | None
    origin: QuestionsOrigin
    concurrency: int
    """How many questions were in flight at most."""
    asked: list[AskedQuestion]
    arms: list[str] = ["rag", "ft"]
    lang: Literal["ru", "en"] = "ru"
    wanted: int = 0
    """Held-out rows that were asked for; there may be fewer."""
    measurement: Measurement | None = None
    """None where no question has a reference."""
    analysis: Analysis
    seconds: float

    @computed_field
    @property
    def counts(self) -> list[ArmCounts]:
        """Of each arm, in their order."""
        return [self._counts(arm) for arm in self.arms]

    def _counts(self, arm: str) -> ArmCounts:
        shown = [question for question in self.asked if not question.held_out]
        given = _given(shown, arm)
        seconds = [each.timings_ms.total / 1000 for each in _given([q for q in self.asked if not q.probe], arm)]
        retrieves = bool(given) and given[0].mode.retrieves
        return ArmCounts(
            arm=arm,
            asked=len(shown),
            given=len(given),
            failed=len(shown) - len(given),
            prompt_tokens=sum(each.usage.prompt_tokens for each in given),
            completion_tokens=sum(each.usage.completion_tokens for each in given),
            sources=fmean(len(each.sources) for each in given) if retrieves else None,
            seconds_median=median(seconds) if seconds else None,
            seconds_most=max(seconds, default=None),
        )


def _given(asked: Sequence[AskedQuestion], arm: str) -> list[Answer]:
    return [each.answer for question in asked for each in question.answers if each.arm == arm and each.answer]


JobState = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]


class Job(BaseModel):
    """An evaluation that runs by itself. ``result`` is the path of result.txt's route once it is there."""

    id: str
    state: JobState
    done: int
    total: int
    """Answers."""
    graded: int = 0
    to_grade: int = 0
    """Replies of the judge, as far as it is known how many are needed."""
    result: str | None = None
    error: str | None = None
