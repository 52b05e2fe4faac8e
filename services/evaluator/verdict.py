"""Scores in, a verdict out: who is surely better, who is as good, and what these questions cannot tell."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from contracts.errors import InvalidInput
from contracts.verdict import ArmMean, Contrast, Outcome, ScoredItem, TradeOff, Verdict, VerdictSettings
from services.evaluator.statistics import Floats, Places, clustered_mean, corrected_difference, holm, sign_flip

DOUBT = 2
"""Times alpha, from which on the sign flips' p contradicts: scores of a few values make them the more careful test."""
CARE = 0.9
"""Of alpha, from which a winner is named: of two equal arms one is named in at most alpha of all runs, simulated
(docs/verdict.md), although the interval's coverage is that of an approximation."""
Scores = dict[str, dict[str, float]]
"""Arm -> item -> score."""


def decide(
    items: Sequence[ScoredItem],
    settings: VerdictSettings | None = None,
    *,
    labels: Sequence[ScoredItem] = (),
    secondary: Mapping[str, Sequence[ScoredItem]] | None = None,
    invalid: Sequence[str] = (),
) -> Verdict:
    """Compare all arms, paired by question and clustered.

    1. Every pair: the mean difference with its interval (:func:`clustered_mean`) and a sign-flip test beside it.
    2. Holm over all pairs. An arm is better where the interval's test says so and the sign flips do not clearly
       contradict; two are equivalent where the difference is surely below the margin.
    3. An arm that is better than each other one wins. Where the arms that nobody beats are all equivalent, the verdict
       is EQUIVALENT; else there is not enough data to tell.

    Args:
        items: the scores; each arm at most once a question, at least two arms.
        settings: fixed before the run.
        labels: scores of some of the answers by people; then ``items`` are a judge's, which they correct.
        secondary: scores by other measures, higher is better; they can make a winner's verdict a TRADE_OFF.
        invalid: why nothing may be concluded, such as leaked questions.

    Raises:
        InvalidInput: one arm alone, an arm twice at one question, or a question in two clusters.
    """
    settings = settings or VerdictSettings()
    arms, clusters, scores = _arranged(items)
    _, _, labelled = _arranged(labels, False)
    contrasts = _contrasts(arms, clusters, scores, labelled, settings)
    decided = [_better_and_worse(c) for c in contrasts if c.outcome is Outcome.better]
    beaten, wins = {worse for _, worse in decided}, Counter(better for better, _ in decided)
    means = [_mean(arm, clusters, scores[arm], settings) for arm in arms]
    means.sort(key=lambda mean: math.inf if mean.mean is None else -mean.mean)
    top = [mean.arm for mean in means if mean.arm not in beaten]
    verdict = Verdict(
        outcome=Outcome.not_enough_data, top=top, arms=means, contrasts=contrasts, settings=settings,
        reasons=list(invalid) or _why_nothing(contrasts, labelled, settings),
    )  # fmt: skip
    if invalid:
        return verdict.model_copy(update={"outcome": Outcome.invalid})
    among_top = [c for c in contrasts if c.a in top and c.b in top]
    if winner := next((arm for arm in top if wins[arm] == len(arms) - 1), None):
        trade_offs = _trade_offs(winner, secondary or {}, settings)
        outcome = Outcome.trade_off if trade_offs else Outcome.better
        return verdict.model_copy(
            update={"outcome": outcome, "winner": winner, "trade_offs": trade_offs, "reasons": []}
        )
    if len(top) > 1 and all(c.outcome is Outcome.equivalent for c in among_top):
        return verdict.model_copy(update={"outcome": Outcome.equivalent, "reasons": []})
    return verdict


