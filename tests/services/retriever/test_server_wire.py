"""What reaches a Qdrant server, byte for byte, and what becomes of a server that fails: a fake that speaks its REST."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError

from contracts.errors import Unavailable
from services.retriever.embedding import HashedNgrams
from services.retriever.retriever import Retriever
from services.retriever.server_store import ServerStore
from services.retriever.settings import RetrieverSettings
from tests.serving import serving

DONE = {"result": {"operation_id": 1, "status": "completed"}, "status": "ok", "time": 0.0}


class Recorder:
    """Answers as Qdrant does to what the store asks, and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.collections: set[str] = set()
        self.fault: Callable[[], Any] | None = None
        self.app = FastAPI()
        self.app.add_api_route("/{path:path}", self.answer, methods=["GET", "PUT", "POST", "DELETE"])

    async def answer(self, path: str, request: Request) -> Response:
        body = await request.body()
        self.asked.append((request.method, path, dict(request.query_params), json.loads(body) if body else None))
        if self.fault is not None and path.startswith("collections/asktwice-1/points") and not path.endswith("count"):
            found = self.fault()
            return await found if asyncio.iscoroutine(found) else found
        result: dict[str, Any] = DONE
        if path.endswith("/exists"):
            result = {"result": {"exists": path.split("/")[1] in self.collections}, "status": "ok", "time": 0.0}
        elif path.endswith("/aliases") and request.method == "GET":
            result = {"result": {"aliases": []}, "status": "ok", "time": 0.0}
        elif path.endswith("/count"):
            result = {"result": {"count": 0}, "status": "ok", "time": 0.0}
        elif path.endswith("/points") and request.method == "POST":  # which of these are there
            result = {"result": [], "status": "ok", "time": 0.0}
        elif path == "collections/aliases" or path.count("/") == 1:
            if request.method == "PUT":
                self.collections.add(path.split("/")[1])
            if request.method == "DELETE":
                self.collections.discard(path.split("/")[1])
            result = {"result": True, "status": "ok", "time": 0.0}
        return Response(json.dumps(result), media_type="application/json")

    def bodies(self, method: str, path: str) -> list[tuple[dict[str, str], Any]]:
        return [(query, body) for verb, at, query, body in self.asked if (verb, at) == (method, path)]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def at_server(recorder: Recorder, settings: RetrieverSettings) -> Iterator[RetrieverSettings]:
    with serving(recorder.app) as url:
        yield settings.model_copy(update={"qdrant_url": url, "qdrant_timeout_s": 2})


def test_every_setting_reaches_the_wire(recorder: Recorder, at_server: RetrieverSettings, knowledge: bytes) -> None:
    changed = at_server.model_copy(
        update={
            "qdrant_shards": 12,
            "qdrant_replicas": 2,
            "qdrant_write_consistency": 2,
            "qdrant_ordering": "strong",
            "qdrant_quantization": "scalar",
            "qdrant_on_disk": True,
            "qdrant_hnsw_m": 32,
            "qdrant_ef_construct": 256,
        }
    )
    retriever = Retriever.open(changed)
    retriever.ingest("knowledge.csv", knowledge)
    [(_, made)] = recorder.bodies("PUT", "collections/asktwice-1")
    assert made["shard_number"] == 12
    assert made["replication_factor"] == 2
    assert made["write_consistency_factor"] == 2
    assert made["hnsw_config"] == {"m": 32, "ef_construct": 256}
    assert made["quantization_config"]["scalar"] == {"type": "int8", "quantile": 0.99, "always_ram": True}
    assert made["vectors"]["dense"] == {"size": 2048, "distance": "Cosine", "on_disk": True}
    assert made["sparse_vectors"]["sparse"]["modifier"] == "idf"
    [(query, written)] = recorder.bodies("PUT", "collections/asktwice-1/points")
    assert (query["wait"], query["ordering"]) == ("true", "strong")
    assert len(written["points"]) == 6
    assert set(written["points"][0]["vector"]) == {"dense", "sparse"}
    retriever.ingest("knowledge.csv", "context\nДругое.\n".encode())
    [(query, deleted)] = recorder.bodies("POST", "collections/asktwice-1/points/delete")
    assert (query["wait"], query["ordering"], len(deleted["points"])) == ("true", "strong", 6)
    retriever.close()


