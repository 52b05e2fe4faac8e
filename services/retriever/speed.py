"""How fast the retriever is beside what people write without it: ``asktwice bench retriever``.

Both sides get the same texts and vectors in one run, by turns, so that a busy moment of the machine hits both.
"""

import shutil
import statistics
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from contracts.table import parse_table, read_bytes
from services.retriever.edge_store import EdgeStore
from services.retriever.embedding import Embedder, SentenceTransformerEmbedder, Vectors, load_embedder
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings
from services.retriever.sparse import SparseVector
from services.retriever.store import DENSE, SPARSE, Point

Report = Callable[[int, int, str], None]

POINTS, DIMENSION = 20_000, 384
CLUSTERS, WORDS, VOCABULARY = 200, 60, 30_000
LOOP_BATCH = 50
"""The classic loop's upserts."""
TURNS = 10
CHANGES = 20
SEARCHES = 200
SIZES = (1_000, 10_000, 100_000)
FULL_SIZES = (*SIZES, 1_000_000)
NOTHING = SparseVector([], [])


def speed(
    data: Path,
    embedding: str | None = None,
    full: bool = False,
    report: Report = lambda done, total, note: None,
) -> dict[str, Any]:
    """Measure everything; takes some minutes, with ``full`` about an hour.

    Args:
        data: a CSV with the columns ``question`` and ``context``.
        embedding: see :class:`RetrieverSettings`.
        full: grow the index to a million passages.
        report: told how many of the steps are done, of how many, and which is under way.

    Returns:
        ``ingest_vs_loop``: seconds of the classic loop (each row's question and context embedded alone, upserted 50 at
        a time into qdrant-client's local mode) over ours, until the CSV is answerable. ``freshness_s``: the median of
        changes of one fact in that index, until a search has found it. ``ingest_vs_local``: seconds of
        local mode in a folder over ours, until 20,000 points are durable. ``search_vs_local``: the same of a search's
        median at 20,000 points, dense and sparse as every question is looked up, and ``dense_search_vs_local`` of its
        dense half alone; ``recall_at_10`` of that against an exact one. ``embed_vs_fp32``: passages a
        second in int8 over those in float32 by the model's ``encode`` as it is, and ``embed_ndcg_lost`` the share of
        the dense nDCG@10 of the file's own questions that int8 costs; absent without a model or on a GPU.
        ``growth``: passages -> ``search_p50_ms`` (dense and sparse), ``memory_mb`` and ``disk_mb``.

    Raises:
        InvalidInput: the file cannot be read, or is refused.
        Unavailable: the model cannot be had.
    """
    sizes = FULL_SIZES if full else SIZES
    steps = 4 + len(sizes)
    found: dict[str, Any] = {}
    embedder = load_embedder(embedding)
    report(0, steps, "the classic loop")
    found |= _ingest_vs_loop(data, embedding, embedder)
    report(1, steps, f"{POINTS:,} points")
    found |= _against_local()
    report(3, steps, "int8")
    if embedding:
        found |= _embed_vs_fp32(data, embedding, embedder)
    found["growth"] = {}
    for n, size in enumerate(sizes):
        report(4 + n, steps, f"{size:,} passages")
        # In a process of its own, whose memory is the index's.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
            found["growth"][str(size)] = child.submit(_at_size, size).result()
    report(steps, steps, "")
    return found


def _ingest_vs_loop(data: Path, embedding: str | None, embedder: Embedder) -> dict[str, float]:
    content = read_bytes(data)
    rows = parse_table(content, data.name, ("question", "context"), ("answer",)).rows
    loop = 0.0
    ours: list[float] = []
    fresh: list[float] = []
    with _folder() as folder:
        client = _local(folder / "loop", embedder.dimension)
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            begun = time.perf_counter()
            batch: list[models.PointStruct] = []
            for n, row in enumerate(half, 1):
                vector = embedder.encode_passages([f"{row.question} {row.context}"])[0]
                batch.append(models.PointStruct(id=str(uuid.uuid4()), vector={DENSE: vector.tolist()}))
                if len(batch) == LOOP_BATCH or n == len(half):
                    client.upsert("loop", batch)
                    batch = []
            loop += time.perf_counter() - begun
            home = folder / f"ours-{len(ours)}"
            # An address in the environment would index the file into somebody's server.
            settings = RetrieverSettings(home=home, embedding=embedding).model_copy(update={"qdrant_url": None})
            retriever = Retriever.open(settings)
            begun = time.perf_counter()
            retriever.ingest(data.name, content)
            ours.append(time.perf_counter() - begun)
            fresh += [_freshness(retriever, number) for number in range(CHANGES)]
            retriever.close()
        client.close()
    return {
        "ingest_vs_loop": round(loop / statistics.median(ours), 2),
        "freshness_s": round(statistics.median(fresh), 4),
    }


