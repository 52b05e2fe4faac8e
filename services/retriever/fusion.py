"""Two rankings to one, by reciprocal rank. Done here and not in the engine for two reasons: engines break ties by
chance, so that the same question would not get the same passages twice, and what must stay unseen has to go before
ranks are counted."""

from collections.abc import Sequence
from typing import NamedTuple

RRF_K = 1
"""Added to a place (from 1) before it is turned over. Small, so that the first places count most."""


class Hit(NamedTuple):
    id: str
    score: float
    """Higher is better, comparable within one ranking only."""


def fuse(dense: Sequence[Hit], sparse: Sequence[Hit]) -> list[Hit]:
    """Return everything in either ranking, best first, with fused scores of 0 to 1.

    Equal scores within a ranking are put in the order of their ids; where the fused scores are equal, the place in
    the sparse ranking decides, as it is the better one of the two where a single word matters.
    """
    by_dense, by_sparse = _places(dense), _places(sparse)
    last = len(by_dense) + len(by_sparse)
    scores = {
        id: sum(1 / (RRF_K + places[id]) for places in (by_dense, by_sparse) if id in places)
        for id in (*by_sparse, *by_dense)
    }
    order = sorted(scores, key=lambda id: (-scores[id], by_sparse.get(id, last), by_dense.get(id, last)))
    return [Hit(id, scores[id]) for id in order]


def _places(ranking: Sequence[Hit]) -> dict[str, int]:
    ordered = sorted(ranking, key=lambda hit: (-hit.score, hit.id))
    return {hit.id: place for place, hit in enumerate(ordered, 1)}
