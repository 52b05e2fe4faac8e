"""The engine in this process: graphs are built beside it, and nothing is lost, blocked or left behind meanwhile."""

import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from services.retriever import edge_store
from services.retriever.edge_store import EdgeStore
from services.retriever.sparse import SparseVector
from services.retriever.store import Point

DIMENSION = 64


def points(number: int, seed: int = 0) -> list[Point]:
    drawn = np.random.default_rng(seed)
    vectors = drawn.normal(size=(number, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [str(uuid.UUID(int=seed << 64 | n)) for n in range(number)]
    return [
        Point(id, v, SparseVector([n % 50], [1.0]), "t") for n, (id, v) in enumerate(zip(ids, vectors, strict=True))
    ]


def without_graph(store: EdgeStore) -> int:
    return edge_store._without_graph(store._shard)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vectors"


def test_a_graph_is_built_while_reading_and_writing_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_store, "MIN_GRAPH_BYTES", 1_000_000)
    # Enough that the engine builds a graph: its own threshold is 10 MB of vectors.
    many, few = points(45_000), points(30, seed=1)
    store = EdgeStore.open(folder, DIMENSION, empty=True)
    for start in range(0, len(many), 1000):
        store.upsert(many[start : start + 1000])
    store.flush()
    assert without_graph(store) == len(many)
    store.optimize()
    slowest, searches, written = 0.0, 0, 0
    while store._optimizing is not None:
        begun = time.monotonic()
        assert store.rankings(many[searches].dense, many[searches].sparse, 3)[0][0].id == many[searches].id
        slowest = max(slowest, time.monotonic() - begun)
        searches += 1
        if written < len(few):
            store.upsert([few[written]])
            store.delete([many[-1 - written].id])
            written += 1
        time.sleep(0.01)
    assert searches > 20
    assert slowest < 1.5, "it copies and loads files, and builds nothing"
    assert written == len(few)
    assert without_graph(store) < 1000
    assert store.count() == len(many)
    assert store.missing([p.id for p in few]) == []
    gone = [p.id for p in many[-len(few) :]]
    assert store.missing(gone) == gone
    found = [store.rankings(p.dense, p.sparse, 10)[0][0].id for p in many[:50]]
    assert found == [p.id for p in many[:50]]
    store.close()
    assert [path.name for path in folder.parent.iterdir()] == ["vectors"]
    again = EdgeStore.open(folder, DIMENSION, empty=False)
    assert (again.count(), again.missing([p.id for p in few])) == (len(many), [])
    again.close()


def test_closing_does_not_wait_for_a_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_store, "MIN_GRAPH_BYTES", 1000)
    store = EdgeStore.open(folder, DIMENSION, empty=True)
    store.upsert(points(500))
    store.flush()
    store.optimize()
    begun = time.monotonic()
    store.close()
    assert time.monotonic() - begun < 5
    assert not any(thread.name == "index-optimizer" for thread in threading.enumerate())
    again = EdgeStore.open(folder, DIMENSION, empty=False)
    assert again.count() == 500
    again.close()
    assert [path.name for path in folder.parent.iterdir()] == ["vectors"]


@pytest.mark.parametrize("left", ["former", "former optimized-1", "vectors former", "vectors optimized-1"])
def test_a_kill_between_the_renames_leaves_a_shard(folder: Path, left: str) -> None:
    store = EdgeStore.open(folder, DIMENSION, empty=True)
    store.upsert(points(20))
    store.flush()
    store.close()
    if "vectors" not in left.split():
        folder.rename(folder.with_name("vectors.former"))
    for name in left.split():
        if name != "vectors":
            folder.with_name(f"vectors.{name}").mkdir(exist_ok=True)
    again = EdgeStore.open(folder, DIMENSION, empty=False)
    assert again.count() == 20
    again.close()
    assert [path.name for path in folder.parent.iterdir()] == ["vectors"]


def test_where_a_graph_cannot_be_built_all_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(edge_store, "MIN_GRAPH_BYTES", 1000)
    monkeypatch.setattr(edge_store.shutil, "copytree", full)
    store = EdgeStore.open(folder, DIMENSION, empty=True)
    store.upsert(points(500))
    store.flush()
    store.optimize()
    store.wait()
    assert "No space left" in caplog.text
    assert store.count() == 500
    store.close()
