"""How often the retriever finds the passage that answers a question: ``asktwice bench retriever --quality``."""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from contracts.ranking import DEPTH, figures, place_of
from contracts.table import parse_table, read_bytes
from services.retriever.fusion import Hit
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings
from services.retriever.source import passage_id, read_source


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
                    places[name].append(place_of([hit.id for hit in ranking[:DEPTH]], gold))
                report(number, len(table.rows), "questions")
        finally:
            retriever.close()
    return {name: figures(found) for name, found in places.items()}


def _ordered(ranking: Sequence[Hit]) -> list[Hit]:
    return sorted(ranking, key=lambda hit: (-hit.score, hit.id))
