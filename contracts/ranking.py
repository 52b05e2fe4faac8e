"""How well rankings place the one right passage of each question."""

import math
from collections.abc import Callable, Collection, Sequence

DEPTH = 10


def place_of(ranking: Sequence[str], gold: Collection[str]) -> int | None:
    """Return the place, from 1, of the first of a ranking's ids that is right; None where none is."""
    return next((place for place, id in enumerate(ranking, 1) if id in gold), None)


def figures(places: Sequence[int | None], depth: int = DEPTH) -> dict[str, float]:
    """Return the means over questions that have one right passage each.

    Args:
        places: of the right passage, from 1; None where it is not in the ranking.
        depth: how long the rankings were, at most 10. What lies deeper was not measured.

    Returns:
        ``hit_at_1``, ``hit_at_3``, ``hit_at_5`` as far as the depth goes, ``mrr_at_10`` (Voorhees 1999) and
        ``ndcg_at_10`` (Järvelin and Kekäläinen 2002; with one right passage its ideal is 1), or at the lesser depth by
        its name, each 0 to 1. Nothing where there are no questions.
    """
    if not places:
        return {}
    depth = min(depth, DEPTH)

    def mean(value: Callable[[int], float]) -> float:
        return round(sum(value(place) for place in places if place is not None and place <= depth) / len(places), 4)

    def hit(within: int) -> float:
        return mean(lambda place: float(place <= within))

    return {f"hit_at_{k}": hit(k) for k in (1, 3, 5) if k <= depth} | {
        f"mrr_at_{depth}": mean(lambda place: 1 / place),
        f"ndcg_at_{depth}": mean(lambda place: 1 / math.log2(1 + place)),
    }
