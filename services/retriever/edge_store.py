"""The Qdrant engine in this process (qdrant-edge): the default."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Thread

import qdrant_edge as edge

from contracts.errors import Unavailable
from services.retriever.embedding import Vectors
from services.retriever.fusion import Hit
from services.retriever.sparse import SparseVector
from services.retriever.store import DENSE, SPARSE, Point, predecessor

MIN_GRAPH_BYTES = 10_000_000
"""Of dense vectors that lie outside of a graph; comparing so many takes a millisecond or two."""
MIN_FREE_BYTES = 128_000_000
"""What the engine may allocate ahead: logs and chunks of 32 MB each."""
ATTEMPTS = 2
"""At opening a shard, after which it is given up; one alone may have been killed by somebody."""
log = logging.getLogger("asktwice")


class EdgeStore:
    """A shard in a folder of its own."""

    name = "qdrant-edge"

    def __init__(self, shard: edge.EdgeShard, folder: Path, dimension: int):
        self._shard = shard
        self._folder = folder
        self._dimension = dimension
        self._free = Condition()  # guards what follows; notified when nobody uses the shard
        self._users = 0
        self._writes: list[edge.UpdateOperation] | None = None
        """While a copy is being optimized: what was written since it was taken."""
        self._optimizing: Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._closing = False

    @classmethod
    def open(cls, folder: Path, dimension: int, empty: bool) -> "EdgeStore":
        """Open the shard in a folder, or make it. The caller sees to it that no other process has the folder open.

        Args:
            folder: holds the shard and nothing else.
            dimension: of the dense vectors.
            empty: nothing that may be there is needed any more.
        """
        former, _ = _beside(folder)
        if former.is_dir() and not folder.is_dir():  # killed between two renames
            former.rename(folder)
        for left in folder.parent.glob(f"{folder.name}.*"):
            shutil.rmtree(left, ignore_errors=True)
        if not empty and folder.is_dir():
            try:
                with _attempt(folder):
                    shard = edge.EdgeShard.load(str(folder))
                    shard.query(edge.QueryRequest(limit=1, query=edge.Query.Nearest([1.0] * dimension, using=DENSE)))
                return cls(shard, folder, dimension)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # of a panic the binding makes no narrower one
                _need_room(folder)  # else it may be that, and nothing is wrong with the shard
                log.warning("%s cannot be opened and is made again from the ledger: %s", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return cls(edge.EdgeShard.create(str(folder), _config(dimension)), folder, dimension)

    def upsert(self, points: Sequence[Point]) -> None:
        batch = [
            edge.Point(point.id, {DENSE: point.dense.tolist(), SPARSE: _sparse(point.sparse)}, {"text": point.text})
            for point in points
        ]
        self._write(edge.UpdateOperation.upsert_points(batch))

    def delete(self, ids: Sequence[str]) -> None:
        self._write(edge.UpdateOperation.delete_points(list(ids)))

    def flush(self) -> None:
        _need_room(self._folder)
        with self._open() as shard:
            shard.flush()

    def optimize(self) -> None:
        """Build the graph of the dense vectors if many lie outside of one.

        The binding holds Python's lock for as long as that takes, seconds to minutes in which the service would not
        even answer that it lives. So a process of its own does it, on a copy, which then takes the shard's place.
        """
        with self._open() as shard:
            if _without_graph(shard) * self._dimension * 4 < MIN_GRAPH_BYTES:
                return
            with self._free:
                if self._optimizing is None and not self._closing:
                    self._optimizing = Thread(target=self._optimize, name="index-optimizer", daemon=True)
                    self._optimizing.start()

    def rankings(self, dense: Vectors, sparse: SparseVector, limit: int) -> tuple[list[Hit], list[Hit]]:
        queries = (edge.Query.Nearest(dense.tolist(), using=DENSE), edge.Query.Nearest(_sparse(sparse), using=SPARSE))
        requests = [edge.QueryRequest(limit=limit, query=query) for query in queries]
        with self._open() as shard:
            by_dense, by_sparse = shard.query_batch(edge.QueryBatchRequest(requests))
        return _hits(by_dense), _hits(by_sparse)

    def missing(self, ids: Sequence[str]) -> list[str]:
        with self._open() as shard:
            there = {str(record.id) for record in shard.retrieve(list(ids), with_payload=False, with_vector=False)}
        return [id for id in ids if id not in there]

    def count(self) -> int:
        with self._open() as shard:
            return int(shard.count(edge.CountRequest(exact=True)))

    def succeed(self) -> None:
        shutil.rmtree(self._folder.with_name(predecessor(self._folder.name)), ignore_errors=True)

    def wait(self) -> None:
        """Return once no graph is being built."""
        if optimizing := self._optimizing:
            optimizing.join()

    def close(self) -> None:
        with self._free:
            self._closing = True
            if self._child is not None:
                self._child.kill()
        self.wait()
        self._shard.close()

    @contextmanager
    def _open(self) -> Iterator[edge.EdgeShard]:
        """Use the shard: it is not replaced meanwhile."""
        with self._free:
            self._users += 1
            shard = self._shard
        try:
            yield shard
        finally:
            with self._free:
                self._users -= 1
                self._free.notify_all()

    def _write(self, operation: edge.UpdateOperation) -> None:
        _need_room(self._folder)
        with self._open() as shard:
            shard.update(operation)
            if self._writes is not None:
                self._writes.append(operation)

    def _optimize(self) -> None:
        former, copy = _beside(self._folder)
        try:
            size = sum(file.stat().st_blocks * 512 for file in self._folder.rglob("*"))
            _need_room(self._folder, 3 * size)
            with self._alone():  # a copy of files that are being written would be damaged
                self._shard.flush()
                shutil.copytree(self._folder, copy)
                self._writes = []
            with self._free:
                if self._closing:
                    return
                command = [sys.executable, "-m", "services.retriever.optimizing", str(copy)]
                self._child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            _, said = self._child.communicate()
            if self._child.returncode != 0:
                if not self._closing:
                    log.warning("the index could not be optimized: %s", said.decode("utf-8", "replace")[-300:])
                return
            with self._alone():
                _catch_up(copy, self._writes)
                os.sync()
                self._shard.close()
                self._folder.rename(former)
                copy.rename(self._folder)
                self._shard = edge.EdgeShard.load(str(self._folder))
        except (OSError, Unavailable) as error:  # no room for the copy: search is slower, and right
            log.warning("the index could not be optimized: %s", error)
        finally:
            self._child, self._writes = None, None
            shutil.rmtree(copy, ignore_errors=True)
            shutil.rmtree(former, ignore_errors=True)
            self._optimizing = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until nobody uses the shard, and let nobody in."""
        with self._free:
            self._free.wait_for(lambda: self._users == 0)
            yield