def _freshness(retriever: Retriever, number: int) -> float:
    """Return the seconds from sending a changed fact until a search has found it."""
    fact = f"Код от ворот сегодня {number * 7919 % 10_000}."
    begun = time.perf_counter()
    retriever.ingest("fact.txt", fact.encode())
    found = retriever.search("Какой код от ворот?", 1)
    took = time.perf_counter() - begun
    if [passage.text for passage in found] != [fact]:
        raise RuntimeError(f"the fact {fact!r} was changed, and a search found {found}")
    return took


def _against_local() -> dict[str, float]:
    """Return how ingestion, search and recall compare at ``POINTS`` points with the same vectors."""
    points = list(_points(POINTS))
    queries = _near([point.dense for point in points[:: POINTS // SEARCHES]])
    took = {"ours": 0.0, "local": 0.0}
    with _folder() as folder:
        ours = EdgeStore.open(folder / "ours", DIMENSION, empty=True)
        local = _local(folder / "local", DIMENSION)
        for start in range(0, POINTS, POINTS // TURNS):
            turn = points[start : start + POINTS // TURNS]
            begun = time.perf_counter()
            ours.upsert(turn)
            ours.flush()
            took["ours"] += time.perf_counter() - begun
            structs = [_struct(point) for point in turn]
            begun = time.perf_counter()
            for at in range(0, len(structs), LOOP_BATCH):
                local.upsert("loop", structs[at : at + LOOP_BATCH])
            took["local"] += time.perf_counter() - begun
        ours.optimize()
        ours.wait()
        exact = np.array([point.dense for point in points])
        times: dict[str, list[float]] = defaultdict(list)
        right = 0
        for n, query in enumerate(queries):
            words = _asked(points[n])
            times["ours"].append(_timed(ours.rankings, query, words, 10))
            times["ours dense"].append(_timed(ours.rankings, query, NOTHING, 10))
            best = {points[n].id for n in np.argsort(-(exact @ query))[:10]}
            right += len(best & {hit.id for hit in ours.rankings(query, NOTHING, 10)[0]})
            if n % 10 == 0:
                dense = models.QueryRequest(query=query.tolist(), using=DENSE, limit=10)
                sparse = models.SparseVector(indices=words.indices, values=words.values)
                both = [dense, models.QueryRequest(query=sparse, using=SPARSE, limit=10)]
                times["local"].append(_timed(local.query_batch_points, "loop", both))
                times["local dense"].append(_timed(local.query_batch_points, "loop", [dense]))
        ours.close()
        local.close()
    medians = {side: statistics.median(each) for side, each in times.items()}
    return {
        "ingest_vs_local": round(took["local"] / took["ours"], 2),
        "search_vs_local": round(medians["local"] / medians["ours"], 2),
        "dense_search_vs_local": round(medians["local dense"] / medians["ours dense"], 2),
        "recall_at_10": round(right / (10 * len(queries)), 4),
    }


def _embed_vs_fp32(data: Path, embedding: str, float32: Embedder) -> dict[str, float]:
    if not isinstance(float32, SentenceTransformerEmbedder) or float32.device != "cpu":
        return {}
    rows = parse_table(read_bytes(data), data.name, ("question", "context"), ("answer",)).rows
    texts = sorted({row.context for row in rows}, key=len)
    drawn = texts[:: -(-len(texts) // 96)]
    int8 = load_embedder(embedding, "cpu", "int8")
    ratios = []
    for _ in range(5):
        begun = time.perf_counter()
        float32._model.encode(drawn, show_progress_bar=False)
        between = time.perf_counter()
        int8.encode_passages(drawn)
        ratios.append((between - begun) / (time.perf_counter() - between))
    gold = np.array([texts.index(row.context) for row in rows])
    asked = [row.question for row in rows]
    before, after = (_ndcg(each.encode_queries(asked), each.encode_passages(texts), gold) for each in (float32, int8))
    return {"embed_vs_fp32": round(statistics.median(ratios), 2), "embed_ndcg_lost": round(1 - after / before, 4)}


def _ndcg(queries: Vectors, passages: Vectors, gold: NDArray[np.int64]) -> float:
    """Return nDCG@10 by exact search, where each query has one right passage."""
    scores = queries @ passages.T
    better = (scores > scores[np.arange(len(gold)), gold][:, None]).sum(axis=1)
    return float(np.where(better < 10, 1 / np.log2(better + 2), 0.0).mean())


def _at_size(size: int) -> dict[str, float]:
    """Return what an index of so many passages takes, in this process."""
    with _folder() as folder:
        before = _resident_mb()
        store = EdgeStore.open(folder / "shard", DIMENSION, empty=True)
        asked: list[Point] = []
        batch: list[Point] = []
        for n, point in enumerate(_points(size)):
            if n % max(1, size // SEARCHES) == 0:
                asked.append(point)
            batch.append(point)
            if len(batch) == 500:
                store.upsert(batch)
                batch = []
        store.upsert(batch)
        store.flush()
        store.optimize()
        store.wait()
        times = []
        for query, point in zip(_near([point.dense for point in asked]), asked, strict=True):
            begun = time.perf_counter()
            store.rankings(query, _asked(point), 50)
            times.append(time.perf_counter() - begun)
        memory = _resident_mb() - before
        store.close()
        disk = sum(file.stat().st_blocks * 512 for file in (folder / "shard").rglob("*") if file.is_file()) / 1e6
    return {
        "search_p50_ms": round(1000 * statistics.median(times), 3),
        "memory_mb": round(memory, 1),
        "disk_mb": round(disk, 1),
    }


def _points(number: int) -> Iterator[Point]:
    """Yield points of clustered vectors and Zipfian words, always the same."""
    drawn = np.random.default_rng(0)
    centres = drawn.normal(size=(CLUSTERS, DIMENSION))
    for n in range(number):
        vector = centres[drawn.integers(CLUSTERS)] + 0.7 * drawn.normal(size=DIMENSION)
        words = np.unique(np.minimum(drawn.zipf(1.3, WORDS), VOCABULARY))
        sparse = SparseVector(words.tolist(), [1.0] * len(words))
        yield Point(str(uuid.UUID(int=n)), (vector / np.linalg.norm(vector)).astype(np.float32), sparse, "text " * 100)


def _asked(point: Point) -> SparseVector:
    """Return a question of six of the passage's words."""
    return SparseVector(point.sparse.indices[-6:], [1.0] * 6)


def _timed(run: Callable[..., object], *args: object) -> float:
    begun = time.perf_counter()
    run(*args)
    return time.perf_counter() - begun


def _near(vectors: Sequence[Vectors]) -> list[Vectors]:
    """Return queries: vectors close to these."""
    drawn = np.random.default_rng(1)
    moved = [vector + 0.02 * drawn.normal(size=DIMENSION) for vector in vectors]
    return [(vector / np.linalg.norm(vector)).astype(np.float32) for vector in moved]


def _local(folder: Path, dimension: int) -> QdrantClient:
    client = QdrantClient(path=str(folder))
    client.create_collection(
        "loop",
        vectors_config={DENSE: models.VectorParams(size=dimension, distance=models.Distance.COSINE)},
        sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    return client


def _struct(point: Point) -> models.PointStruct:
    sparse = models.SparseVector(indices=point.sparse.indices, values=point.sparse.values)
    return models.PointStruct(
        id=point.id, vector={DENSE: point.dense.tolist(), SPARSE: sparse}, payload={"text": point.text}
    )


def _resident_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="asktwice-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