def test_what_is_not_set_is_left_to_the_server(recorder: Recorder, at_server: RetrieverSettings) -> None:
    Retriever.open(at_server).close()
    [(_, made)] = recorder.bodies("PUT", "collections/asktwice-1")
    assert {name for name, value in made.items() if value is not None} <= {"vectors", "sparse_vectors", "hnsw_config"}
    assert not any((made.get("hnsw_config") or {}).values())


@pytest.mark.parametrize("kind", ["binary", "scalar"])
def test_each_quantization(recorder: Recorder, at_server: RetrieverSettings, kind: str) -> None:
    Retriever.open(at_server.model_copy(update={"qdrant_quantization": kind})).close()
    [(_, made)] = recorder.bodies("PUT", "collections/asktwice-1")
    assert list(made["quantization_config"]) == [kind]


def test_a_reindexed_collection_takes_the_alias_in_one_request(
    recorder: Recorder, at_server: RetrieverSettings, knowledge: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = Retriever.open(at_server)
    retriever.ingest("knowledge.csv", knowledge)
    retriever.close()
    assert recorder.collections == {"asktwice-1"}
    recorder.asked.clear()
    monkeypatch.setattr("services.retriever.retriever.load_embedder", lambda *_: HashedNgrams(64))
    Retriever.open(at_server.model_copy(update={"reindex": True})).close()
    [(_, made)] = recorder.bodies("PUT", "collections/asktwice-2")
    assert made["vectors"]["dense"]["size"] == 64
    [(_, swapped)] = recorder.bodies("POST", "collections/aliases")
    assert swapped["actions"] == [
        {"delete_alias": {"alias_name": "asktwice"}},
        {"create_alias": {"collection_name": "asktwice-2", "alias_name": "asktwice"}},
    ]
    steps = [
        (verb, path)
        for verb, path, _, _ in recorder.asked
        if (verb, path) == ("PUT", "collections/asktwice-2/points") or path.endswith("s/aliases") or verb == "DELETE"
    ]
    assert steps == [
        ("DELETE", "collections/asktwice-2"),
        ("PUT", "collections/asktwice-2/points"),
        ("POST", "collections/aliases"),
        ("DELETE", "collections/asktwice-1"),
    ]


async def _hang() -> Response:
    await asyncio.sleep(5)
    return Response()


FAULTS: dict[str, Callable[[], Any]] = {
    "500": lambda: Response('{"status": {"error": "panic"}}', 500, media_type="application/json"),
    "429": lambda: Response("{}", 429, {"Retry-After": "1"}),
    "not JSON": lambda: Response("<html>gateway</html>", 200, media_type="text/html"),
    "another JSON": lambda: Response('{"result": 5}', 200, media_type="application/json"),
    "only acknowledged": lambda: Response(
        json.dumps(DONE | {"result": {"operation_id": 1, "status": "acknowledged"}}), media_type="application/json"
    ),
    "hangs": _hang,
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_nothing_is_acknowledged_that_the_server_did_not_complete(
    recorder: Recorder, at_server: RetrieverSettings, knowledge: bytes, fault: str
) -> None:
    retriever = Retriever.open(at_server)
    recorder.fault = FAULTS[fault]
    with pytest.raises(Unavailable, match="Qdrant at http") as failed:
        retriever.ingest("knowledge.csv", knowledge)
    assert "Traceback" not in failed.value.detail
    assert retriever.documents() == []
    recorder.fault = None
    assert retriever.ingest("knowledge.csv", knowledge).accepted == 6
    retriever.close()


def test_a_server_that_is_not_named_is_asked_for() -> None:
    with pytest.raises(ValidationError, match="needs QDRANT_URL"):
        RetrieverSettings(store="qdrant", qdrant_url=None)


def test_the_store_is_the_servers_where_one_is_named(recorder: Recorder, at_server: RetrieverSettings) -> None:
    retriever = Retriever.open(at_server)
    assert isinstance(retriever._store, ServerStore)
    retriever.close()
    here = Retriever.open(at_server.model_copy(update={"store": "edge", "home": at_server.home / "b"}))
    assert here.info().store == "qdrant-edge"
    here.close()
