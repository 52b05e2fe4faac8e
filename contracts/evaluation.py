"""Questions in, result.txt out."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from contracts.generation import Answer, Mode, Question
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
    """What one mode answered to one question: an answer or the reason why there is none, never both."""

    mode: Mode
    answer: Answer | None = None
    error: str | None = None


class AskedQuestion(BaseModel):
    question: EvaluationQuestion
    answers: list[ModeAnswer]


class Analysis(BaseModel):
    """The judge's text, or one line that says why there is none."""

    model: str
    text: str | None = None
    error: str | None = None


class EvaluationResult(BaseModel):
    """results.json: everything that result.txt shows, and what it was made from."""

    schema_version: int = 1
    id: str
    created: datetime
    model: str
    quantization: Literal["nf4", "none"]
    adapter: str | None
    data_file: str
    store: str = "Qdrant"
    embedding: str | None
    asked: list[AskedQuestion]
    analysis: Analysis
    seconds: float


JobState = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]


class Job(BaseModel):
    """An evaluation that runs by itself. ``result`` is the path of result.txt's route once it is there."""

    id: str
    state: JobState
    done: int
    total: int
    result: str | None = None
    error: str | None = None
