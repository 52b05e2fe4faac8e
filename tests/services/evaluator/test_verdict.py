"""The verdict on scores: what it may claim, what it must not, and that its arithmetic is that of the textbooks."""

import random
import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from contracts.errors import InvalidInput
from contracts.verdict import Outcome, ScoredItem, Verdict, VerdictSettings
from services.evaluator.statistics import FEW, clustered_mean, corrected_difference, holm, sign_flip
from services.evaluator.verdict import decide
from services.evaluator.wording import Language, verdict_lines

Chance = Callable[[str], float]


def world(chances: dict[str, float], items: int = 200, seed: int = 0, size: int = 5) -> list[ScoredItem]:
    drawn = random.Random(seed)
    return [
        ScoredItem(item=f"q{n}", cluster=f"c{n // size}", arm=arm, score=float(drawn.random() < chance))
        for n in range(items)
        for arm, chance in chances.items()
    ]


def test_the_better_arm_is_named_and_so_is_how_far_it_leads() -> None:
    verdict = decide(world({"rag": 0.8, "ft": 0.3, "base": 0.05}, 400))
    assert (verdict.outcome, verdict.winner, verdict.top) == (Outcome.better, "rag", ["rag"])
    contrast = next(c for c in verdict.contrasts if {c.a, c.b} == {"rag", "ft"})
    assert contrast.low is not None
    assert contrast.high is not None
    assert contrast.low < (0.5 if contrast.a == "rag" else -0.5) < contrast.high
    assert contrast.wins + contrast.losses + contrast.ties == contrast.items == 400
    assert [mean.arm for mean in verdict.arms] == ["rag", "ft", "base"]


def test_of_two_that_lead_together_none_is_named_and_the_third_is_left_behind() -> None:
    verdict = decide(world({"rag": 0.8, "rag_ft": 0.8, "base": 0.1}, 400))
    assert verdict.outcome is Outcome.not_enough_data
    assert verdict.winner is None
    assert set(verdict.top) == {"rag", "rag_ft"}


def test_the_same_answers_are_equivalent_once_there_are_enough_and_not_before() -> None:
    same = {"a": 0.7, "b": 0.7}

    def twins(items: int) -> list[ScoredItem]:
        made = world({"a": 0.7}, items)
        return made + [each.model_copy(update={"arm": "b"}) for each in made]

    assert decide(twins(2000)).outcome is Outcome.equivalent
    assert decide(twins(50)).outcome is Outcome.not_enough_data
    named = sum(decide(world(same, 60, seed)).winner is not None for seed in range(100))
    assert named <= 10  # 5 are expected of a true 5%; more than 10 in 3 of 100 tries of it
    verdict = decide(world(same, 60, seed=1))
    assert verdict.outcome is Outcome.not_enough_data
    [contrast] = verdict.contrasts
    assert contrast.detectable is not None
    assert contrast.needed_items is not None
    assert contrast.detectable > 0.1
    assert contrast.needed_items > 60


def test_nothing_is_claimed_of_fewer_than_ten_clusters() -> None:
    verdict = decide(world({"rag": 1.0, "ft": 0.0}, 45))
    assert verdict.outcome is Outcome.not_enough_data
    assert "9 clusters" in verdict.reasons[0]
    assert verdict.contrasts[0].low is None
    assert verdict.contrasts[0].p is None
    assert verdict.contrasts[0].difference == 1.0 or verdict.contrasts[0].difference == -1.0
    assert decide(world({"rag": 1.0, "ft": 0.0}, 50)).winner == "rag"


def test_what_is_invalid_is_so_whatever_the_scores_say() -> None:
    verdict = decide(world({"rag": 0.9, "ft": 0.1}), invalid=["3 test questions were trained on"])
    assert (verdict.outcome, verdict.winner) == (Outcome.invalid, None)
    assert "3 test questions were trained on" in next(iter(verdict_lines(verdict)))


def test_a_winner_that_loses_elsewhere_is_a_trade_off() -> None:
    primary = world({"rag": 0.9, "ft": 0.5})
    verdict = decide(primary, secondary={"tone": world({"rag": 0.2, "ft": 0.9}, seed=1)})
    assert (verdict.outcome, verdict.winner) == (Outcome.trade_off, "rag")
    assert [(each.measure, each.arm) for each in verdict.trade_offs] == [("tone", "ft")]
    assert decide(primary, secondary={"tone": world({"rag": 0.9, "ft": 0.2}, seed=1)}).outcome is Outcome.better


def test_order_and_names_change_nothing_but_the_sign() -> None:
    items = world({"rag": 0.7, "ft": 0.5})
    verdict = decide(items)
    shuffled = list(items)
    random.Random(1).shuffle(shuffled)
    assert decide(shuffled) == verdict
    swapped = decide([each.model_copy(update={"arm": {"rag": "ft", "ft": "rag"}[each.arm]}) for each in items])
    [there], [here] = verdict.contrasts, swapped.contrasts
    assert there.difference == pytest.approx(-(here.difference or 0))
    assert (there.p, there.p_sign_flip) == (pytest.approx(here.p), here.p_sign_flip)
    assert (swapped.winner, verdict.winner) in {("ft", "rag"), ("rag", "ft"), (None, None)}


def test_missing_scores_are_left_out_in_pairs_and_counted() -> None:
    items = world({"rag": 0.9, "ft": 0.2}, 100)
    items = [each.model_copy(update={"score": None}) if n % 10 == 0 else each for n, each in enumerate(items)]
    [contrast] = decide(items).contrasts
    assert contrast.dropped == 20
    assert contrast.items == 80
    nothing = [each.model_copy(update={"score": None}) if each.arm == "ft" else each for each in items]
    verdict = decide(nothing)
    assert verdict.contrasts[0].difference is None
    assert next(mean for mean in verdict.arms if mean.arm == "ft").mean is None
    assert any("не измерено" in line for line in verdict_lines(verdict))


