"""The retriever over HTTP."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from contracts.retrieval import IndexInfo
from services.retriever.app import create_app
from services.retriever.settings import RetrieverSettings
from tests.serving import AWKWARD_BODIES, MALFORMED_BODIES, eventually, ready_client, serving

from .conftest import KNOWLEDGE
from .test_crash import HOLDER

Table = Callable[[Sequence[str]], bytes]
TOP_K_BODIES = {
    "nan": b'{"query": "a", "top_k": NaN}',
    "infinity": b'{"query": "a", "top_k": Infinity}',
    "overflow": b'{"query": "a", "top_k": 1e999}',
    "surrogate": b'{"query": "\\ud800"}',
    "zero": b'{"query": "a", "top_k": 0}',
    "too many": b'{"query": "a", "top_k": 21}',
    "text": b'{"query": "a", "top_k": "3"}',
    "unknown field": b'{"query": "a", "k": 3}',
    "no words": b'{"query": "  "}',
    "too long": b'{"query": "' + b"a" * 20_001 + b'"}',
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = RetrieverSettings(home=tmp_path_factory.mktemp("home"), qdrant_url=None)
    with serving(create_app(settings)) as url, ready_client(url) as client:
        yield client


def test_the_data_file_is_indexed_at_start(settings: RetrieverSettings, tmp_path: Path, knowledge: bytes) -> None:
    data = tmp_path / "knowledge.csv"
    data.write_bytes(knowledge)
    with serving(create_app(settings.model_copy(update={"data": data}))) as url, ready_client(url) as client:
        about = IndexInfo.model_validate(client.get("/readyz").json()["about"])
        assert about == IndexInfo(passages=6, embedding="hashed-char-ngrams-2048", dimension=2048, store="qdrant-edge")
        results = client.post("/search", json={"query": "кто проверяет домашнее задание", "top_k": 2}).json()["results"]
        assert [set(passage) for passage in results] == [{"id", "title", "text", "score", "source", "place"}] * 2
        assert (results[0]["text"], results[0]["title"]) == (KNOWLEDGE[5], "knowledge.csv, row 6")
        assert results[0]["score"] > results[1]["score"]


def test_an_uploaded_document_is_found_by_the_next_question(settings: RetrieverSettings, knowledge: bytes) -> None:
    with serving(create_app(settings)) as url, ready_client(url) as client:
        empty = client.post("/search", json={"query": "курс"})
        assert (empty.status_code, empty.json()["code"]) == (409, "index_empty")
        assert "asktwice index FILE" in empty.json()["detail"]
        receipt = client.post("/documents", files={"file": ("../../etc/знания.csv", knowledge)})
        assert receipt.status_code == 200
        assert receipt.json() == {
            "source": "../../etc/знания.csv",
            "unit": "row",
            "read": 6,
            "accepted": 6,
            "rejected": 0,
            "duplicates": 0,
            "unchanged": 0,
            "errors": [],
            "passages": 6,
        }
        results = client.post("/search", json={"query": "курс Python"}).json()["results"]
        assert (len(results), results[0]["text"]) == (3, KNOWLEDGE[0])
        wordless = client.post("/search", json={"query": "??? !!!"})
        assert (wordless.status_code, wordless.json()["code"]) == (422, "invalid_input")


@pytest.mark.parametrize("name", [*AWKWARD_BODIES, *MALFORMED_BODIES])
@pytest.mark.parametrize("path", ["/search", "/documents"])
def test_bad_bodies_are_422(empty: httpx.Client, path: str, name: str) -> None:
    content, kind = (AWKWARD_BODIES | MALFORMED_BODIES)[name]
    answer = empty.post(path, content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


@pytest.mark.parametrize("name", TOP_K_BODIES)
def test_a_bad_field_is_422_and_named(empty: httpx.Client, name: str) -> None:
    answer = empty.post("/search", content=TOP_K_BODIES[name], headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].split(".")[-1] in ("query", "top_k", "k")


@pytest.mark.parametrize(
    "upload",
    [
        {"files": {"document": ("a.csv", b"context\na\n")}},
        {"data": {"file": "context"}},
        {"files": {"file": ("a.pdf", b"%PDF-")}},
        {"files": {"file": ("a.csv", b"question,answer\na,b\n")}},
        {"files": {"file": ("a.csv", b"")}},
        {"files": {"file": ("a.csv", b"PK\x03\x04")}},
        {"files": [("file", ("a.csv", b"context\na\n")), ("file", ("b.csv", b"context\nb\n"))]},
        {"files": {"file": ("a.csv", b"context\na\n")}, "data": {"title": "b"}},
    ],
)
def test_a_bad_upload_is_422(empty: httpx.Client, upload: dict[str, object]) -> None:
    answer = empty.post("/documents", **upload)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert empty.post("/search", json={"query": "a"}).status_code == 409


def test_documents_are_listed_and_taken_out(empty: httpx.Client, knowledge: bytes) -> None:
    names = ["курсы/a.csv", "b.txt"]
    assert empty.get("/documents").json() == {"documents": []}
    for name, content in zip(names, (knowledge, "Адрес: Москва, Тверская, 1.".encode()), strict=True):
        assert empty.post("/documents", files={"file": (name, content)}).status_code == 200
    told = empty.get("/documents").json()["documents"]
    assert [(d["name"], d["unit"], d["read"], d["passages"]) for d in told] == [
        ("b.txt", "paragraph", 1, 1),
        ("курсы/a.csv", "row", 6, 6),
    ]
    assert told[0]["sha256"] == hashlib.sha256("Адрес: Москва, Тверская, 1.".encode()).hexdigest()
    assert empty.post("/search", json={"query": "адрес"}).json()["results"][0]["place"] == "paragraph 1"
    for name, status in (("b.txt", 204), ("b.txt", 404), (quote(names[0], safe=""), 204), ("nowhere.csv", 404)):
        assert empty.delete(f"/documents/{name}").status_code == status
    assert empty.get("/documents").json() == {"documents": []}
    assert empty.post("/search", json={"query": "адрес"}).status_code == 409


def test_a_file_of_an_unsure_encoding_is_asked_about_with_previews(empty: httpx.Client) -> None:
    file = ("a.txt", "Größe für Straßenbahn".encode("cp1252"))
    asked = empty.post("/documents", files={"file": file})
    assert asked.status_code == 422
    assert {"field": "encoding", "message": "cp1252: Größe für Straßenbahn"} in asked.json()["errors"]
    assert empty.get("/documents").json() == {"documents": []}
    assert empty.post("/documents", files={"file": file}, data={"encoding": "cp1252"}).status_code == 200
    assert empty.post("/documents", files={"file": file}, data={"encoding": ""}).status_code == 422  # as if not named
    assert "not certain" in empty.post("/documents", files={"file": file}, data={"encoding": ""}).json()["detail"]
    found = empty.post("/search", json={"query": "дом", "sources": ["x"]})
    assert found.status_code == 404
    half = empty.post("/search", content=b'{"query": "x", "sources": ["\\ud800"]}')
    assert half.status_code == 422
    assert empty.post("/search", json={"query": "Größe"}).json()["results"][0]["text"] == "Größe für Straßenbahn"


def test_a_refused_data_file_is_named_and_uploads_still_work(
    settings: RetrieverSettings, tmp_path: Path, knowledge: bytes
) -> None:
    data = tmp_path / "data.csv"
    data.write_bytes(b"question;answer\na;b\n")
    with serving(create_app(settings.model_copy(update={"data": data}))) as url, httpx.Client(base_url=url) as client:
        eventually(lambda: "lacks" in client.get("/readyz").text, "the refusal on /readyz")
        state = client.get("/readyz")
        assert state.status_code == 503
        assert "data.csv lacks the column context" in state.json()["checks"]["data"]
        assert client.get("/healthz").status_code == 200
        assert client.post("/documents", files={"file": ("k.csv", knowledge)}).status_code == 200
        assert client.post("/search", json={"query": "курс"}).status_code == 200


def test_another_embedding_is_409_and_said_on_readyz(
    settings: RetrieverSettings, knowledge: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(create_app(settings)) as url, ready_client(url) as client:
        client.post("/documents", files={"file": ("k.csv", knowledge)})
    from services.retriever.embedding import HashedNgrams

    monkeypatch.setattr("services.retriever.retriever.load_embedder", lambda *_: HashedNgrams(64))
    with serving(create_app(settings)) as url, httpx.Client(base_url=url) as client:
        eventually(lambda: "hashed-char-ngrams-64" in client.get("/readyz").text, "the mismatch on /readyz")
        for answer in (
            client.post("/search", json={"query": "курс"}),
            client.post("/documents", files={"file": ("k.csv", knowledge)}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (409, "index_mismatch")


def test_what_is_not_there_yet_is_tried_again(settings: RetrieverSettings) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(settings.home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with serving(create_app(settings)) as url, httpx.Client(base_url=url) as client:
            eventually(lambda: "in use by another process" in client.get("/readyz").text, "the lock on /readyz")
            answer = client.post("/search", json={"query": "курс"})
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            holder.kill()
            eventually(lambda: client.get("/readyz").status_code == 200, "ready once the other process is gone")


def test_a_damaged_index_is_said_and_once_it_is_deleted_the_service_goes_on(settings: RetrieverSettings) -> None:
    settings.folder.mkdir(parents=True)
    (settings.folder / "ledger.sqlite").write_bytes(b"not a database" * 1000)
    with serving(create_app(settings)) as url, httpx.Client(base_url=url) as client:
        eventually(lambda: "is damaged" in client.get("/readyz").text, "the damage on /readyz")
        answer = client.post("/search", json={"query": "курс"})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "Delete that folder and index again" in answer.json()["detail"]
        shutil.rmtree(settings.folder)
        eventually(lambda: client.get("/readyz").status_code == 200, "ready once the folder is gone")


def test_a_server_that_is_down_is_not_ready_and_stops_cleanly(settings: RetrieverSettings) -> None:
    settings = settings.model_copy(update={"qdrant_url": "http://127.0.0.1:9"})
    with serving(create_app(settings)) as url, httpx.Client(base_url=url) as client:
        eventually(lambda: "127.0.0.1:9" in client.get("/readyz").text, "the server's URL on /readyz")
        assert client.post("/search", json={"query": "курс"}).status_code == 503
        assert client.get("/healthz").status_code == 200


def test_the_environment_names_the_server_and_an_empty_value_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_URL", "http://qdrant:6333")
    monkeypatch.setenv("ASKTWICE_EMBEDDING", "")
    settings = RetrieverSettings()
    assert (settings.qdrant_url, settings.embedding) == ("http://qdrant:6333", None)
    monkeypatch.setenv("QDRANT_URL", "")
    assert RetrieverSettings().qdrant_url is None
