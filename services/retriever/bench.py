"""How often the retriever finds the passage that answers a question: ``asktwice bench retriever --quality``."""

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from contracts.table import parse_table, read_bytes
from services.retriever.fusion import Hit
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings
from services.retriever.source import passage_id, read_source

DEPTH = 10


def quality(
    path: Path,
    embedding: str | None = None,
    reranker: str | None = None,
    report: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> dict[str, dict[str, float]]:
    """Index the contexts of a CSV, ask its questions, and look where each row's own context comes.

    Args:
        path: a CSV with the columns ``question`` and ``context``.
        embedding, reranker: see :class:`RetrieverSettings`.
        report: told how many questions were asked, of how many, and what is being done.

    Returns:
        for each of ``dense``, ``sparse``, ``hybrid`` and, with a reranker, ``reranked``: ``hit_at_1``, ``hit_at_3``,
        ``hit_at_5``, ``mrr_at_10`` and ``ndcg_at_10``, each 0 to 1, means over the questions.

    Raises:
        InvalidInput: the file cannot be read, or is refused.
        Unavailable: a model cannot be had.
    """
    content = read_bytes(path)
    table = parse_table(content, path.name, ("question", "context"), ("answer",))
    places: dict[str, list[int | None]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="asktwice-bench-") as home:
        # An address in the environment would index the file into somebody's server.
        settings = RetrieverSettings(home=Path(home), embedding=embedding, reranker=reranker)
        settings = settings.model_copy(update={"qdrant_url": None, "reranker": reranker})
        retriever = Retriever.open(settings)
        try:
            retriever.ingest(path.name, content, progress=lambda done, total: report(done, total, "passages"))
            cut = read_source(path.name, content, retriever.splitter)  # a long context is several passages
            parts = {
                passage_id(row.context): cut.accepted[row.number] for row in table.rows if row.number in cut.accepted
            }
            for number, row in enumerate(table.rows, 1):
                gold = parts[passage_id(row.context)]
                dense, sparse = retriever.rankings(row.question, DEPTH)
                fused = retriever.fuse(dense, sparse)
                found = {"dense": _ordered(dense), "sparse": _ordered(sparse), "hybrid": fused}
                if reranker:
                    found["reranked"] = retriever.rerank(row.question, fused)
                for name, ranking in found.items():
                    ids = [hit.id for hit in ranking[:DEPTH]]
                    places[name].append(next((place for place, id in enumerate(ids, 1) if id in gold), None))
                report(number, len(table.rows), "questions")
        finally:
            retriever.close()
    return {name: figures(found) for name, found in places.items()}


def figures(places: Sequence[int | None]) -> dict[str, float]:
    """Return the means over questions that have one right passage each.

    Args:
        places: of the right passage, from 1; None where it is not among the first ten.
    """

    def mean(value: Callable[[int], float]) -> float:
        return round(sum(value(place) for place in places if place is not None) / len(places), 4)

    hits = {f"hit_at_{k}": mean(lambda place, k=k: float(place <= k)) for k in (1, 3, 5)}  # type: ignore[misc]
    return hits | {
        "mrr_at_10": mean(lambda place: 1 / place),
        "ndcg_at_10": mean(lambda place: 1 / math.log2(1 + place)),
    }


def _ordered(ranking: Sequence[Hit]) -> list[Hit]:
    return sorted(ranking, key=lambda hit: (-hit.score, hit.id))
