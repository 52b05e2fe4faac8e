"""A small Russian knowledge base, and a retriever over each store."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest
from qdrant_client import QdrantClient

from services.retriever.retriever import Progress, Retriever, silent
from services.retriever.server_store import ServerStore
from services.retriever.settings import RetrieverSettings
from services.retriever.store import Store

KNOWLEDGE = [
    "Курс «Python для анализа данных» длится четыре месяца и стоит 45 000 рублей.",
    "Курс по нейронным сетям ведут практики, занятия проходят по вторникам и четвергам вечером.",
    "Карьерный центр помогает выпускникам с трудоустройством: резюме, собеседования, стажировки.",
    "Оплату можно разделить на двенадцать частей без процентов.",
    "Всё обучение проходит дистанционно, ещё есть записи всех вебинаров.",
    "Домашние задания проверяют наставники в течение двух дней.",
]


class OpenRetriever(Protocol):
    """Opens a retriever that is closed after the test."""

    def __call__(self, settings: RetrieverSettings, progress: Progress = silent) -> Retriever: ...


@pytest.fixture
def table() -> Callable[[Sequence[str]], bytes]:
    """Return a function that writes contexts as a CSV of question, answer, context."""

    def write(contexts: Sequence[str]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["question", "answer", "context"])
        writer.writerows([f"Вопрос {n}?", f"Ответ {n}.", context] for n, context in enumerate(contexts, 1))
        return text.getvalue().encode()

    return write


@pytest.fixture
def knowledge(table: Callable[[Sequence[str]], bytes]) -> bytes:
    return table(KNOWLEDGE)


@pytest.fixture
def settings(tmp_path: Path) -> RetrieverSettings:
    return RetrieverSettings(home=tmp_path / "home", qdrant_url=None)


@pytest.fixture(params=["edge", "server", "faiss"])
def open_retriever(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenRetriever]:
    """Open over the engine in process, over the server's code on qdrant-client's own local mode, and over FAISS."""
    opened: list[Retriever] = []

    def local_server(settings: RetrieverSettings, dimension: int, empty: bool, number: int) -> Store:
        client = QdrantClient(path=str(tmp_path / "server"))
        store = ServerStore(client, settings.model_copy(update={"qdrant_url": "http://qdrant:6333"}), number)
        store.ensure(dimension, empty)
        return store

    def open_it(settings: RetrieverSettings, progress: Progress = silent) -> Retriever:
        if request.param == "faiss":
            settings = settings.model_copy(update={"store": "faiss"})
        retriever = Retriever.open(settings, progress, local_server if request.param == "server" else None)
        opened.append(retriever)
        return retriever

    yield open_it
    for retriever in opened:
        retriever.close()
