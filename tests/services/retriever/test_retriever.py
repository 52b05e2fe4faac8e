"""What goes in comes out, over both stores: once, durably, and only while a source has it."""

import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Literal

import pytest

from contracts.errors import IndexEmpty, IndexMismatch, InvalidInput, NotFound, Unavailable
from services.retriever.embedding import HashedNgrams, Vectors, _ngrams
from services.retriever.fusion import Hit
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings
from services.retriever.source import passage_id

from .conftest import KNOWLEDGE, OpenRetriever

Table = Callable[[Sequence[str]], bytes]


def texts(retriever: Retriever, query: str, top_k: int = 20) -> list[str]:
    return [passage.text for passage in retriever.search(query, top_k)]


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("Сколько стоят курсы по питону или Python?", 0),
        ("нейронная сеть, расписание занятия", 1),
        ("Поможете трудоустроиться, есть стажировка?", 2),
        ("оплатить частями без процента", 3),
        ("есть ли запись вебинара", 4),
        ("кто проверит домашнюю работу, наставник?", 5),
    ],
)
def test_finds_the_right_passage_in_other_word_forms(
    open_retriever: OpenRetriever, settings: RetrieverSettings, knowledge: bytes, query: str, place: int
) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("knowledge.csv", knowledge)
    assert texts(retriever, query, 1) == [KNOWLEDGE[place]]


def test_yo_and_ye_are_one_letter(open_retriever: OpenRetriever, settings: RetrieverSettings, table: Table) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("a.csv", table(["Зачёт принимают в конце.", "Экзамен сдают в начале."]))
    with_yo, without = retriever.search("зачёт", 2), retriever.search("ЗАЧЕТ", 2)
    assert with_yo[0].text == "Зачёт принимают в конце."
    assert [(p.id, p.score) for p in with_yo] == [(p.id, p.score) for p in without]


def test_indexing_twice_adds_nothing(
    open_retriever: OpenRetriever, settings: RetrieverSettings, knowledge: bytes
) -> None:
    retriever = open_retriever(settings)
    first = retriever.ingest("knowledge.csv", knowledge)
    second = retriever.ingest("knowledge.csv", knowledge)
    assert (first.read, first.accepted, first.unchanged, first.passages) == (6, 6, 0, 6)
    assert (second.read, second.accepted, second.unchanged, second.passages) == (6, 0, 6, 6)
    assert retriever.info().passages == retriever._store.count() == 6
    found = retriever.search("курс", 20)
    assert sorted(p.id for p in found) == sorted(passage_id(text) for text in KNOWLEDGE)


def test_what_was_indexed_is_there_after_reopening(
    open_retriever: OpenRetriever, settings: RetrieverSettings, knowledge: bytes
) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("knowledge.csv", knowledge)
    before = retriever.search("курс Python", 6)
    retriever.close()
    after = open_retriever(settings)
    assert after.search("курс Python", 6) == before
    assert before[0].title == "knowledge.csv, row 1"


def test_the_same_question_gets_the_same_answer_from_an_index_made_in_another_order(
    open_retriever: OpenRetriever, settings: RetrieverSettings, table: Table
) -> None:
    contexts = [f"Занятие {n % 5} по теме {n % 7}, вариант {n}." for n in range(48)]
    answers = []
    for run, order in enumerate((contexts, contexts[::-1])):
        retriever = open_retriever(settings.model_copy(update={"collection": f"run-{run}"}))
        retriever.ingest("a.csv", table(order))
        queries = ["занятие 3", "тема 2", "занятие по теме", "вариант 17"]
        answers.append([[(p.id, p.score) for p in retriever.search(query, 5)] for query in queries])
        retriever.close()
    assert answers[0] == answers[1]


