"""Embeddings of a server: a fake that answers, refuses, hangs and lies."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, Request, Response

from contracts.errors import IndexMismatch, Unavailable
from services.retriever import remote_embedding
from services.retriever.remote_embedding import OpenAIEmbedder
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings
from tests.serving import serving

Data = list[dict[str, Any]]


class Server:
    """Embeds a text by its letters, unless it is told to do otherwise."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lie: Callable[[Data], object] = lambda data: data
        self.failures: list[int] = []
        self.app = FastAPI()
        self.app.post("/v1/embeddings")(self.answer)

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("authorization"))
        if self.failures:
            return Response('{"error": {"message": "no"}}', self.failures.pop(0), media_type="application/json")
        data = [
            {"object": "embedding", "index": n, "embedding": [float(text.count(letter)) + 0.1 for letter in "абвгдеж"]}
            for n, text in enumerate(body["input"])
        ]
        answer = {
            "object": "list",
            "data": self.lie(data),
            "model": "m",
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }
        return Response(json.dumps(answer), media_type="application/json")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def url(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(remote_embedding, "TIMEOUT_S", 2)
    with serving(server.app) as url:
        yield f"{url}/v1"


def test_an_index_of_a_servers_vectors(server: Server, url: str, settings: RetrieverSettings, knowledge: bytes) -> None:
    mine = settings.model_copy(update={"embedding": "openai:letters", "embedding_url": url})
    retriever = Retriever.open(mine)
    retriever.ingest("knowledge.csv", knowledge)
    assert (retriever.info().embedding, retriever.info().dimension) == ("openai:letters", 7)
    assert retriever.search("наставники", 1)[0].text.startswith("Домашние задания")
    retriever.close()
    assert {body["model"] for body in server.asked} == {"letters"}
    with pytest.raises(IndexMismatch, match="openai:letters"):
        Retriever.open(settings)


def test_long_lists_go_in_batches_and_come_back_in_order(server: Server, url: str) -> None:
    embedder = OpenAIEmbedder("letters", url, "secret")
    server.lie = lambda data: data[::-1]
    texts = ["а" * (n % 7) + "б" * (n // 7) for n in range(150)]
    vectors = embedder.encode_passages(texts)
    assert [len(body["input"]) for body in server.asked] == [1, 64, 64, 22]
    assert set(server.keys) == {"Bearer secret"}
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[1] == pytest.approx(embedder.encode_queries([texts[1]])[0])
    assert embedder.encode_passages([]).shape == (0, 7)


def test_what_passes_is_tried_again(server: Server, url: str) -> None:
    embedder = OpenAIEmbedder("letters", url, "key")
    server.failures = [500, 429]
    assert embedder.encode_queries(["а"]).shape == (1, 7)


LIES: dict[str, Callable[[Data], object]] = {
    "too few": lambda data: data[:-1],
    "the same twice": lambda data: [data[0], data[0]],
    "another length": lambda data: [each | {"embedding": [1.0, 2.0]} for each in data],
    "ragged": lambda data: [data[0], data[1] | {"embedding": [1.0]}],
    "zeros": lambda data: [each | {"embedding": [0.0] * 7} for each in data],
    "texts": lambda data: [each | {"embedding": ["a"] * 7} for each in data],
    "nothing": lambda data: None,
}


@pytest.mark.parametrize("lie", list(LIES))
def test_an_answer_that_does_not_fit_is_refused(server: Server, url: str, lie: str) -> None:
    embedder = OpenAIEmbedder("letters", url, "key")
    server.lie = LIES[lie]
    with pytest.raises(Unavailable, match="ASKTWICE_EMBEDDING_URL"):
        embedder.encode_passages(["а", "б"])


def test_a_refusal_says_where_to_look(server: Server, url: str) -> None:
    server.failures = [401]
    with pytest.raises(Unavailable, match=r"letters at 127\.0\.0\.1 cannot be had: .*401.*ASKTWICE_EMBEDDING_KEY"):
        OpenAIEmbedder("letters", url, "key")
    with pytest.raises(Unavailable, match="cannot be had"):
        OpenAIEmbedder("letters", "http://127.0.0.1:9/v1", "key")
