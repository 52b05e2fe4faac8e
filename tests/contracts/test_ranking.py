"""Metrics of rankings, by hand."""

import math

from contracts.ranking import figures, place_of


def test_figures_are_means_over_all_questions() -> None:
    assert figures([1, 2, 4, None]) == {
        "hit_at_1": 0.25,
        "hit_at_3": 0.5,
        "hit_at_5": 0.75,
        "mrr_at_10": 0.4375,
        "ndcg_at_10": 0.5154,
    }


def test_what_lies_deeper_than_the_rankings_is_not_measured() -> None:
    assert figures([1, 3, None, 2], depth=3) == {
        "hit_at_1": 0.25,
        "hit_at_3": 0.75,
        "mrr_at_3": round((1 + 1 / 3 + 1 / 2) / 4, 4),
        "ndcg_at_3": round((1 + 1 / math.log2(4) + 1 / math.log2(3)) / 4, 4),
    }
    assert figures([7], depth=5)["mrr_at_5"] == 0.0
    assert figures([]) == {}


def test_the_first_right_passage_counts() -> None:
    assert place_of(["a", "b", "c"], {"c", "b"}) == 2
    assert place_of(["a"], {"b"}) is None
    assert place_of([], {"b"}) is None
