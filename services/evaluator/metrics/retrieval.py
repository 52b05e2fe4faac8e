"""Where an answer's passages have the row's own context."""

from collections.abc import Sequence

from contracts.groups import normalized, similarity

SAME = 0.8
"""Jaccard index from which another context is as good as the row's own."""


def gold_place(passages: Sequence[str], context: str) -> int | None:
    """Return the place, from 1, of the first passage that is the context, a part of it, or a near duplicate.

    A long context is indexed in parts, and any part counts. None where no passage does.
    """
    own = f" {normalized(context)} "
    for place, passage in enumerate(passages, 1):
        if passage.strip() and (f" {normalized(passage)} " in own or similarity(passage, context) >= SAME):
            return place
    return None