def test_impossible_tables_are_refused() -> None:
    items = world({"rag": 0.9, "ft": 0.2}, 20)
    with pytest.raises(InvalidInput, match="one arm alone"):
        decide([each for each in items if each.arm == "ft"])
    with pytest.raises(InvalidInput, match="two scores for the question q0"):
        decide([*items, items[0]])
    with pytest.raises(InvalidInput, match="in two clusters"):
        decide([*items, ScoredItem(item="q0", cluster="other", arm="base", score=1)])


def test_with_clusters_of_one_size_it_is_the_t_test_of_their_means() -> None:
    drawn = np.random.default_rng(0)
    differences = drawn.choice([-1.0, 0.0, 1.0], (400, 5), p=[0.2, 0.4, 0.4])
    sums = differences.sum(1)
    estimate = clustered_mean(sums, np.full(400, 5.0), np.square(differences).sum())
    textbook = stats.ttest_1samp(differences.mean(1), 0).confidence_interval()
    assert estimate.interval(0.05) == pytest.approx((textbook.low, textbook.high), abs=2e-4)
    assert float(estimate.df) == pytest.approx(399)
    assert float(sign_flip(sums, 0)) == pytest.approx(stats.ttest_1samp(sums, 0).pvalue, abs=0.01)


def test_uneven_clusters_have_fewer_degrees_of_freedom() -> None:
    sizes = np.array([1.0] * 30 + [60.0])
    assert float(clustered_mean(np.zeros(31), sizes, np.array(0.0)).df) < 5


def test_where_nothing_differs_the_interval_is_no_point() -> None:
    estimate = clustered_mean(np.zeros(10), np.full(10, 5.0), np.array(0.0))
    low, high = estimate.interval(0.05)
    assert low < -0.04
    assert high > 0.04
    sure = clustered_mean(np.full(10, 5.0), np.full(10, 5.0), np.array(50.0))
    assert float(sure.interval(0.05)[0]) > 0.8
    assert FEW < 50


def test_all_flips_of_few_clusters_are_exact() -> None:
    sums = np.array([1.0, 2.0, 3.0, 4.0])
    assert float(sign_flip(sums, 0)) == 2 / 16
    assert float(sign_flip(np.zeros(4), 0)) == 1.0


def test_holm_is_holms() -> None:
    assert holm(np.array([0.04, 0.01, 0.03])).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([])).tolist() == []


def test_labels_take_away_what_the_judge_favours() -> None:
    drawn = np.random.default_rng(3)
    truth = [(drawn.random(2000) < 0.5).astype(float) for _ in range(2)]
    lenient = (0.5, 0.0)  # how many of the wrong answers of each arm it passes
    judged = [np.where(each > 0.5, 1.0, drawn.random(2000) < pass_) for each, pass_ in zip(truth, lenient, strict=True)]
    labels = [np.where(np.arange(2000) < 400, each, np.nan) for each in truth]
    clusters = np.arange(2000) // 5
    naive = judged[0].mean() - judged[1].mean()
    assert naive > 0.15
    low, high = corrected_difference((judged[0], judged[1]), (labels[0], labels[1]), clusters).interval(0.05)
    assert low < truth[0].mean() - truth[1].mean() < high
    assert high < naive
    items = [
        ScoredItem(item=str(n), cluster=str(n // 5), arm=arm, score=float(scores[n]))
        for arm, scores in zip("ab", judged, strict=True)
        for n in range(2000)
    ]
    told = [
        ScoredItem(item=str(n), cluster=str(n // 5), arm=arm, score=float(scores[n]))
        for arm, scores in zip("ab", truth, strict=True)
        for n in range(400)
    ]
    assert decide(items).winner == "a"
    assert decide(items, labels=told).winner is None
    assert decide(items, VerdictSettings(bias_allowance=0.4)).winner is None


@pytest.mark.parametrize("language", ["ru", "en"])
@pytest.mark.parametrize("seed", range(8))
def test_no_sentence_claims_what_an_interval_does_not(language: Language, seed: int) -> None:
    drawn = random.Random(seed)
    chances = {arm: drawn.choice([0.1, 0.5, 0.55, 0.6, 0.9]) for arm in ("base", "ft", "rag")}
    verdict = decide(world(chances, drawn.choice([40, 60, 300]), seed))
    text = "\n".join(verdict_lines(verdict, language))
    claims = re.findall(r"лучше (\w+)|: (\w+) is better", text.split("\n")[0])
    for winner in filter(None, (name for pair in claims for name in pair)):
        for contrast in verdict.contrasts:
            if winner in (contrast.a, contrast.b):
                assert contrast.low is not None
                assert contrast.high is not None
                assert contrast.low * contrast.high > 0
    assert bool(claims) == (verdict.winner is not None)


def coverage(verdicts: Sequence[Verdict], truth: float) -> float:
    held = [c.low <= truth <= c.high for v in verdicts for c in v.contrasts if c.low is not None and c.high is not None]
    return sum(held) / len(held)


def test_intervals_hold_at_a_ceiling() -> None:
    def ceiling(seed: int) -> list[ScoredItem]:
        made = world({"a": 0.99, "b": 0.95}, 100, seed)
        return made

    verdicts = [decide(ceiling(seed)) for seed in range(250)]
    assert coverage(verdicts, 0.04) > 0.92
