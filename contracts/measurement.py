"""What was measured: of one answer, of an arm, of a run."""

from typing import Literal

from pydantic import BaseModel

from contracts.advice import Advice
from contracts.verdict import Arm, Verdict

Why = Literal[
    "no_answer", "no_reference", "no_passages", "no_values", "nothing_to_check", "no_letters", "too_short",
    "no_encoder", "not_found", "no_judge",
]  # fmt: skip


class ValuesFound(BaseModel):
    """The reference's values in an answer, as they are written in the reference; see ``values.Compared``."""

    matched: list[str]
    missing: list[str]
    contradicted: list[str]
    foreign: list[str]


class JudgeNote(BaseModel):
    """What a judge's grade of one answer was made from."""

    rationale: str
    marked: bool
    """Whether the answer seems to instruct its judge: look at it."""
    capped: bool
    """Whether only its beginning was graded."""
    quote_found: bool
    """Whether the evidence that the judge quotes stands in the answer."""


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
    judge: float | None = None
    """The judge's grade: 1, 0.5 or 0; None where no judge was asked, or it failed its examination, or this answer."""
    judge_note: JudgeNote | None = None
    gold_place: int | None = None
    """Place, from 1, of the question's own context among the passages; None where it is not there or not known."""
    not_measured: dict[str, Why] = {}


Regime = Literal["trained question", "new question, known context", "new context", "no context", "not known"]
"""What a question is to the training; ``not known`` where nobody knows what was trained on."""


Probe = Literal["trained", "changed", "unknown", "distractors", "general"]
"""``trained``: trained questions again; ``changed``: with a fact changed in the passages after the training;
``unknown``: what nobody can know; ``distractors``: the own context last, after passages of others; ``general``: general
knowledge, which base and fine-tuned model are asked for."""


class ProbeFound(BaseModel):
    """What one arm did in one probe. ``right`` counts whole right answers, of ``unknown`` abstentions."""

    probe: Probe
    arm: Arm
    asked: int
    answered: int
    """An answer that says nothing is one, and a wrong one; what failed is none."""
    silent: int = 0
    """Answers that say nothing."""
    right: int
    share: float | None
    low: float | None
    high: float | None
    """Wilson's 95% interval of the share."""
    stale: int | None = None
    """Of ``changed``: wrong answers that tell the fact as it was before."""


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


class JudgeCheck(BaseModel):
    """One question put to the judge. ``rate`` None: not measured, for ``reason``; no bound: told and not required."""

    name: str
    rate: float | None
    number: int
    """Of graded answers, or of pairs of grades."""
    left_out: int
    least: float | None = None
    most: float | None = None
    reason: str | None = None
    wrong: list[str] = []
    """Names of the first items that went wrong."""

    @property
    def passed(self) -> bool | None:
        """None where nothing is required."""
        if self.least is None:
            return None
        if self.rate is None:
            return False
        return self.rate >= self.least and (self.most is None or self.rate <= self.most)


class PreferenceFound(BaseModel):
    """Which of two arms the judge prefers, asked in both orders; where they disagree it is a tie."""

    criterion: Literal["tone", "persuasion"]
    a: Arm
    b: Arm
    wins_a: int
    wins_b: int
    ties: int
    left_out: int = 0
    """Pairs that the judge gave no usable choice for."""


class JudgeFound(BaseModel):
    """What became of the judge in a run. Its grades make the verdict only where it ``counts``."""

    model: str
    served: dict[str, int]
    """What the server said that it is, by replies: more than one means that the model changed in the run."""
    checks: list[JudgeCheck]
    passed: bool
    """Its examination."""
    reason: str | None = None
    """Why its grades do not count: it failed, or graded too few answers."""
    planted: int = 0
    """Answers of known grade that it was examined on."""
    graded: int = 0
    ungraded: int = 0
    left_out: dict[str, int] = {}
    """Those by why."""
    mismatches: float | None = None
    """Share of the grades whose verdict is not the judge's own."""
    marked: int = 0
    """Answers that seem to instruct the judge."""
    preferences: list[PreferenceFound] = []
    preferences_reason: str | None = None
    """Why there are none."""
    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    """In the currency of the prices; None where these are not known."""

    @property
    def counts(self) -> bool:
        """Whether the verdict is made of its grades."""
        return self.passed and self.reason is None


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

    metric: Literal["correct", "judge"] = "correct"
    """What the verdict compares: values found offline, or the grades of a judge that passed its examination."""
    judge: JudgeFound | None = None
    """None where no grades were asked for."""
    questions: int
    """With a reference."""
    file: str | None = None
    """That the held-out rows are of."""
    regimes: dict[Regime, int]
    leakage: LeakageFound
    arms: list[ArmMeasured]
    verdict: Verdict | None = None
    outweighed_at: float | None = None
    """How much milder to the winner than to the others a judge would have to be for it not to win, 0 to 0.5; None where
    no judge decided, nobody won, or half of the scale would not do."""
    why: str | None = None
    advice: Advice | None = None
    """Where nothing is known of the circumstances; ``asktwice advise`` is told them."""
    probes: list[ProbeFound] = []
    """Beside the verdict; none where they were not asked for."""
    encoder: str | None = None
    """What BERTScore was computed with, and its layer."""
    break_even: int | None = None
    """Questions after which fine-tuning has paid for itself beside RAG; None where no prices are given, or never."""
