"""Does the verdict keep its word? Worlds whose truth is known, judged thousands of times: ``asktwice bench verdict``.

The differences are worked out by the very functions that a verdict calls, over all runs of a cell at once; some runs of
each cell go through :func:`services.evaluator.verdict.decide` as well, and have to come out the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.verdict import Outcome, ScoredItem, VerdictSettings
from services.evaluator.statistics import Floats, Places, clustered_mean, corrected_difference, sign_flip
from services.evaluator.verdict import CARE, DOUBT, decide

Flags = NDArray[np.bool_]
Report = Callable[[int, int, str], None]
SIZES = (50, 100, 200, 400, 1000, 5000)
RUNS = 2_000
QUESTIONS_A_CLUSTER = 5
CHECKED = 5
LABELS = 100
_ALPHA = VerdictSettings().alpha
_BATCH_VALUES = 5_000_000
_FLIPPED = 500


@dataclass(frozen=True, slots=True)
class World:
    """Two arms whose truth is known.

    An item's pair of scores is, with probability ``alike``, from the same draw for both arms (so that they tie where
    they are as good), and with probability ``sqrt(icc)`` that of its cluster, so that two items of one cluster
    correlate by ``icc`` and the design effect is ``1 + (items a cluster - 1) icc``. The truth stays exact either way.
    """

    name: str
    items: int
    a: tuple[float, float] = (0.6, 0.0)
    """Probabilities of the scores 1 and 0.5."""
    b: tuple[float, float] = (0.6, 0.0)
    alike: float = 0.3
    icc: float = 0.1
    missing: float = 0.0
    uneven: bool = False
    """Clusters of 1 to 9 questions in place of 5."""

    @property
    def truth(self) -> float:
        return (self.a[0] + self.a[1] / 2) - (self.b[0] + self.b[1] / 2)

    @property
    def is_ceiling(self) -> bool:
        return any(not 0.1 < one + half / 2 < 0.9 for one, half in (self.a, self.b))


def worlds(items: int) -> Iterator[World]:
    """Yield the worlds of one size in which both arms are as good."""
    plain = World("plain", items)
    yield plain
    yield replace(plain, name="graded", a=(0.4, 0.4), b=(0.4, 0.4))
    yield replace(plain, name="ties", alike=0.5)
    yield replace(plain, name="ceiling", a=(0.95, 0.0), b=(0.95, 0.0))
    yield replace(plain, name="floor", a=(0.05, 0.0), b=(0.05, 0.0))
    yield replace(plain, name="graded ceiling", a=(0.92, 0.06), b=(0.92, 0.06))
    yield replace(plain, name="design effect 2", icc=0.25)
    yield replace(plain, name="design effect 3", icc=0.5)
    yield replace(plain, name="uneven clusters", uneven=True, icc=0.25)
    yield replace(plain, name="a fifth missing", missing=0.2)


def unequal(items: int) -> Iterator[World]:
    """Yield those worlds with one arm better, whose truth the interval has to hold."""
    for world in worlds(items):
        better, half = world.a
        raised = (better + 0.04, half) if world.is_ceiling and better < 0.94 else (better + 0.2, half)
        raised = (0.99, 0.0) if raised[0] + half > 0.99 else raised
        yield replace(world, name=f"{world.name}, one better", a=raised)


def bench(runs: int = RUNS, seed: int = 0, report: Report = lambda done, total, note: None) -> dict[str, Any]:
    """Judge all worlds.

    Args:
        runs: of each cell; where both arms have an interval to hold, five times as many.
        seed: of everything that is drawn.
        report: told how many of the cells are done, of how many, and which is under way.

    Returns:
        ``false_winner``: how often a winner is named where there is none, worst cell. ``coverage_min`` and
        ``coverage_max``: how often the 95% interval holds the truth, the latter without cells at a ceiling or floor.
        ``power_*``: how often the better arm is named, with differences of standard deviation 0.60 and design effect
        1.4. ``false_winner_biased_judge``: where the judge favours one arm and 100 labels correct it. ``aa_silent``:
        how often the same arm asked twice has no winner, worst cell. ``leak_caught``: how often leaks of 5% make a
        verdict INVALID. ``runs``: of each cell. ``cells``: every cell's own figures.
    """
    equal = [world for size in SIZES for world in worlds(size)]
    steps = 2 * len(equal) + 5
    cells: dict[str, dict[str, float]] = {}
    for world in equal:
        report(len(cells), steps, f"{world.name}, {world.items} questions")
        named, covered = np.mean(list(_runs(world, 5 * runs, seed)), axis=0).tolist()
        cells[f"{world.name}, {world.items}"] = {"named": named, "coverage": covered, "ceiling": world.is_ceiling}
    for world in (each for size in SIZES for each in unequal(size)):
        report(len(cells), steps, f"{world.name}, {world.items} questions")
        _, covered = np.mean(list(_runs(world, 5 * runs, seed)), axis=0).tolist()
        cells[f"{world.name}, {world.items}"] = {"coverage": covered, "ceiling": world.is_ceiling}
    found: dict[str, Any] = {
        "false_winner": max(cell["named"] for cell in cells.values() if "named" in cell),
        "coverage_min": min(cell["coverage"] for cell in cells.values()),
        "coverage_max": max(cell["coverage"] for cell in cells.values() if not cell["ceiling"]),
    }
    for n, (name, items, plus, minus) in enumerate(_POWER):
        report(len(cells) + n, steps, name)
        found[name] = _power(items, plus, minus, runs, seed)
    report(steps - 2, steps, "a biased judge")
    found["false_winner_biased_judge"] = max(_biased_judge(items, runs, seed) for items in (400, 1000))
    report(steps - 1, steps, "leaks")
    if (caught := _leak_caught(seed)) is not None:
        found["leak_caught"] = caught
    # In every world above both arms are one: the same probabilities, answers drawn anew.
    found["aa_silent"] = 1 - found["false_winner"]
    report(steps, steps, "")
    rounded = {name: round(value, 4) for name, value in found.items()}
    return rounded | {"runs": runs, "cells": cells}


_POWER = (
    ("power_54pp_n50", 50, 0.5958, 0.0558),
    ("power_20pp_n100", 100, 0.3, 0.1),
    ("power_10pp_n400", 400, 0.235, 0.135),
)
"""Name, questions, probability of a difference of 1 and of -1: a standard deviation of 0.60 each."""


def _runs(world: World, runs: int, seed: int) -> Iterator[tuple[bool, bool]]:
    """Yield of each run whether a winner is named, and whether the interval holds the truth."""
    drawn = np.random.default_rng([seed, abs(hash_of(world.name)), world.items])
    clusters = _clusters(world, drawn)
    starts = np.flatnonzero(np.diff(clusters, prepend=-1))
    done = 0
    while done < runs:
        number = min(runs - done, max(1, _BATCH_VALUES // world.items))
        a, b = _scores(world, clusters, number, drawn)
        there = drawn.random(a.shape) >= world.missing
        differences = np.where(there, a - b, 0.0)
        sums = np.add.reduceat(differences, starts, axis=-1)
        sizes = np.add.reduceat(there.astype(np.float64), starts, axis=-1)
        estimate = clustered_mean(sums, sizes, np.square(differences).sum(-1))
        low, high = estimate.interval(_ALPHA)
        covered = (low <= world.truth) & (world.truth <= high)
        named = estimate.p_differs() <= CARE * _ALPHA
        _withhold(named, sums)
        if done == 0:
            _check(a, b, there, clusters, named)
        yield from zip(named.tolist(), covered.tolist(), strict=True)
        done += number


def _withhold(named: Flags, sums: Floats) -> None:
    """Take back the claims that the sign flips contradict."""
    claimed = np.flatnonzero(named)
    for start in range(0, claimed.size, _FLIPPED):
        some = claimed[start : start + _FLIPPED]
        named[some] = sign_flip(sums[some], 0) <= DOUBT * _ALPHA


def _check(a: Floats, b: Floats, there: Flags, clusters: Places, named: Flags) -> None:
    """
    Raises:
        RuntimeError: a verdict on the same scores says something else.
    """
    for run in range(min(CHECKED, len(a))):
        items = [
            ScoredItem(item=f"{n}", cluster=f"{clusters[n]}", arm=arm, score=float(scores[run, n]))
            for arm, scores in (("a", a), ("b", b))
            for n in np.flatnonzero(there[run])
        ]
        verdict = decide(items)
        flips = verdict.contrasts[0].p_sign_flip or 1.0
        drawn_otherwise = 0.08 < flips < 0.12
        if (verdict.outcome is Outcome.better) != bool(named[run]) and not drawn_otherwise:
            raise RuntimeError(f"the simulation and the verdict differ: {named[run]}, {verdict}")


def _power(items: int, plus: float, minus: float, runs: int, seed: int) -> float:
    """Return how often the better arm is named where differences are -1, 0 and 1 with these probabilities."""
    drawn = np.random.default_rng([seed, items])
    clusters = np.arange(items) // QUESTIONS_A_CLUSTER
    chosen = _clustered(drawn.random((runs, items)), clusters, 0.1, drawn)
    differences = np.where(chosen < plus, 1.0, np.where(chosen > 1 - minus, -1.0, 0.0))
    sums = differences.reshape(runs, -1, QUESTIONS_A_CLUSTER).sum(-1)
    estimate = clustered_mean(sums, np.full_like(sums, QUESTIONS_A_CLUSTER), np.square(differences).sum(-1))
    named = estimate.p_differs() <= CARE * _ALPHA
    _withhold(named, sums)
    return float((named & (estimate.mean > 0)).mean())


def _biased_judge(items: int, runs: int, seed: int) -> float:
    """Return how often a winner is named where the arms are as good, and the judge passes 20% of the wrong answers of
    one and 10% of the other's; 100 labels, of both answers to 50 questions."""
    drawn = np.random.default_rng([seed, items, 1])
    world = World("judged", items, alike=0.0)
    clusters = np.arange(items) // QUESTIONS_A_CLUSTER
    wrong = 0
    for _ in range(runs):
        (a,), (b,) = _scores(world, clusters, 1, drawn)
        judged = (_judge(a, 0.90, 0.80, drawn), _judge(b, 0.90, 0.90, drawn))
        told = np.zeros(items, bool)
        told[drawn.permutation(items)[: LABELS // 2]] = True
        labels = (np.where(told, a, np.nan), np.where(told, b, np.nan))
        wrong += bool(corrected_difference(judged, labels, clusters).p_differs() <= CARE * _ALPHA)
    return wrong / runs


def _judge(truth: Floats, sensitivity: float, specificity: float, drawn: np.random.Generator) -> Floats:
    chance = np.where(truth > 0.5, sensitivity, 1 - specificity)
    return np.asarray(drawn.random(truth.shape) < chance, np.float64)


def _leak_caught(seed: int) -> float | None:
    try:
        from services.evaluator.leakage_bench import leak_caught
    except ImportError:
        return None
    return leak_caught(200, seed)


def _scores(world: World, clusters: Places, runs: int, drawn: np.random.Generator) -> tuple[Floats, Floats]:
    """Return both arms' scores, ``[runs, items]``."""
    shape = (runs, clusters.size)
    mine, yours, coin = drawn.random(shape), drawn.random(shape), drawn.random(shape)
    yours = np.where(coin < world.alike, mine, yours)
    # What a cluster draws is one draw for both arms and all of its items that take it.
    take = drawn.random(shape) < np.sqrt(world.icc)
    first = np.flatnonzero(np.diff(clusters, prepend=-1))[clusters]
    own_a, own_b = drawn.random(shape)[:, first], drawn.random(shape)[:, first]
    own_b = np.where(drawn.random(shape)[:, first] < world.alike, own_a, own_b)
    return _score(np.where(take, own_a, mine), world.a), _score(np.where(take, own_b, yours), world.b)


def _score(uniform: Floats, chances: tuple[float, float]) -> Floats:
    one, half = chances
    return np.asarray(np.where(uniform < one, 1.0, np.where(uniform < one + half, 0.5, 0.0)))


def _clustered(values: Floats, clusters: Places, icc: float, drawn: np.random.Generator) -> Floats:
    first = np.flatnonzero(np.diff(clusters, prepend=-1))[clusters]
    own = drawn.random(values.shape)[:, first]
    return np.asarray(np.where(drawn.random(values.shape) < np.sqrt(icc), own, values))


def _clusters(world: World, drawn: np.random.Generator) -> Places:
    if not world.uneven:
        return np.arange(world.items) // QUESTIONS_A_CLUSTER
    sizes = drawn.integers(1, 2 * QUESTIONS_A_CLUSTER, world.items)
    return np.repeat(np.arange(world.items), sizes)[: world.items]


def hash_of(name: str) -> int:
    """Return a number of a name that is the same in every process."""
    return int.from_bytes(name.encode()[:8].ljust(8), "big") + len(name)
