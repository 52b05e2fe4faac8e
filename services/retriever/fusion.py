"""Two rankings to one, by a weighted sum of scores. Done here and not in the engine for two reasons: engines break ties
by chance, so that the same question would not get the same passages twice, and what must stay unseen has to go before
scores are put on one scale."""

from collections.abc import Sequence
from typing import NamedTuple


class Hit(NamedTuple):
    id: str
    score: float
    """Higher is better, comparable within one ranking only."""


def fuse(dense: Sequence[Hit], sparse: Sequence[Hit], weight: float) -> list[Hit]:
    """Return everything in either ranking, best first: ``weight * dense + (1 - weight) * sparse``, each of 0 to 1.

    A convex combination of normalised scores, which Bruch et al. ("An Analysis of Fusion Functions for Hybrid
    Retrieval", 2023, arXiv:2210.11934) find better than reciprocal rank: ranks forget by how much the first is better
    than the second. A dense score counts from the lowest of its ranking to the best, as what a cosine of 0.7 means
    depends on the model; a BM25 score counts from 0, which is a passage without one word of the query. What is missing
    in a ranking is taken to be as good as its last; a sparse ranking shorter than the dense one was not cut off, so
    that what is missing there has no word of the query and counts 0.

    Scores that are equal are put in the order of ids, so that the same question gets the same passages.

    Args:
        dense: by the embedding, in any order.
        sparse: by BM25, in any order.
        weight: of the dense ranking, 0 to 1.
    """
    by_dense, dense_rest = _scaled(dense, min((hit.score for hit in dense), default=0.0))
    by_sparse, sparse_rest = _scaled(sparse, 0.0)
    if len(sparse) < len(dense):
        sparse_rest = 0.0
    scores = {
        # Rounded: an engine that holds its points in another order adds up in another order.
        id: round(weight * by_dense.get(id, dense_rest) + (1 - weight) * by_sparse.get(id, sparse_rest), 5)
        for id in by_dense.keys() | by_sparse.keys()
    }
    return sorted((Hit(id, score) for id, score in scores.items()), key=lambda hit: (-hit.score, hit.id))


def _scaled(ranking: Sequence[Hit], zero: float) -> tuple[dict[str, float], float]:
    """Return the scores by id with ``zero`` as 0 and the best as 1, and the lowest of them."""
    span = max((hit.score for hit in ranking), default=zero) - zero
    if span <= 0:  # nothing is better than anything else
        return {hit.id: 0.0 for hit in ranking}, 0.0
    scaled = {hit.id: (hit.score - zero) / span for hit in ranking}
    return scaled, min(scaled.values())
