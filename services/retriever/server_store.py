"""A Qdrant server, through qdrant-client."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from contracts.errors import IndexMismatch, Unavailable
from services.retriever.embedding import Vectors
from services.retriever.fusion import Hit
from services.retriever.settings import Quantization, RetrieverSettings
from services.retriever.sparse import SparseVector
from services.retriever.store import DENSE, SPARSE, Point, generation, predecessor

RETRIEVE_BATCH = 1000


class ServerStore:
    """One collection of a server. It belongs to one ledger; points that the ledger does not know are left alone.

    The collection's name ends with its generation. What the settings name is an alias of the newest whole one, by which
    other programs find it.
    """

    name = "qdrant-server"

    def __init__(self, client: QdrantClient, settings: RetrieverSettings, number: int):
        self._client = client
        self._settings = settings
        self._collection = generation(settings.collection, number)
        self._number = number
        self._url = settings.qdrant_url
        self._ordering = settings.qdrant_ordering and models.WriteOrdering(settings.qdrant_ordering)

    @classmethod
    def connect(cls, settings: RetrieverSettings, dimension: int, empty: bool, number: int) -> "ServerStore":
        """Open the collection of this generation at the settings' server, or make it; see :meth:`ensure`."""
        key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
        client = QdrantClient(
            url=settings.qdrant_url, api_key=key, timeout=settings.qdrant_timeout_s, check_compatibility=False
        )
        store = cls(client, settings, number)
        store.ensure(dimension, empty)
        return store

    def ensure(self, dimension: int, empty: bool) -> None:
        """Make the collection if it is not there.

        Args:
            dimension: of the dense vectors.
            empty: a later generation is the ledger's own, and is made anew; a first one may be somebody else's.

        Raises:
            IndexMismatch: it is there and has other vectors than ours.
            Unavailable: the server does not answer, or refuses.
        """
        settings = self._settings
        dense = models.VectorParams(size=dimension, distance=models.Distance.COSINE, on_disk=settings.qdrant_on_disk)
        with self._asking():
            if empty and self._number > 1:
                self._client.delete_collection(self._collection)
            elif self._client.collection_exists(self._collection):
                return self._check(dimension)
            self._client.create_collection(
                self._collection,
                vectors_config={DENSE: dense},
                sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                shard_number=settings.qdrant_shards,
                replication_factor=settings.qdrant_replicas,
                write_consistency_factor=settings.qdrant_write_consistency,
                hnsw_config=models.HnswConfigDiff(m=settings.qdrant_hnsw_m, ef_construct=settings.qdrant_ef_construct),
                quantization_config=_quantization(settings.qdrant_quantization),
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
            self._completed(self._client.upsert(self._collection, batch, wait=True, ordering=self._ordering))

    def delete(self, ids: Sequence[str]) -> None:
        with self._asking():
            self._completed(
                self._client.delete(
                    self._collection, models.PointIdsList(points=list(ids)), wait=True, ordering=self._ordering
                )
            )

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

    def succeed(self) -> None:
        alias = self._settings.collection
        with self._asking():
            aliases = self._client.get_collection_aliases(self._collection).aliases
            if all(known.alias_name != alias for known in aliases):
                # Both in one request: whoever asks by the alias finds one of the two collections, whole.
                self._client.update_collection_aliases(
                    [
                        models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)),
                        models.CreateAliasOperation(
                            create_alias=models.CreateAlias(collection_name=self._collection, alias_name=alias)
                        ),
                    ]
                )
            if self._client.collection_exists(former := predecessor(self._collection)):
                self._client.delete_collection(former)

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
        except ResourceExhaustedResponse as error:
            raise Unavailable(f"Qdrant at {self._url} has too much to do.", retry_after=error.retry_after_s) from error
        except (ResponseHandlingException, httpx.HTTPError, ValueError) as error:  # ValueError: it is not JSON
            reason = str(error) or type(error).__name__
            raise Unavailable(f"Qdrant at {self._url} does not answer: {reason[:200]}", retry_after=5) from error
        except UnexpectedResponse as error:
            advice = " Set QDRANT_API_KEY." if error.status_code in (401, 403) else ""
            raise Unavailable(
                f"Qdrant at {self._url} answered {error.status_code} {error.reason_phrase}.{advice}", retry_after=5
            ) from error


def _quantization(kind: Quantization) -> models.QuantizationConfig | None:
    """Return how vectors are compressed for the first look; the best are then compared uncompressed."""
    if kind == "scalar":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        )
    if kind == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return None


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=vector.indices, values=vector.values)


def _hits(response: models.QueryResponse) -> list[Hit]:
    return [Hit(str(point.id), point.score) for point in response.points]
