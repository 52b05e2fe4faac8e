"""A second look at the best passages: a cross-encoder reads query and passage together (Nogueira and Cho, "Passage
Re-ranking with BERT", 2019, arXiv:1901.04085). Better than any fusion, and slower: each search runs a model over
:data:`DEPTH` passages."""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

from contracts.errors import Unavailable
from services.retriever.fusion import Hit

DEPTH = 20
"""How many of the fused ranking are read; as many as a search gives at most."""


class Reranker:
    """A cross-encoder with one output, from a sentence-transformers hub id or folder.

    Raises:
        Unavailable: there is no such model, or it has another number of outputs.
    """

    def __init__(self, model: str, device: str = "auto"):
        self._model = _load(model, device)
        self._lock = Lock()  # fast tokenizers must not be used by two threads at a time

    def rank(self, query: str, hits: Sequence[Hit], texts: Sequence[str]) -> list[Hit]:
        """Return the hits, best first by the model; a score is its logit's sigmoid, 0 to 1.

        Args:
            query: what was asked.
            hits: fused.
            texts: their passages, in the same order.
        """
        if not hits:
            return []
        with self._lock:
            logits = self._model.predict([(query, text) for text in texts], activation_fn=_identity)
        # By the logit: near its ends the sigmoid makes different ones equal.
        ranked = sorted(zip(logits.tolist(), hits, strict=True), key=lambda pair: (-pair[0], pair[1].id))
        return [Hit(hit.id, round(float(1 / (1 + np.exp(-logit))), 5)) for logit, hit in ranked]


def _identity(logits: Any) -> Any:
    return logits


def _load(model: str, device: str) -> Any:
    from sentence_transformers import CrossEncoder

    advice = "Set ASKTWICE_RERANKER (or --reranker) to a cross-encoder's hub id or folder, or leave it unset."
    try:
        loaded = CrossEncoder(model, device=None if device == "auto" else device)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise Unavailable(f"The reranker {model} cannot be loaded: {reason} {advice}", retry_after=10) from error
    if loaded.num_labels != 1:
        raise Unavailable(f"The reranker {model} has {loaded.num_labels} outputs, not one. {advice}", retry_after=10)
    return loaded
