"""Paired differences of clustered questions: intervals, tests, and what a run could have found.

All functions work over leading axes, so that one call serves a verdict or thousands of simulated ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
FLIPS = 1_999
FEW = 4.0
"""Questions on which the arms differ, from which on they speak for themselves."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with what is known of its error; arrays of the leading shape.

    ``mean`` is the plain one. The interval lies around ``centre``, see :func:`clustered_mean`.
    """

    mean: Floats
    centre: Floats
    error: Floats
    """Standard error."""
    df: Floats
    """Degrees of freedom of Student's t."""
    clusters: Floats
    items: Floats

    def interval(self, alpha: float) -> tuple[Floats, Floats]:
        """Return the bounds that hold the truth in ``1 - alpha`` of all runs."""
        half = stats.t.isf(alpha / 2, self.df) * self.error
        return self.centre - half, self.centre + half

    def p_differs(self, allowance: float = 0.0) -> Floats:
        """Return the two-sided p of a truth within ``allowance`` of 0."""
        return np.asarray(np.minimum(1.0, 2 * stats.t.sf((abs(self.centre) - allowance) / self.error, self.df)))

    def p_within(self, margin: float) -> Floats:
        """Return the p of a truth at least ``margin`` from 0: two one-sided tests (Schuirmann 1987)."""
        return np.asarray(stats.t.sf((margin - abs(self.centre)) / self.error, self.df))

    def detectable(self, alpha: float, power: float) -> Floats:
        """Return the difference that a run like this finds in ``power`` of all cases."""
        return np.asarray((stats.t.isf(alpha / 2, self.df) + stats.t.ppf(power, self.df)) * self.error)


def clustered_mean(sums: Floats, sizes: Floats, squares: Floats) -> Estimate:
    """Estimate the mean of values from -1 to 1 that lie in clusters.

    The error is cluster-robust with the small-sample correction CR2, and Student's t has Satterthwaite's degrees of
    freedom (Bell and McCaffrey 2002; in closed form, as there is a mean alone). With clusters of one size that is the t
    test of the clusters' means, of ``clusters - 1`` degrees of freedom.

    Where nearly all values are 0, as at a ceiling, such an interval shrinks to a point that misses the truth. So a
    value of 1 and one of -1 are added, each a cluster of its own, as Bonett and Price (2012) do for paired proportions.
    They count whole where the squares of the values add up to :data:`FEW` at most, and less the more there are:
    docs/verdict.md has what the simulation says of other choices.

    Args:
        sums: of the values of each cluster, ``[..., clusters]``.
        sizes: how many values each cluster has, of the same shape; a cluster of none counts as absent.
        squares: the sum of all values' squares, ``[...]``.
    """
    items = sizes.sum(-1)
    weight = np.minimum(1.0, FEW / np.maximum(squares, FEW))
    total = items + 2 * weight
    centre = sums.sum(-1) / total
    residuals = sums - centre[..., None] * sizes
    added = weight * ((1 - centre) ** 2 + (1 + centre) ** 2)
    error = np.sqrt((residuals**2 / (1 - sizes / total[..., None])).sum(-1) + added) / total
    return Estimate(
        sums.sum(-1) / items, centre, error, _satterthwaite(sizes), (sizes > 0).sum(-1).astype(np.float64), items
    )


def _satterthwaite(sizes: Floats) -> Floats:
    """Return ``tr(M)^2 / tr(M^2)`` of the quadratic form that CR2 is for a mean of unrelated values (Imbens and Kolesar
    2016, section 4): ``M_gk = (n_g [g = k] - n_g n_k / N) / sqrt((1 - n_g / N) (1 - n_k / N)) / N^2``."""
    items = sizes.sum(-1)
    weights = sizes**2 / np.maximum(1 - sizes / items[..., None], 1e-12)
    traces = (sizes**2).sum(-1) + (weights.sum(-1) ** 2 - (weights**2).sum(-1)) / items**2
    return np.asarray(np.maximum(items**2 / traces, 1.0))


