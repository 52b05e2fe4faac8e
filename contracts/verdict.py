"""What a verdict is made of: scores in, contrasts of arms and one outcome out."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
Arm = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class ScoredItem(BaseModel):
    """How good one arm's answer to one question was. ``score`` is 0 to 1; None where it could not be measured."""

    model_config = ConfigDict(frozen=True)
    item: Name
    cluster: Name
    """Questions of one cluster hang together, as those on one context do; where nothing is known, the item."""
    arm: Arm
    score: float | None = Field(ge=0, le=1, allow_inf_nan=False)


class VerdictSettings(BaseModel):
    """What is fixed before the run, and kept with its result."""

    model_config = ConfigDict(frozen=True)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """How often at most a difference may be claimed where there is none, over all contrasts together."""
    margin: float = Field(default=0.05, gt=0, lt=0.5)
    """Differences up to this are of no practical importance, so arms that surely are this close are equivalent."""
    power: float = Field(default=0.8, gt=0.5, lt=1)
    """The detectable difference is the one that a run like this finds this often."""
    min_clusters: int = Field(default=10, ge=3)
    """Below so many, intervals promise more than they hold: nothing is claimed."""
    max_dropped: float = Field(default=0.3, ge=0, le=1)
    """Where a larger share of the questions has no pair, nothing is claimed: what fails is not drawn by lot."""
    bias_allowance: float = Field(default=0.0, ge=0, lt=0.5)
    """How much a judge without human labels may favour an arm: differences up to this are not claimed."""
    seed: int = 0
    """Of the sign flips."""


class Outcome(StrEnum):
    """What can be said of the arms."""

    better = "BETTER"
    equivalent = "EQUIVALENT"
    not_enough_data = "NOT_ENOUGH_DATA"
    trade_off = "TRADE_OFF"
    invalid = "INVALID"


class Contrast(BaseModel):
    """Arm ``a`` minus arm ``b`` over the questions that both answered. Absent is what too few clusters do not allow."""

    a: Arm
    b: Arm
    difference: float | None
    low: float | None = None
    high: float | None = None
    """Of the interval that holds the true difference in 1 - alpha of all runs, for this contrast alone."""
    p: float | None = None
    """Two-sided, of no difference beyond the bias allowance."""
    p_holm: float | None = None
    p_sign_flip: float | None = None
    p_equivalent: float | None = None
    """Of a difference as large as the margin (two one-sided tests), adjusted for all contrasts as ``p_holm`` is."""
    items: int
    clusters: int
    dropped: int
    """Questions that one of the two has no score for."""
    design_effect: float | None = None
    """How many times the variance is that of unrelated questions."""
    wins: int
    losses: int
    ties: int
    detectable: float | None = None
    """The smallest difference that a run like this would find with the settings' power."""
    needed_items: int | None = None
    """Questions that would be needed to find a difference of the margin with that power."""
    more_items: int | None = None
    """How many of them are still to be asked."""
    outcome: Outcome
    """``BETTER`` is of ``a`` where the difference is positive, of ``b`` where it is negative."""


class ArmMean(BaseModel):
    """An arm by itself, over the questions that it has a score for."""

    arm: Arm
    mean: float | None
    low: float | None = None
    high: float | None = None
    items: int


class TradeOff(BaseModel):
    """On another measure another arm is better than the winner, by more than the margin."""

    measure: str
    arm: Arm
    contrast: Contrast


class Verdict(BaseModel):
    """What a run says. ``winner`` is there with BETTER and TRADE_OFF alone."""

    outcome: Outcome
    winner: Arm | None = None
    top: list[Arm] = []
    """Arms that no other is surely better than, the best mean first."""
    reasons: list[str] = []
    """Why it is INVALID, or why nothing can be claimed."""
    arms: list[ArmMean] = []
    contrasts: list[Contrast] = []
    trade_offs: list[TradeOff] = []
    settings: VerdictSettings = VerdictSettings()
