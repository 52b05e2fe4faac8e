"""Exact search by FAISS, for study and as the ground truth: every passage is compared with every query."""

import io
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import faiss
import numpy as np
from scipy.sparse import csc_array

from contracts.artifacts import write_atomically
from services.retriever.embedding import Vectors
from services.retriever.fusion import Hit
from services.retriever.sparse import SparseVector
from services.retriever.store import Point, predecessor


class FaissStore:
    """All vectors in memory, and in one file that is written whole by each flush: right up to some 100,000 passages."""

    name = "faiss-exact"

    def __init__(self, file: Path, dimension: int):
        self._file = file
        self._dimension = dimension
        self._lock = Lock()
        self._dense: dict[str, Vectors] = {}
        self._sparse: dict[str, SparseVector] = {}
        self._index: _Index | None = None

    @classmethod
    def open(cls, folder: Path, dimension: int, empty: bool) -> "FaissStore":
        """Open the vectors in a folder, or begin with none. The caller sees to it that no other process does.

        Args:
            folder: holds the vectors and nothing else.
            dimension: of the dense vectors.
            empty: nothing that may be there is needed any more.
        """
        store = cls(folder / "vectors.npz", dimension)
        if not empty and store._file.is_file():
            store._read()
        return store

    def upsert(self, points: Sequence[Point]) -> None:
        with self._lock:
            self._index = None
            for point in points:
                self._dense[point.id] = point.dense
                self._sparse[point.id] = point.sparse

    def delete(self, ids: Sequence[str]) -> None:
        with self._lock:
            self._index = None
            for id in ids:
                self._dense.pop(id, None)
                self._sparse.pop(id, None)

    def flush(self) -> None:
        with self._lock:
            content = io.BytesIO()
            vectors = list(self._sparse.values())
            np.savez(
                content,
                ids=np.array(list(self._dense), dtype="U36"),
                dense=np.array(list(self._dense.values()), np.float32).reshape(-1, self._dimension),
                words=np.array([index for vector in vectors for index in vector.indices], np.int64),
                weights=np.array([value for vector in vectors for value in vector.values], np.float64),
                lengths=np.array([len(vector.indices) for vector in vectors], np.int64),
            )
            write_atomically(self._file, content.getvalue())

    def optimize(self) -> None:
        """Nothing to do: what is compared with everything has no graph."""

    def rankings(self, dense: Vectors, sparse: SparseVector, limit: int) -> tuple[list[Hit], list[Hit]]:
        with self._lock:
            if self._index is None:
                self._index = _Index(self._dense, self._sparse, self._dimension)
            index = self._index
        return index.by_dense(dense, limit), index.by_sparse(sparse, limit)

    def missing(self, ids: Sequence[str]) -> list[str]:
        return [id for id in ids if id not in self._dense]

    def count(self) -> int:
        return len(self._dense)

    def succeed(self) -> None:
        folder = self._file.parent
        shutil.rmtree(folder.with_name(predecessor(folder.name)), ignore_errors=True)

    def close(self) -> None:
        """Nothing is held open."""

    def _read(self) -> None:
        """What another dimension or a damaged disk has made useless counts as lost; the ledger has it written again."""
        try:
            with np.load(self._file) as stored:
                ids, dense = stored["ids"].tolist(), stored["dense"]
                ends = np.cumsum(stored["lengths"])[:-1]
                words, weights = np.split(stored["words"], ends), np.split(stored["weights"], ends)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return
        if dense.shape == (len(ids), self._dimension):
            self._dense = dict(zip(ids, dense, strict=True))
            vectors = (SparseVector(w.tolist(), v.tolist()) for w, v in zip(words, weights, strict=True))
            self._sparse = dict(zip(ids, vectors, strict=False))


class _Index:
    """What is searched: never changed, made anew after a write."""

    def __init__(self, dense: dict[str, Vectors], sparse: dict[str, SparseVector], dimension: int):
        self._ids = list(dense)
        self._flat = faiss.IndexFlatIP(dimension)
        self._flat.add(np.array(list(dense.values()), np.float32).reshape(-1, dimension))
        self._columns: dict[int, int] = {}
        words = [index for id in self._ids for index in sparse[id].indices]
        columns = [self._columns.setdefault(word, len(self._columns)) for word in words]
        rows = np.repeat(np.arange(len(self._ids)), [len(sparse[id].indices) for id in self._ids])
        weights = np.array([value for id in self._ids for value in sparse[id].values], np.float64)
        shape = (len(self._ids), len(self._columns))
        self._words: Any = csc_array((weights, (rows, np.array(columns, np.int64))), shape=shape)

    def by_dense(self, query: Vectors, limit: int) -> list[Hit]:
        if not self._ids:
            return []
        length = float(np.linalg.norm(query)) or 1.0
        scores, rows = self._flat.search((query / length)[None], min(limit, len(self._ids)))
        return [Hit(self._ids[row], float(score)) for row, score in zip(rows[0], scores[0], strict=True)]

    def by_sparse(self, query: SparseVector, limit: int) -> list[Hit]:
        """The rarity of a word is Qdrant's: ``ln((n - df + 0.5) / (df + 0.5) + 1)`` over all ``n`` passages."""
        known = [
            (self._columns[word], value)
            for word, value in zip(query.indices, query.values, strict=True)
            if word in self._columns
        ]
        if not known:
            return []
        columns, values = (np.array(part) for part in zip(*known, strict=True))
        found = self._words[:, columns]
        df = np.diff(found.indptr)
        scores = found @ (values * np.log((len(self._ids) - df + 0.5) / (df + 0.5) + 1))
        matching = np.flatnonzero(scores)
        best = matching[np.argsort(-scores[matching], kind="stable")[:limit]]
        return [Hit(self._ids[row], float(scores[row])) for row in best]