def test_a_changed_source_replaces_its_passages(
    open_retriever: OpenRetriever, settings: RetrieverSettings, table: Table
) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("prices.csv", table(["Курс стоит 45 000 рублей.", "Рассрочка есть."]))
    retriever.ingest("other.csv", table(["Рассрочка есть."]))
    receipt = retriever.ingest("prices.csv", table(["Адрес: Москва.", "Курс стоит 50 000 рублей."]))
    assert (receipt.accepted, receipt.unchanged, receipt.passages) == (2, 0, 2)
    found = {p.text: p.title for p in retriever.search("сколько стоит курс, рассрочка", 20)}
    assert found == {
        "Курс стоит 50 000 рублей.": "prices.csv, row 2",
        "Адрес: Москва.": "prices.csv, row 1",
        "Рассрочка есть.": "other.csv, row 1",
    }
    assert retriever._store.count() == 3


def test_titles_follow_the_rows(open_retriever: OpenRetriever, settings: RetrieverSettings, table: Table) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("a.csv", table(["Первый факт.", "Второй факт."]))
    receipt = retriever.ingest("a.csv", table(["Новый факт.", "Первый факт.", "Второй факт."]))
    assert (receipt.accepted, receipt.unchanged) == (1, 2)
    assert {p.text: p.title for p in retriever.search("факт", 5)}["Второй факт."] == "a.csv, row 3"


def test_a_refused_source_changes_nothing(
    open_retriever: OpenRetriever, settings: RetrieverSettings, knowledge: bytes
) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("knowledge.csv", knowledge)
    with pytest.raises(InvalidInput, match="never closed"):
        retriever.ingest("knowledge.csv", b'question,answer,context\na,b,"open')
    assert retriever.info().passages == 6


def test_an_empty_index_says_what_to_run(open_retriever: OpenRetriever, settings: RetrieverSettings) -> None:
    with pytest.raises(IndexEmpty, match="asktwice index FILE"):
        open_retriever(settings).search("курс", 3)


class SeesAll(HashedNgrams):
    """An embedding that makes a vector of any text, as a model does."""

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return super().encode_queries([f"{text} наставники" for text in texts])


