"""Fusion weighs scores on one scale, and does not depend on how an engine orders what is equal."""

import itertools

import pytest

from services.retriever.fusion import Hit, fuse


def order(dense: list[Hit], sparse: list[Hit], weight: float = 0.5) -> str:
    return "".join(hit.id for hit in fuse(dense, sparse, weight))


def test_scores_are_weighed_on_a_scale_of_0_to_1() -> None:
    dense = [Hit("a", 0.9), Hit("b", 0.8), Hit("c", 0.7)]
    sparse = [Hit("b", 12.0), Hit("d", 6.0)]
    assert dict(fuse(dense, sparse, 0.4)) == pytest.approx({"b": 0.4 * 0.5 + 0.6, "a": 0.4, "d": 0.6 * 0.5, "c": 0.0})
    assert order(dense, sparse, 0.4) == "badc"


def test_what_a_ranking_was_too_short_for_counts_as_its_last() -> None:
    dense, sparse = [Hit("a", 0.9), Hit("b", 0.8)], [Hit("c", 12.0), Hit("b", 9.0)]
    fused = dict(fuse(dense, sparse, 0.4))
    assert fused == pytest.approx({"a": 0.4 + 0.6 * 0.75, "b": 0.6 * 0.75, "c": 0.6})


def test_a_clear_lead_in_one_ranking_is_not_lost_as_it_is_among_ranks() -> None:
    dense = [Hit("a", 0.71), Hit("b", 0.70), Hit("c", 0.2)]
    assert order(dense, [Hit("b", 20.0), Hit("a", 4.0)]) == "bac"


def test_the_scale_of_a_model_does_not_matter() -> None:
    """Some models give every pair of texts a cosine above 0.7."""
    wide = [Hit("a", 0.8), Hit("b", 0.4), Hit("c", 0.0)]
    narrow = [Hit(hit.id, 0.7 + hit.score / 10) for hit in wide]
    sparse = [Hit("c", 3.0), Hit("b", 2.5)]
    assert dict(fuse(wide, sparse, 0.4)) == pytest.approx(dict(fuse(narrow, sparse, 0.4)))


def test_one_ranking_may_be_empty_and_one_passage_may_be_all() -> None:
    assert order([Hit("a", 0.9), Hit("b", 0.8)], []) == "ab"
    assert order([], [Hit("a", 2.0), Hit("b", 3.0)]) == "ba"
    assert order([Hit("a", 0.0)], []) == "a"
    assert order([], []) == ""


def test_the_order_of_equal_scores_does_not_matter() -> None:
    ranking = [Hit("a", 1.0), Hit("b", 1.0), Hit("c", 1.0), Hit("d", 0.5)]
    outcomes = {tuple(fuse(dense, [Hit("c", 3.0)], 0.5)) for dense in itertools.permutations(ranking)}
    assert len(outcomes) == 1