def sign_flip(sums: Floats, seed: int) -> Floats:
    """Return the two-sided p of the clusters' sums being as likely positive as negative.

    All sign flips of up to 11 clusters; of more, so many drawn ones.

    Args:
        sums: ``[..., clusters]``.
        seed: of the flips, which are the same for all leading indices.
    """
    clusters = sums.shape[-1]
    if exact := 2**clusters <= FLIPS + 1:
        bits = np.arange(2**clusters)[:, None] >> np.arange(clusters) & 1
    else:
        bits = np.random.default_rng(seed).integers(0, 2, (FLIPS, clusters), dtype=np.int8)
    flipped = np.abs(sums.astype(np.float32) @ (bits.astype(np.float32) * 2 - 1).T)
    as_far = (flipped >= np.abs(sums.sum(-1))[..., None] - 1e-4).sum(-1)
    return np.asarray(as_far / len(bits) if exact else (1 + as_far) / (len(bits) + 1))


def holm(p: Floats) -> Floats:
    """Return p adjusted for all along the last axis (Holm 1979): the family's error stays below alpha."""
    count = p.shape[-1]
    order = np.argsort(p, -1)
    ordered = np.take_along_axis(p, order, -1) * np.arange(count, 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(ordered, -1))
    return np.take_along_axis(adjusted, np.argsort(order, -1), -1)


def corrected_difference(judged: tuple[Floats, Floats], labelled: tuple[Floats, Floats], clusters: Places) -> Estimate:
    """Estimate the difference that people would see from a judge's scores and a few labels (PPI++, Angelopoulos,
    Duchi and Zrnic 2023): the judge's difference, moved by how far it is off where there are labels.

    How much the judge counts (``lambda``) is what makes the error smallest, so that one who is no use counts for
    nothing. The error is cluster-robust, of the sum of each cluster's influences.

    Args:
        judged: the judge's scores of both arms, ``[..., items]`` each.
        labelled: the labels of both arms, NaN where there is none.
        clusters: of the items, numbered from 0.
    """
    f_a, f_b = judged
    influence = np.zeros_like(f_a)
    weights = np.minimum(_weight(f_a, labelled[0]), _weight(f_b, labelled[1]))[..., None]
    difference = weights * (f_a - f_b)
    centre = difference.mean(-1)
    influence += (difference - centre[..., None]) / f_a.shape[-1]
    for sign, scores, labels in ((1.0, f_a, labelled[0]), (-1.0, f_b, labelled[1])):
        there = ~np.isnan(labels)
        count = there.sum(-1)
        off = np.where(there, np.nan_to_num(labels) - weights * scores, 0.0)
        mean = off.sum(-1) / count
        centre = centre + sign * mean
        influence += sign * np.where(there, off - mean[..., None], 0.0) / count[..., None]
    number = int(clusters.max()) + 1
    member = np.zeros((clusters.size, number))
    member[np.arange(clusters.size), clusters] = 1
    told = (~np.isnan(labelled[0]) | ~np.isnan(labelled[1])).astype(np.float64) @ member > 0
    with_labels = told.sum(-1)
    error = np.sqrt(((influence @ member) ** 2).sum(-1) * with_labels / (with_labels - 1))
    shape = np.ones_like(centre)
    return Estimate(
        centre,
        centre,
        np.maximum(error, 1e-9),
        np.maximum(with_labels - 1.0, 1.0),
        shape * number,
        shape * f_a.shape[-1],
    )


def _weight(scores: Floats, labels: Floats) -> Floats:
    """Return PPI++'s lambda: ``cov(label, score) / var(score) / (1 + labelled / all)``, 0 to 1."""
    there = ~np.isnan(labels)
    count = there.sum(-1)
    known, judged = np.where(there, np.nan_to_num(labels), 0.0), np.where(there, scores, 0.0)
    mean, judged_mean = known.sum(-1) / count, judged.sum(-1) / count
    covariance = (known * judged).sum(-1) / count - mean * judged_mean
    variance = np.maximum(scores.var(-1), 1e-12)
    return np.asarray(np.clip(covariance / variance / (1 + count / scores.shape[-1]), 0.0, 1.0))