@contextmanager
def _attempt(folder: Path) -> Iterator[None]:
    """Open a shard, which where it is damaged may end this process: not a third time.

    Raises:
        OSError: two attempts before did not come to an end.
    """
    attempts = folder.with_name(f"opening-{folder.name}")
    before = attempts.stat().st_size if attempts.exists() else 0
    if before >= ATTEMPTS:
        attempts.unlink()
        raise OSError(f"the process ended {before} times while it was opened")
    with attempts.open("ab") as file:
        file.write(b".")
    yield
    attempts.unlink()


def _catch_up(folder: Path, writes: Sequence[edge.UpdateOperation]) -> None:
    """Write to a closed shard what the one that it is to replace got since; durable on return."""
    shard = edge.EdgeShard.load(str(folder))
    for operation in writes:
        shard.update(operation)
    shard.flush()
    shard.close()


def _need_room(folder: Path, more: int = 0) -> None:
    """The engine writes through memory maps: where the disk has no room for a page, the kernel ends the process.

    Raises:
        Unavailable: there is not room enough to be sure.
    """
    if shutil.disk_usage(folder.parent).free < MIN_FREE_BYTES + more:
        raise Unavailable(
            f"The disk of {folder} is full: {(MIN_FREE_BYTES + more) // 1_000_000} MB have to be free to write. Make"
            " room and send it again; search goes on.",
            retry_after=30,
        )


def _beside(folder: Path) -> tuple[Path, Path]:
    """Return where a shard that was replaced lies for a moment, and the copy that is to replace it.

    The child of a process that was killed goes on with its copy for a while: another process makes another one.
    """
    return folder.with_name(f"{folder.name}.former"), folder.with_name(f"{folder.name}.optimized-{os.getpid()}")


def _without_graph(shard: edge.EdgeShard) -> int:
    """Return how many dense vectors are compared one by one. Every sparse vector counts as indexed."""
    info = shard.info()
    return int(2 * info.points_count - info.indexed_vectors_count)


def _config(dimension: int) -> edge.EdgeConfig:
    return edge.EdgeConfig(
        vectors={DENSE: edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine)},
        sparse_vectors={SPARSE: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
    )


def _sparse(vector: SparseVector) -> edge.SparseVector:
    return edge.SparseVector(vector.indices, vector.values)


def _hits(points: Sequence[edge.ScoredPoint]) -> list[Hit]:
    return [Hit(str(point.id), point.score) for point in points]
