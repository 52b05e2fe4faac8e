"""The Qdrant engine in this process (qdrant-edge): the default."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import qdrant_edge as edge

from services.retriever.embedding import Vectors
from services.retriever.fusion import Hit
from services.retriever.sparse import SparseVector
from services.retriever.store import DENSE, SPARSE, Point

log = logging.getLogger("asktwice")


class EdgeStore:
    """A shard in a folder of its own."""

    name = "qdrant-edge"

    def __init__(self, shard: edge.EdgeShard):
        self._shard = shard

    @classmethod
    def open(cls, folder: Path, dimension: int, empty: bool) -> "EdgeStore":
        """Open the shard in a folder, or make it. The caller sees to it that no other process has the folder open.

        Args:
            folder: holds the shard and nothing else.
            dimension: of the dense vectors.
            empty: nothing that may be there is needed any more.
        """
        if not empty and folder.is_dir():
            try:
                return cls(edge.EdgeShard.load(str(folder)))
            except Exception as error:  # the binding raises nothing narrower
                log.warning("%s cannot be opened and is made again from the ledger: %s", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return cls(edge.EdgeShard.create(str(folder), _config(dimension)))

    def upsert(self, points: Sequence[Point]) -> None:
        batch = [
            edge.Point(point.id, {DENSE: point.dense.tolist(), SPARSE: _sparse(point.sparse)}, {"text": point.text})
            for point in points
        ]
        self._shard.update(edge.UpdateOperation.upsert_points(batch))

    def delete(self, ids: Sequence[str]) -> None:
        self._shard.update(edge.UpdateOperation.delete_points(list(ids)))

    def flush(self) -> None:
        self._shard.flush()
        self._shard.optimize()

    def rankings(self, dense: Vectors, sparse: SparseVector, limit: int) -> tuple[list[Hit], list[Hit]]:
        queries = (edge.Query.Nearest(dense.tolist(), using=DENSE), edge.Query.Nearest(_sparse(sparse), using=SPARSE))
        requests = [edge.QueryRequest(limit=limit, query=query) for query in queries]
        by_dense, by_sparse = self._shard.query_batch(edge.QueryBatchRequest(requests))
        return _hits(by_dense), _hits(by_sparse)

    def missing(self, ids: Sequence[str]) -> list[str]:
        there = {str(record.id) for record in self._shard.retrieve(list(ids), with_payload=False, with_vector=False)}
        return [id for id in ids if id not in there]

    def count(self) -> int:
        return int(self._shard.count(edge.CountRequest(exact=True)))

    def close(self) -> None:
        self._shard.close()


def _config(dimension: int) -> edge.EdgeConfig:
    return edge.EdgeConfig(
        vectors={DENSE: edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine)},
        sparse_vectors={SPARSE: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
    )


def _sparse(vector: SparseVector) -> edge.SparseVector:
    return edge.SparseVector(vector.indices, vector.values)


def _hits(points: Sequence[edge.ScoredPoint]) -> list[Hit]:
    return [Hit(str(point.id), point.score) for point in points]