def test_a_query_without_words_is_answered_by_the_embedding_alone(
    open_retriever: OpenRetriever, settings: RetrieverSettings, knowledge: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.retriever.retriever.load_embedder", lambda *_: SeesAll())
    retriever = open_retriever(settings)
    retriever.ingest("knowledge.csv", knowledge)
    found = texts(retriever, "??? !!!", 3)
    assert (len(found), found[0]) == (3, KNOWLEDGE[5])


def test_a_query_without_words_is_refused_where_the_embedding_sees_words_only(
    open_retriever: OpenRetriever, settings: RetrieverSettings, knowledge: bytes
) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("knowledge.csv", knowledge)
    with pytest.raises(InvalidInput, match="no word"):
        retriever.search("?! …", 3)


def test_the_data_file_is_indexed_once_and_replaces_the_former_one(
    open_retriever: OpenRetriever, settings: RetrieverSettings, tmp_path: Path, table: Table
) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_bytes(table(["Старый факт.", "Общий факт."]))
    second.write_bytes(table(["Новый факт.", "Общий факт."]))
    written: list[tuple[int, int]] = []

    retriever = open_retriever(settings.model_copy(update={"data": first}))
    retriever.ingest("by-hand.csv", table(["Факт, загруженный вручную."]))
    retriever.ingest_data(lambda *state: written.append(state))
    assert written[-1] == (2, 2)
    again = retriever.ingest_data(lambda *state: written.append((99, 99)))
    assert (99, 99) not in written
    assert again is not None
    assert (again.read, again.accepted, again.unchanged, again.passages) == (2, 0, 2, 2)
    retriever.close()

    retriever = open_retriever(settings.model_copy(update={"data": second}))
    retriever.ingest_data()
    assert set(texts(retriever, "факт")) == {"Новый факт.", "Общий факт.", "Факт, загруженный вручную."}


def test_a_newer_upload_of_the_data_file_outlives_a_restart(
    open_retriever: OpenRetriever, settings: RetrieverSettings, tmp_path: Path, table: Table
) -> None:
    data = tmp_path / "data.csv"
    data.write_bytes(table(["Цена 45 000."]))
    settings = settings.model_copy(update={"data": data})
    retriever = open_retriever(settings)
    retriever.ingest_data()
    retriever.ingest("data.csv", table(["Цена 50 000."]))
    retriever.close()
    retriever = open_retriever(settings)
    retriever.ingest_data()
    assert texts(retriever, "цена") == ["Цена 50 000."]
    retriever.close()
    other = tmp_path / "other.csv"
    other.write_bytes(table(["Цена 60 000."]))
    retriever = open_retriever(settings.model_copy(update={"data": other}))
    retriever.ingest_data()
    assert texts(retriever, "цена") == ["Цена 60 000."]


def test_another_embedding_is_a_mismatch_that_says_what_to_run(
    open_retriever: OpenRetriever,
    settings: RetrieverSettings,
    knowledge: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("knowledge.csv", knowledge)
    before = retriever.search("курс", 3)
    retriever.close()
    with monkeypatch.context() as patch:
        patch.setattr("services.retriever.retriever.load_embedder", lambda *_: HashedNgrams(64))
        with pytest.raises(IndexMismatch, match=r"ngrams-2048.*hashed-char-ngrams-64.*asktwice index --reindex"):
            open_retriever(settings)
    assert open_retriever(settings).search("курс", 3) == before


@pytest.fixture
def sixty_four(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes retrievers that are opened from now on count another embedding as theirs."""

    def from_now_on() -> None:
        monkeypatch.setattr("services.retriever.retriever.load_embedder", lambda *_: HashedNgrams(64))

    return from_now_on


def test_another_embedding_builds_the_index_again_where_it_is_asked_to(
    open_retriever: OpenRetriever, settings: RetrieverSettings, knowledge: bytes, sixty_four: Callable[[], None]
) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("knowledge.csv", knowledge)
    documents = retriever.documents()
    retriever.close()
    sixty_four()
    retriever = open_retriever(settings.model_copy(update={"reindex": True}))
    assert (retriever.info().dimension, retriever.info().passages) == (64, len(KNOWLEDGE))
    assert retriever._store.count() == len(KNOWLEDGE)
    assert texts(retriever, "наставники", 1) == [KNOWLEDGE[5]]
    assert retriever.documents() == documents
    retriever.close()
    retriever = open_retriever(settings)  # as it is now, nothing has to be asked for
    assert texts(retriever, "наставники", 1) == [KNOWLEDGE[5]]


def test_an_index_that_was_half_built_again_is_searched_as_before_and_built_on(
    open_retriever: OpenRetriever,
    settings: RetrieverSettings,
    table: Table,
    sixty_four: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("a.csv", table([f"Запись номер {n}." for n in range(200)]))
    before = retriever.search("запись номер 77", 5)
    retriever.close()
    encode = HashedNgrams.encode_passages
    written: list[int] = []

    def encode_or_fail(self: HashedNgrams, some: Sequence[str]) -> Vectors:
        if self.dimension == 64:
            if written == [64, 64]:
                raise Unavailable("The embedding's server went away.")
            written.append(len(some))
        return encode(self, some)

    again = settings.model_copy(update={"reindex": True})
    with monkeypatch.context() as patch:
        patch.setattr(HashedNgrams, "encode_passages", encode_or_fail)
        patch.setattr("services.retriever.retriever.load_embedder", lambda *_: HashedNgrams(64))
        with pytest.raises(Unavailable):
            open_retriever(again)
    retriever = open_retriever(settings)
    assert retriever.search("запись номер 77", 5) == before
    retriever.close()
    sixty_four()
    counted: list[tuple[int, int]] = []
    retriever = open_retriever(again, lambda done, total: counted.append((done, total)))
    left = 200 if retriever.info().store == "faiss-exact" else 72  # which writes its file when all is done
    assert counted[0] == (0, left), "what was written before the failure is written again"
    assert retriever.info().dimension == 64
    assert texts(retriever, "запись номер 77", 1) == ["Запись номер 77."]
    assert retriever._store.count() == 200


def test_what_changed_since_an_index_was_half_built_again_is_not_left_in_it(
    open_retriever: OpenRetriever, settings: RetrieverSettings, table: Table, sixty_four: Callable[[], None]
) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("a.csv", table(["Первая запись.", "Вторая запись."]))
    assert not retriever._ledger.next_generation("mine")
    assert retriever._ledger.next_generation("mine")
    assert not retriever._ledger.next_generation("another")
    retriever.ingest("b.csv", table(["Третья запись."]))
    assert not retriever._ledger.next_generation("another")
    retriever.remove("b.csv")
    assert not retriever._ledger.next_generation("another")


def test_an_interrupted_ingestion_leaves_nothing_visible(
    open_retriever: OpenRetriever, settings: RetrieverSettings, table: Table
) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("kept.csv", table(["Запись, которая есть."]))
    half = table([f"Запись номер {n}." for n in range(100)])

    def stop_half_way(done: int, total: int) -> None:
        if 0 < done < total:
            assert texts(retriever, "запись номер 7") == ["Запись, которая есть."]
            retriever.interrupt()

    with pytest.raises(Unavailable, match="not indexed"):
        retriever.ingest("half.csv", half, progress=stop_half_way)
    assert texts(retriever, "запись номер 7") == ["Запись, которая есть."]
    retriever.close()
    retriever = open_retriever(settings)
    assert retriever._store.count() == 1
    assert retriever.ingest("half.csv", half).passages == 100
    assert texts(retriever, "запись номер 77", 1) == ["Запись номер 77."]


def test_what_the_store_lost_is_written_again(
    open_retriever: OpenRetriever, settings: RetrieverSettings, knowledge: bytes
) -> None:
    retriever = open_retriever(settings)
    retriever.ingest("knowledge.csv", knowledge)
    before = retriever.search("наставники", 6)
    retriever._store.delete([passage_id(text) for text in KNOWLEDGE[3:]])
    retriever._store.flush()
    retriever.close()
    after = open_retriever(settings).search("наставники", 6)
    assert after[0].text == KNOWLEDGE[5]
    assert {p.id for p in after} == {p.id for p in before}


def test_an_index_whose_words_were_counted_otherwise_is_written_again(
    open_retriever: OpenRetriever, settings: RetrieverSettings, knowledge: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as former:
        former.setattr("services.retriever.sparse._word_id", lambda word: zlib.crc32(word.encode()))
        former.setattr("services.retriever.retriever.ANALYSIS", "every form a word of its own")
        retriever = open_retriever(settings)
        retriever.ingest("knowledge.csv", knowledge)
        assert len(retriever.rankings("нейронная сеть", 3)[1]) == 0
        retriever.close()
    retriever = open_retriever(settings)
    assert retriever._store.count() == len(KNOWLEDGE)
    assert [hit.id for hit in retriever.rankings("нейронная сеть", 3)[1]] == [passage_id(KNOWLEDGE[1])]


def test_a_broken_vector_folder_is_made_again(settings: RetrieverSettings, knowledge: bytes) -> None:
    retriever = Retriever.open(settings)
    retriever.ingest("knowledge.csv", knowledge)
    retriever.close()
    for path in (settings.folder / "vectors-1").rglob("*.json"):
        path.write_bytes(b"")
    retriever = Retriever.open(settings)
    assert texts(retriever, "наставники", 1) == [KNOWLEDGE[5]]
    retriever.close()


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_damaged_ledger_says_what_to_delete(settings: RetrieverSettings, table: Table, kept: float) -> None:
    retriever = Retriever.open(settings)
    retriever.ingest("a.csv", table([f"Запись номер {n}." for n in range(200)]))
    retriever.close()
    ledger = settings.folder / "ledger.sqlite"
    content = ledger.read_bytes()
    ledger.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(Unavailable, match=r"is damaged.*Delete that folder"):
        Retriever.open(settings)


def test_search_goes_on_while_a_source_is_written(settings: RetrieverSettings, knowledge: bytes, table: Table) -> None:
    retriever = Retriever.open(settings)
    retriever.ingest("knowledge.csv", knowledge)
    big = table([f"Наставники отвечают на вопрос номер {n}." for n in range(2000)])
    writer = Thread(target=retriever.ingest, args=("big.csv", big))
    writer.start()
    during = [texts(retriever, "наставники отвечают", 3)]
    while writer.is_alive():
        during.append(texts(retriever, "наставники отвечают", 3))
    writer.join()
    before_the_end = [found for found in during if found[0] == KNOWLEDGE[5]]
    assert before_the_end
    assert all(set(found) <= set(KNOWLEDGE) or set(found).isdisjoint(KNOWLEDGE) for found in during)
    assert all(text.startswith("Наставники отвечают") for text in texts(retriever, "наставники отвечают", 3))
    retriever.close()


def test_a_server_that_refuses_connections_is_unavailable(settings: RetrieverSettings) -> None:
    with pytest.raises(Unavailable, match=r"Qdrant at http://127\.0\.0\.1:9 does not answer"):
        Retriever.open(settings.model_copy(update={"qdrant_url": "http://127.0.0.1:9"}))
    Retriever.open(settings).close()  # the ledger's lock was given back


def test_what_nothing_comes_close_to_finds_nothing(
    open_retriever: OpenRetriever, settings: RetrieverSettings, table: Table
) -> None:
    pages = " ".join(f"слово{n} и другое{n}" for n in range(300))
    article = f"{pages} Артикул КТ-4471 снят с продажи."
    retriever = open_retriever(settings)
    retriever.ingest("a.csv", table([*KNOWLEDGE, article]))
    assert retriever.search("Почему небо голубое?", 3) == []
    assert texts(retriever, "Артикул КТ-4471?", 1) == [article], "a long passage is close to no question by its cosine"
    assert texts(retriever, "Куда приходят на занятия?", 1) == [KNOWLEDGE[1]]


@pytest.mark.parametrize(("floor", "found"), [(-1.0, 3), (None, 0), (0.0, 3), (1.0, 0)])
def test_the_floor_is_the_embeddings_own_or_that_of_the_settings(
    settings: RetrieverSettings, knowledge: bytes, floor: float | None, found: int
) -> None:
    retriever = Retriever.open(settings.model_copy(update={"floor": floor}))
    retriever.ingest("knowledge.csv", knowledge)
    assert len(retriever.search("Почему небо голубое?", 3)) == found
    retriever.close()


def test_a_search_in_some_of_the_documents(
    open_retriever: OpenRetriever, settings: RetrieverSettings, table: Table
) -> None:
    both = "Курс стоит 45 000 рублей."
    retriever = open_retriever(settings)
    retriever.ingest("много.csv", table([both, *(f"Курс номер {n} стоит дорого." for n in range(300))]))
    retriever.ingest("цены.csv", table([both, "Адрес: Москва."]))
    found = retriever.search("сколько стоит курс", 20, ["цены.csv"])
    assert {(p.source, p.text) for p in found} == {("цены.csv", both), ("цены.csv", "Адрес: Москва.")}
    assert found[0].text == both
    assert len(retriever.search("сколько стоит курс", 20, ["цены.csv", "много.csv"])) == 20
    with pytest.raises(NotFound, match=r"нет\.csv is not in the index"):
        retriever.search("курс", 3, ["цены.csv", "нет.csv"])


@pytest.mark.parametrize("reranks", [False, True])
def test_a_search_finds_one_version_of_a_source_that_is_being_replaced(
    settings: RetrieverSettings, table: Table, monkeypatch: pytest.MonkeyPatch, reranks: bool
) -> None:
    class Slow:
        def rank(self, query: str, hits: list[Hit], texts: Sequence[str]) -> list[Hit]:
            time.sleep(0.02)
            return list(hits)

    retriever = Retriever.open(settings)
    if reranks:
        monkeypatch.setattr(retriever, "_reranker", Slow())
    retriever.ingest("other.csv", table(["Домашние задания проверяют наставники."]))
    versions = [table([f"Курс аналитики стоит {price} рублей."]) for price in (45_000, 60_000)]
    retriever.ingest("price.csv", versions[0])
    found: Counter[int] = Counter()
    done = Event()

    def search() -> None:
        while not done.is_set():
            found[sum("стоит" in text for text in texts(retriever, "сколько стоит курс аналитики", 3))] += 1

    searchers = [Thread(target=search) for _ in range(3)]
    for searcher in searchers:
        searcher.start()
    for number in range(60):
        retriever.ingest("price.csv", versions[number % 2])
        time.sleep(0.01)
    done.set()
    for searcher in searchers:
        searcher.join()
    retriever.close()
    assert set(found) == {1}, found
    assert found[1] > 30


def test_a_store_of_before_is_not_taken_for_todays_because_it_holds_as_many(
    settings: RetrieverSettings, table: Table
) -> None:
    retriever = Retriever.open(settings)
    retriever.ingest("a.csv", table(["Старая запись."]))
    retriever.close()
    exact = Retriever.open(settings.model_copy(update={"store": "faiss"}))
    exact.ingest("a.csv", table(["Новая запись."]))
    exact.close()
    retriever = Retriever.open(settings)
    assert texts(retriever, "новая запись") == ["Новая запись."]
    retriever.close()


@pytest.mark.parametrize("store", ["edge", "faiss"])
def test_whatever_file_of_a_store_is_damaged_it_is_made_again(
    settings: RetrieverSettings, table: Table, store: Literal["edge", "faiss"]
) -> None:
    settings = settings.model_copy(update={"store": store})
    retriever = Retriever.open(settings)
    retriever.ingest("a.csv", table([f"Запись номер {n}." for n in range(50)]))
    retriever.close()
    folder = next(settings.folder.glob("vectors-1" if store == "edge" else "faiss-1"))
    shutil.copytree(folder, sound := settings.home / "sound")
    files = [path.relative_to(sound) for path in sound.rglob("*") if path.is_file()]
    for file in files:
        shutil.rmtree(folder)
        shutil.copytree(sound, folder)
        os.truncate(folder / file, (folder / file).stat().st_size // 3)
        retriever = Retriever.open(settings)
        assert texts(retriever, "запись номер 7", 1) == ["Запись номер 7."], file
        retriever.close()


def test_a_store_whose_opening_ends_the_process_is_given_up(settings: RetrieverSettings, table: Table) -> None:
    retriever = Retriever.open(settings)
    retriever.ingest("a.csv", table(["Запись."]))
    retriever.close()
    attempts = settings.folder / "opening-vectors-1"
    assert not attempts.exists()
    attempts.write_bytes(b"..")  # as two processes left it that ended while they opened
    (settings.folder / "vectors-1" / "strange").write_bytes(b"")
    retriever = Retriever.open(settings)
    assert texts(retriever, "запись") == ["Запись."]
    assert not (settings.folder / "vectors-1" / "strange").exists()
    assert not attempts.exists()
    retriever.close()


def test_long_words_are_not_remembered() -> None:
    before = _ngrams.cache_info().currsize
    HashedNgrams().encode_queries(["я" * 20_000, "q" * 41])
    assert _ngrams.cache_info().currsize == before
