"""A Qdrant server, through qdrant-client."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from contracts.errors import IndexMismatch, Unavailable
from services.retriever.embedding import Vectors
from services.retriever.fusion import Hit
from services.retriever.sparse import SparseVector
from services.retriever.store import DENSE, SPARSE, Point

TIMEOUT_S = 60
RETRIEVE_BATCH = 1000


class ServerStore:
    """One collection of a server. It belongs to one ledger; points that the ledger does not know are left alone."""

    name = "qdrant-server"

    def __init__(self, client: QdrantClient, collection: str, url: str):
        self._client = client
        self._collection = collection
        self._url = url

    @classmethod
    def connect(cls, url: str, api_key: str | None, collection: str, dimension: int) -> "ServerStore":
        """Open a collection of the server at a URL, or make it; see :meth:`ensure`."""
        client = QdrantClient(url=url, api_key=api_key, timeout=TIMEOUT_S, check_compatibility=False)
        store = cls(client, collection, url)
        store.ensure(dimension)
        return store

    def ensure(self, dimension: int) -> None:
        """Make the collection if it is not there.

        Raises:
            IndexMismatch: it is there and has other vectors than ours.
            Unavailable: the server does not answer, or refuses.
        """
        with self._asking():
            if self._client.collection_exists(self._collection):
                return self._check(dimension)
            self._client.create_collection(
                self._collection,
                vectors_config={DENSE: models.VectorParams(size=dimension, distance=models.Distance.COSINE)},
                sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            )

    def upsert(self, points: Sequence[Point]) -> None:
        batch = [
            models.PointStruct(
                id=point.id,
                vector={DENSE: point.dense.tolist(), SPARSE: _sparse(point.sparse)},
                payload={"text": point.text},
            )
            for point in points
        ]
        with self._asking():
            self._completed(self._client.upsert(self._collection, batch, wait=True))

    def delete(self, ids: Sequence[str]) -> None:
        with self._asking():
            self._completed(self._client.delete(self._collection, models.PointIdsList(points=list(ids)), wait=True))

    def flush(self) -> None:
        """Nothing to do: every write waited for the server."""

    def optimize(self) -> None:
        """Nothing to do: the server does by itself."""

    def rankings(self, dense: Vectors, sparse: SparseVector, limit: int) -> tuple[list[Hit], list[Hit]]:
        requests = [models.QueryRequest(query=dense.tolist(), using=DENSE, limit=limit)]
        if sparse.indices:
            requests.append(models.QueryRequest(query=_sparse(sparse), using=SPARSE, limit=limit))
        with self._asking():
            by_dense, *by_sparse = self._client.query_batch_points(self._collection, requests)
        return _hits(by_dense), _hits(by_sparse[0]) if by_sparse else []

    def missing(self, ids: Sequence[str]) -> list[str]:
        there: set[str] = set()
        with self._asking():
            for start in range(0, len(ids), RETRIEVE_BATCH):
                batch = list(ids[start : start + RETRIEVE_BATCH])
                records = self._client.retrieve(self._collection, batch, with_payload=False, with_vectors=False)
                there.update(str(record.id) for record in records)
        return [id for id in ids if id not in there]

    def count(self) -> int:
        with self._asking():
            return self._client.count(self._collection, exact=True).count

    def close(self) -> None:
        self._client.close()

    def _check(self, dimension: int) -> None:
        """Refuse a collection that is not ours, rather than write into it."""
        params = self._client.get_collection(self._collection).config.params
        dense = params.vectors.get(DENSE) if isinstance(params.vectors, dict) else None
        if dense is None or SPARSE not in (params.sparse_vectors or {}) or dense.size != dimension:
            raise IndexMismatch(
                f"The collection {self._collection} at {self._url} has other vectors than this embedding makes"
                f" ({dimension} numbers). Name another one with ASKTWICE_COLLECTION, or delete it."
            )

    def _completed(self, result: models.UpdateResult) -> None:
        if result.status != models.UpdateStatus.COMPLETED:
            raise Unavailable(f"Qdrant at {self._url} took the write but did not complete it.", retry_after=5)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn the client's errors into ours."""
        try:
            yield
        except (ResponseHandlingException, httpx.HTTPError) as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"Qdrant at {self._url} does not answer: {reason[:200]}", retry_after=5) from error
        except UnexpectedResponse as error:
            advice = " Set QDRANT_API_KEY." if error.status_code in (401, 403) else ""
            raise Unavailable(
                f"Qdrant at {self._url} answered {error.status_code} {error.reason_phrase}.{advice}", retry_after=5
            ) from error


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=vector.indices, values=vector.values)


def _hits(response: models.QueryResponse) -> list[Hit]:
    return [Hit(str(point.id), point.score) for point in response.points]
