"""Which arm to ship: from what was measured and from what the user states of the circumstances."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.verdict import Arm

Choice = Literal["rag", "ft", "both", "neither", "not yet"]


class Circumstances(BaseModel):
    """What no measurement knows. The defaults ask for nothing but right answers."""

    model_config = ConfigDict(frozen=True)
    sources: bool = False
    """Whether answers must show where they come from."""
    changes_per_month: float = Field(default=0.0, ge=0)
    """How often facts change."""
    automated: bool = False
    """Whether training again is a process that runs by itself."""
    joins: bool = False
    """Whether answers need data from outside the questions' file, or join many facts."""
    style: bool = False
    """Whether terms and tone of one's own matter."""
    max_latency_ms: float | None = Field(default=None, gt=0)
    """What the slowest answers (the 95th percentile) may take."""
    least_right: float = Field(default=0.5, ge=0, le=1)
    """Mean score below which nothing is fit to be shipped."""
    questions_per_month: int | None = Field(default=None, ge=1)


class Reason(BaseModel):
    """One reason, in words and with the number of the report that it rests on, where it rests on one."""

    arm: Arm | None
    text: str
    figure: str | None = None
    """Where the number stands in results.json, such as ``measurement.arms.rag.operations.total_ms_p95``."""
    value: float | None = None


class Flip(BaseModel):
    """A change of the circumstances that would change the advice."""

    text: str
    choice: Choice
    arm: Arm | None


class Advice(BaseModel):
    choice: Choice
    arm: Arm | None
    """None with ``not yet``."""
    reasons: list[Reason]
    flips: list[Flip]
    circumstances: Circumstances