def _arranged(items: Sequence[ScoredItem], complete: bool = True) -> tuple[list[str], dict[str, str], Scores]:
    clusters: dict[str, str] = {}
    scores: Scores = defaultdict(dict)
    for each in items:
        if clusters.setdefault(each.item, each.cluster) != each.cluster:
            raise InvalidInput(f"The question {each.item} is in two clusters: {clusters[each.item]}, {each.cluster}.")
        if each.item in scores[each.arm]:
            raise InvalidInput(f"The arm {each.arm} has two scores for the question {each.item}.")
        scores[each.arm][each.item] = math.nan if each.score is None else each.score
    if complete and len(scores) < 2:
        raise InvalidInput("There is one arm alone, or none. A verdict compares two or more.")
    scores = {arm: {item: score for item, score in given.items() if score == score} for arm, given in scores.items()}
    return sorted(scores), clusters, scores


def _contrasts(
    arms: Sequence[str], clusters: Mapping[str, str], scores: Scores, labelled: Scores, settings: VerdictSettings
) -> list[Contrast]:
    made = [_contrast(a, b, clusters, scores, labelled, settings) for a, b in combinations(arms, 2)]
    told = [n for n, contrast in enumerate(made) if contrast.p is not None]
    p_holm, p_equivalent = (
        holm(np.array([getattr(made[n], name) for n in told], np.float64)) for name in ("p", "p_equivalent")
    )
    for n, differs, same in zip(told, p_holm.tolist(), p_equivalent.tolist(), strict=True):
        outcome = Outcome.not_enough_data
        flips = made[n].p_sign_flip
        if _too_many_dropped(made[n], settings):
            pass
        elif differs <= CARE * settings.alpha and (flips is None or flips <= DOUBT * settings.alpha):
            outcome = Outcome.better
        elif same <= settings.alpha:
            outcome = Outcome.equivalent
        made[n] = made[n].model_copy(update={"p_holm": differs, "p_equivalent": same, "outcome": outcome})
    return made


def _contrast(
    a: str, b: str, clusters: Mapping[str, str], scores: Scores, labelled: Scores, settings: VerdictSettings
) -> Contrast:
    paired = sorted(scores[a].keys() & scores[b].keys())
    differences = np.array([scores[a][item] - scores[b][item] for item in paired])
    numbers = _numbered(paired, clusters)
    sums, sizes = _by_cluster(differences, numbers)
    contrast = Contrast(
        a=a,
        b=b,
        difference=float(differences.mean()) if paired else None,
        items=len(paired),
        clusters=sizes.size,
        dropped=len(scores[a].keys() | scores[b].keys()) - len(paired),
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
        outcome=Outcome.not_enough_data,
    )
    if sizes.size < settings.min_clusters:
        return contrast
    estimate = clustered_mean(sums, sizes, np.square(differences).sum())
    flips: Floats | None = sign_flip(sums, settings.seed)
    if labelled:
        both = (_told(labelled.get(a, {}), paired), _told(labelled.get(b, {}), paired))
        if any(_few_labels(told, numbers, settings) for told in both):
            return contrast
        judged = (np.array([scores[a][item] for item in paired]), np.array([scores[b][item] for item in paired]))
        estimate, flips = corrected_difference(judged, both, numbers), None
    low, high = estimate.interval(settings.alpha)
    # The judge's allowance is for what no label has corrected.
    allowance = 0.0 if labelled else settings.bias_allowance
    detectable = float(estimate.detectable(settings.alpha, settings.power)) + allowance
    plain = differences.var(ddof=1) / len(paired) if len(paired) > 1 else 0.0
    return contrast.model_copy(
        update={
            "difference": float(estimate.mean),
            "low": max(-1.0, float(low)),
            "high": min(1.0, float(high)),
            "p": float(estimate.p_differs(allowance)),
            "p_sign_flip": None if flips is None else float(flips),
            # With so many questions not one would differ by chance, were the truth the margin.
            "p_equivalent": max(float(estimate.p_within(settings.margin)), (1 - settings.margin) ** len(paired)),
            "design_effect": float(estimate.error**2 / plain) if plain > 0 and not labelled else None,
            "detectable": detectable,
            "needed_items": (needed := math.ceil(len(paired) * (detectable / settings.margin) ** 2)),
            "more_items": max(0, needed - len(paired)),
        }
    )


