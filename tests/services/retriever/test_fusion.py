"""Fusion by reciprocal rank does not depend on how an engine orders what is equal."""

import itertools

from services.retriever.fusion import Hit, fuse


def test_being_high_in_both_rankings_wins() -> None:
    dense = [Hit("a", 0.9), Hit("b", 0.8), Hit("c", 0.7)]
    sparse = [Hit("b", 12.0), Hit("d", 5.0)]
    assert [hit.id for hit in fuse(dense, sparse)] == ["b", "a", "d", "c"]
    assert fuse(dense, sparse)[0].score == 1 / 3 + 1 / 2


def test_the_sparse_ranking_decides_between_equals() -> None:
    assert [hit.id for hit in fuse([Hit("a", 2.0), Hit("b", 1.0)], [Hit("b", 2.0), Hit("a", 1.0)])] == ["b", "a"]


def test_the_order_of_equal_scores_does_not_matter() -> None:
    ranking = [Hit("a", 1.0), Hit("b", 1.0), Hit("c", 1.0), Hit("d", 0.5)]
    outcomes = {tuple(fuse(dense, [Hit("c", 3.0)])) for dense in itertools.permutations(ranking)}
    assert len(outcomes) == 1
