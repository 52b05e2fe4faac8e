"""What was measured: of one answer, of an arm, of a run."""

from typing import Literal

from pydantic import BaseModel

from contracts.advice import Advice
from contracts.verdict import Arm, Verdict

Why = Literal[
    "no_answer", "no_reference", "no_passages", "no_values", "nothing_to_check", "no_letters", "too_short",
    "no_encoder", "not_found",
]  # fmt: skip


class ValuesFound(BaseModel):
    """The reference's values in an answer, as they are written in the reference; see ``values.Compared``."""

    matched: list[str]
    missing: list[str]
    contradicted: list[str]
    foreign: list[str]


class AnswerMetrics(BaseModel):
    """What was measured of one answer. Shares are 0 to 1, ``chrf`` and ``rouge_l`` too, ``words`` is a number of words.

    What could not be measured is None, and ``not_measured`` tells by the field's name why: a failure is never a zero.
    docs/metrics.md has the source and the traps of each.
    """

    correct: float | None = None
    values: ValuesFound | None = None
    values_precision: float | None = None
    values_recall: float | None = None
    exact_match: float | None = None
    token_f1: float | None = None
    chrf: float | None = None
    rouge_l: float | None = None
    faithfulness: float | None = None
    unsupported: list[str] | None = None
    """The answer's values that no passage has."""
    copied: float | None = None
    abstained: bool | None = None
    abstention_right: bool | None = None
    language: Literal["ru", "en", "other"] | None = None
    russian_share: float | None = None
    words: int | None = None
    repetition: float | None = None
    bertscore: float | None = None
    """F1, not rescaled; None where no encoder was given."""
    gold_place: int | None = None
    """Place, from 1, of the question's own context among the passages; None where it is not there or not known."""
    not_measured: dict[str, Why] = {}


Regime = Literal["trained question", "new question, known context", "new context", "no context", "not known"]
"""What a question is to the training; ``not known`` where nobody knows what was trained on."""


class LeakedRow(BaseModel):
    """A test question that training or the index gives away; numbers are those of rows, or of passages."""

    row: int
    source: int
    kind: Literal["exact", "near duplicate", "rephrased", "index"]
    similarity: float


class LeakageFound(BaseModel):
    """What was found before anything was asked. ``checked`` is False where the training rows are not at hand."""

    checked: bool
    tested: int
    rows: list[LeakedRow] = []
    share: float | None = None
    invalid: bool = False
    reason: str | None = None
    """Why the verdict is INVALID, or why nothing could be checked."""


class OperationsMeasured(BaseModel):
    """Milliseconds as the generator timed them, tokens a mean answer, money in the currency of the prices."""

    total_ms_p50: float
    total_ms_p95: float
    generate_ms_p50: float
    retrieve_ms_p50: float
    queue_ms_p50: float
    prompt_tokens: float
    completion_tokens: float
    tokens_per_second: float | None
    cost_per_thousand: float | None = None
    cost_per_right: float | None = None


class ArmMeasured(BaseModel):
    """One arm over the questions that have a reference."""

    arm: Arm
    adapter: str | None = None
    answered: int
    failed: int
    means: dict[str, float]
    """Of each metric over the answers that it could be measured of."""
    measured: dict[str, int]
    """Over how many answers each mean is."""
    by_regime: dict[Regime, float] = {}
    """Mean ``correct``."""
    retrieval: dict[str, float] = {}
    """``contracts.ranking.figures`` of the questions whose own context is known."""
    operations: OperationsMeasured | None = None
    training_seconds: float | None = None


class Measurement(BaseModel):
    """All of it, and what follows. ``verdict`` is None where nothing could be compared, and ``why`` says why."""

    metric: str = "correct"
    """What the verdict compares."""
    questions: int
    """With a reference."""
    file: str | None = None
    """That the held-out rows are of."""
    regimes: dict[Regime, int]
    leakage: LeakageFound
    arms: list[ArmMeasured]
    verdict: Verdict | None = None
    why: str | None = None
    advice: Advice | None = None
    """Where nothing is known of the circumstances; ``asktwice advise`` is told them."""
    encoder: str | None = None
    """What BERTScore was computed with, and its layer."""
    break_even: int | None = None
    """Questions after which fine-tuning has paid for itself beside RAG; None where no prices are given, or never."""
