"""The advice follows from the measurement and from what the user states, and every number in it is one of theirs."""

import itertools
from typing import Any

import pytest

from contracts.advice import Advice, Circumstances
from contracts.measurement import ArmMeasured, LeakageFound, Measurement, OperationsMeasured
from contracts.verdict import Outcome, ScoredItem
from services.evaluator.advice import advice_lines, advise
from services.evaluator.verdict import decide


def measurement(scores: dict[str, float], items: int = 400, **changes: Any) -> Measurement:
    """A run whose arms are right in these shares of the questions; two arms of one share are right in the same ones."""
    scored = [
        ScoredItem(item=f"q{n}", cluster=f"c{n}", arm=arm, score=float((n * 7919) % items < share * items))
        for n in range(items)
        for arm, share in scores.items()
    ]
    speeds = {"rag": 900.0, "ft": 300.0, "rag_ft": 950.0, "base": 280.0}
    arms = [
        ArmMeasured(
            arm=arm, answered=items, failed=0, means={"correct": share}, measured={"correct": items},
            training_seconds=3600.0 if "ft" in arm else None,
            operations=OperationsMeasured(
                total_ms_p50=speeds[arm], total_ms_p95=2 * speeds[arm], generate_ms_p50=speeds[arm], retrieve_ms_p50=0,
                queue_ms_p50=0, prompt_tokens=1, completion_tokens=1, tokens_per_second=None,
                cost_per_thousand=speeds[arm] / 100,
            ),
        )
        for arm, share in scores.items()
    ]  # fmt: skip
    fields = {
        "questions": items, "regimes": {}, "leakage": LeakageFound(checked=True, tested=items), "arms": arms,
        "verdict": decide(scored),
    }  # fmt: skip
    return Measurement(**fields | changes)


def text(advice: Advice) -> str:
    return "\n".join(advice_lines(advice, "ru"))


def test_the_better_arm_is_advised_with_its_lead() -> None:
    advice = advise(measurement({"rag": 0.8, "ft": 0.6, "base": 0.1}))
    assert (advice.choice, advice.arm) == ("rag", "rag")
    assert "RAG лучше, чем Fine-tuning, на 20,0 п. п." in text(advice)


@pytest.mark.parametrize(
    ("scores", "told", "choice"),
    [
        ({"rag": 0.6, "ft": 0.8}, {}, "ft"),
        ({"rag": 0.6, "ft": 0.8}, {"sources": True}, "rag"),
        ({"rag": 0.6, "ft": 0.8}, {"changes_per_month": 4}, "rag"),
        ({"rag": 0.6, "ft": 0.8}, {"changes_per_month": 4, "automated": True}, "ft"),
        ({"rag": 0.6, "ft": 0.8}, {"changes_per_month": 400, "automated": True}, "rag"),
        ({"rag": 0.8, "ft": 0.6}, {"max_latency_ms": 1000}, "ft"),
        ({"rag": 0.8, "ft": 0.6}, {"max_latency_ms": 100}, "not yet"),
        ({"rag": 0.4, "ft": 0.2}, {}, "not yet"),
        ({"rag": 0.4, "ft": 0.2}, {"least_right": 0.4}, "rag"),
        ({"rag": 0.6, "ft": 0.6, "rag_ft": 0.9}, {"sources": True}, "both"),
        ({"rag": 0.7, "base": 0.9}, {}, "neither"),
        ({"rag": 0.8, "ft": 0.8}, {}, "ft"),
        ({"rag": 0.8, "ft": 0.8}, {"joins": True}, "rag"),
        ({"rag": 0.8, "rag_ft": 0.8}, {"style": True}, "both"),
    ],
)
def test_what_is_stated_turns_the_advice(scores: dict[str, float], told: dict[str, Any], choice: str) -> None:
    items = 2000 if len(set(scores.values())) < len(scores) else 400
    assert advise(measurement(scores, items), Circumstances(**told)).choice == choice


def test_a_training_pays_from_a_volume_on() -> None:
    found = measurement({"rag": 0.8, "ft": 0.8}, 2000)
    few = advise(found, Circumstances(questions_per_month=1000), price_hour=10.0)
    many = advise(found, Circumstances(questions_per_month=10_000), price_hour=10.0)
    assert (few.choice, many.choice) == ("rag", "ft")  # 9 against 10 + 3; 90 against 10 + 30


def test_nothing_is_advised_of_what_cannot_be_told_apart_or_is_invalid() -> None:
    advice = advise(measurement({"rag": 0.80, "ft": 0.78}, 60))
    assert advice.choice == "not yet"
    assert "пока не различить" in text(advice)
    found = measurement({"rag": 0.9, "ft": 0.1})
    assert found.verdict
    invalid = found.model_copy(update={"verdict": found.verdict.model_copy(update={"outcome": Outcome.invalid})})
    assert advise(invalid, Circumstances(sources=True)).choice == "not yet"
    assert advise(measurement({"rag": 0.9, "ft": 0.1}, verdict=None, why="нет")).choice == "not yet"


def test_every_flip_is_true_and_every_number_stands_in_the_report() -> None:
    found = measurement({"rag": 0.8, "ft": 0.6, "base": 0.1})
    advice = advise(found)
    assert {flip.choice for flip in advice.flips} >= {"ft", "not yet"}
    slower = advise(found, Circumstances(max_latency_ms=1799))
    assert slower.choice == "ft"
    arms = {arm.arm: arm for arm in found.arms}
    for told in (Circumstances(changes_per_month=2), Circumstances(max_latency_ms=1000), Circumstances()):
        for reason in advise(found, told).reasons:
            if reason.figure and reason.figure.startswith("measurement.arms."):
                arm, *path = reason.figure.removeprefix("measurement.arms.").split(".")
                value: Any = arms[arm].model_dump()
                for name in path:
                    value = value[name]
                assert value == reason.value


def test_under_no_circumstances_does_it_break_or_advise_what_was_ruled_out() -> None:
    found = measurement({"rag": 0.8, "ft": 0.75, "rag_ft": 0.8, "base": 0.1})
    for sources, changes, automated, joins, style in itertools.product(*[[False, True]] * 5):
        told = Circumstances(
            sources=sources, changes_per_month=5.0 * changes, automated=automated, joins=joins, style=style
        )
        advice = advise(found, told, lang="en")
        assert not (sources and advice.arm in ("ft", "base"))
        assert not (changes and not automated and advice.arm == "ft")
        assert "Advice:" in next(advice_lines(advice, "en"))