def _mean(arm: str, clusters: Mapping[str, str], scored: Mapping[str, float], settings: VerdictSettings) -> ArmMean:
    items = sorted(scored)
    if not items:
        return ArmMean(arm=arm, mean=None, items=0)
    values = np.array([scored[item] for item in items])
    signed = 2 * values - 1
    sums, sizes = _by_cluster(signed, _numbered(items, clusters))
    told = ArmMean(arm=arm, mean=float(values.mean()), items=len(items))
    if sizes.size < settings.min_clusters:
        return told
    estimate = clustered_mean(sums, sizes, np.square(signed).sum())
    low, high = ((1 + float(bound)) / 2 for bound in estimate.interval(settings.alpha))
    return told.model_copy(update={"low": max(0.0, low), "high": min(1.0, high)})


def _trade_offs(
    winner: str, secondary: Mapping[str, Sequence[ScoredItem]], settings: VerdictSettings
) -> list[TradeOff]:
    found = []
    for measure, items in sorted(secondary.items()):
        arms, clusters, scores = _arranged(items)
        for contrast in _contrasts(arms, clusters, scores, {}, settings):
            if contrast.outcome is not Outcome.better or contrast.low is None or contrast.high is None:
                continue
            better, worse = _better_and_worse(contrast)
            if worse == winner and max(contrast.low, -contrast.high) > settings.margin:
                found.append(TradeOff(measure=measure, arm=better, contrast=contrast))
    return found


def _better_and_worse(contrast: Contrast) -> tuple[str, str]:
    return (contrast.a, contrast.b) if (contrast.difference or 0.0) > 0 else (contrast.b, contrast.a)


def fewest_labels(settings: VerdictSettings) -> int:
    """Return how many answers of an arm need a label before the labels correct anything."""
    return 2 * settings.min_clusters


def _few_labels(told: Floats, numbers: Places, settings: VerdictSettings) -> bool:
    there = ~np.isnan(told)
    return int(there.sum()) < fewest_labels(settings) or len(set(numbers[there].tolist())) < settings.min_clusters


def _too_many_dropped(contrast: Contrast, settings: VerdictSettings) -> bool:
    return contrast.dropped > settings.max_dropped * (contrast.items + contrast.dropped)


def _why_nothing(contrasts: Sequence[Contrast], labelled: Scores, settings: VerdictSettings) -> list[str]:
    fewest = min(contrast.clusters for contrast in contrasts)
    if fewest < settings.min_clusters:
        return [f"{fewest} clusters of questions, and {settings.min_clusters} are needed for an interval that holds"]
    few = [f"{arm}: {len(told)} labels" for arm, told in labelled.items() if len(told) < fewest_labels(settings)]
    if few:
        return [
            f"{', '.join(few)}; {fewest_labels(settings)} of an arm are needed, on {settings.min_clusters} contexts"
        ]
    return [
        f"{contrast.dropped} of {contrast.items + contrast.dropped} questions lack {contrast.a} or {contrast.b}"
        for contrast in contrasts
        if _too_many_dropped(contrast, settings)
    ]


def _numbered(items: Sequence[str], clusters: Mapping[str, str]) -> Places:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(clusters[item], len(numbers)) for item in items], np.int64)


def _by_cluster(values: Floats, numbers: Places) -> tuple[Floats, Floats]:
    """Return the sum of each cluster's values and how many they are."""
    return np.bincount(numbers, values).astype(np.float64), np.bincount(numbers).astype(np.float64)


def _told(labels: Mapping[str, float], items: Sequence[str]) -> Floats:
    return np.array([labels.get(item, math.nan) for item in items])
