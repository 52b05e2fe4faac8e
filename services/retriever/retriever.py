"""The retriever without HTTP: knowledge in, passages out. Used by the service and by the command line."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Lock

from contracts.errors import IndexEmpty, IndexMismatch, InvalidInput, NotFound, Unavailable
from contracts.retrieval import Document, IndexInfo, Passage, Receipt
from contracts.table import MAX_FILE_BYTES
from services.retriever.embedding import Embedder, load_embedder
from services.retriever.fusion import Hit, fuse
from services.retriever.ledger import Ledger, Role, data_mark
from services.retriever.reading.prose import Splitter
from services.retriever.reranking import DEPTH as RERANKED
from services.retriever.reranking import Reranker
from services.retriever.settings import RetrieverSettings
from services.retriever.source import SourcePassage, read_source
from services.retriever.sparse import ANALYSIS, encode_passage, encode_query
from services.retriever.store import Point, Store, generation

Progress = Callable[[int, int], None]
"""Called with how many passages are embedded and written, and how many there are to do."""

OpenStore = Callable[[RetrieverSettings, int, bool, int], Store]
"""Opens a store for vectors of this dimension, True where nothing that it may hold is needed, of this generation."""

BATCH = 64
DEPTH = 50
"""How many of each ranking go into the fusion."""
TRIES = 5
"""How often a search begins anew because a source was taken or removed meanwhile."""
REMOTE = "openai:"
"""Begins the name of a model that a server has."""
log = logging.getLogger("asktwice")


def silent(done: int, total: int) -> None:
    """Report nothing."""


class Retriever:
    """An open index. All methods block and may be called from any thread."""

    def __init__(
        self,
        settings: RetrieverSettings,
        ledger: Ledger,
        store: Store,
        embedder: Embedder,
        reranker: Reranker | None = None,
    ):
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._embedder = embedder
        self._reranker = reranker
        self._writing = Lock()
        self._closing = Event()

    @classmethod
    def open(
        cls,
        settings: RetrieverSettings,
        progress: Progress = silent,
        open_store: OpenStore | None = None,
    ) -> "Retriever":
        """Open the index, or make an empty one; put right what a kill or a lost store left behind.

        Args:
            settings: where it is and with which embedding.
            progress: told of passages that have to be written again.
            open_store: makes the store in place of the settings' one.

        Raises:
            Unavailable: the index is in use by another process, Qdrant does not answer, or a model cannot be had.
            IndexMismatch: the index was built with another embedding, and is not to be built again.
        """
        with ExitStack() as undo:
            ledger = Ledger(settings.folder)
            undo.callback(ledger.close)
            embedder = _load_embedder(settings)
            mine = f"{embedder.id} ({embedder.dimension})"
            number, empty = ledger.generation, ledger.count() == 0
            if anew := _has_another_embedding(ledger, mine, settings):
                number, empty = number + 1, not ledger.next_generation(mine)
            store = (open_store or _open_store)(settings, embedder.dimension, empty, number)
            undo.callback(store.close)
            reranker = Reranker(settings.reranker, settings.device) if settings.reranker else None
            retriever = cls(settings, ledger, store, embedder, reranker)
            retriever._recover(progress, anew)
            if anew:
                ledger.advance(mine)
            store.succeed()
            store.optimize()
            undo.pop_all()
        return retriever

    def interrupt(self) -> None:
        """Stop an ingestion at its next batch."""
        self._closing.set()

    def close(self) -> None:
        """Stop an ingestion, then close."""
        self.interrupt()
        with self._writing:
            self._store.close()
            self._ledger.close()

    def ingest(
        self,
        name: str,
        content: bytes,
        role: Role = "upload",
        progress: Progress = silent,
        encoding: str | None = None,
    ) -> Receipt:
        """Index a source in place of the one of that name; return its receipt once everything is durable.

        Passages that no source has any more are removed. The receipt's ``unchanged`` units were there before.

        Args:
            name: the file's name; its suffix tells the type.
            content: its bytes.
            role: whether it is the data file, which the next data file replaces.
            progress: told of passages that are written.
            encoding: of a text; None finds out.

        Raises:
            InvalidInput: the source is refused; nothing of it was taken.
            Unavailable: Qdrant does not answer, or the index is being closed; nothing of it is visible.
        """
        source = read_source(name, content, self._embedder.splitter, encoding)
        with self._writing:
            receipt = source.receipt(self._ledger.passages_of(name))
            known = self._ledger.known(source.passages)
            new = [passage for id, passage in source.passages.items() if id not in known]
            self._ledger.begin(passage.id for passage in new)
            self._write(new, progress)
            self._ledger.commit(source, hashlib.sha256(content).hexdigest(), role, receipt)
            self._sweep()
            self._store.optimize()
        return receipt

    @property
    def splitter(self) -> Splitter:
        """What cuts prose into passages."""
        return self._embedder.splitter

    def documents(self) -> list[Document]:
        """Return what is indexed, by name."""
        return self._ledger.documents()

    def remove(self, name: str) -> None:
        """Take a source out of the index; passages that another one has too stay.

        Raises:
            NotFound: there is none of that name.
        """
        with self._writing:
            if not self._ledger.remove(name):
                raise NotFound(f"{name} is not in the index. GET /documents (asktwice index --list) tells what is.")
            self._sweep()

    def ingest_data(self, progress: Progress = silent) -> Receipt | None:
        """Index the data file of the settings, unless it is as it was when it was last indexed.

        Returns:
            the receipt, in which all that was taken is unchanged where the file is; None where the settings name no
            data file.

        Raises:
            InvalidInput: the file cannot be read, or is refused.
        """
        path = self._settings.data
        if path is None:
            return None
        content = _read(path)
        if self._ledger.meta("data") == data_mark(path.name, hashlib.sha256(content).hexdigest()):
            former = self._ledger.receipt(path.name)
            return former and former.again()
        return self.ingest(path.name, content, "data", progress)

    def search(self, query: str, top_k: int, sources: Sequence[str] | None = None) -> list[Passage]:
        """Return up to ``top_k`` passages, best first; none where nothing comes close to the query.

        Args:
            query: what is asked.
            top_k: how many passages at most.
            sources: names of the documents to search in; None is all.

        Raises:
            IndexEmpty: nothing is indexed.
            NotFound: there is no document of such a name.
            InvalidInput: the query has no word, and the embedding sees nothing but words.
            Unavailable: Qdrant does not answer.
        """
        unknown = [name for name in sources or () if self._ledger.receipt(name) is None]
        if unknown:
            raise NotFound(f"{unknown[0]} is not in the index. GET /documents (asktwice index --list) tells what is.")
        for _ in range(TRIES):
            commits = self._ledger.commits
            by_dense, by_sparse = self.rankings(query, top_k, sources)
            is_close = self._is_close(query, by_dense, by_sparse)
            hits = self.fuse(by_dense, by_sparse)
            there = self._ledger.passages((hit.id for hit in hits[: max(top_k, RERANKED)]), sources)
            if self._ledger.commits == commits:  # else neither what is new was ranked, nor is the former there
                break
        if not is_close:
            return []
        best = self._rerank(query, [hit for hit in hits if hit.id in there], there)[:top_k]
        found = [(there[hit.id], hit.score) for hit in best]
        return [
            Passage(id=p.id, title=f"{p.source}, {p.place}", text=p.text, score=score, source=p.source, place=p.place)
            for p, score in found
        ]

    def fuse(self, by_dense: list[Hit], by_sparse: list[Hit]) -> list[Hit]:
        """Return one ranking of both, the embedding's counting as much as it is worth."""
        return fuse(by_dense, by_sparse, self._embedder.weight)

    def rerank(self, query: str, hits: list[Hit]) -> list[Hit]:
        """Return the first :data:`RERANKED` hits in the reranker's order; where there is none, all as they are."""
        there = self._ledger.passages(hit.id for hit in hits[:RERANKED])
        return self._rerank(query, hits, there)

    def rankings(self, query: str, top_k: int, sources: Sequence[str] | None = None) -> tuple[list[Hit], list[Hit]]:
        """Return what is best by the embedding, at least ``top_k`` where there are as many, and what is by BM25.

        Passages of other sources are passed over, so that a small source in a large index takes a long look.

        Raises:
            IndexEmpty, InvalidInput, Unavailable: as :meth:`search`.
        """
        if self._ledger.is_empty():
            raise IndexEmpty("Nothing is indexed yet. Run: asktwice index FILE (or POST a file to /documents).")
        dense = self._embedder.encode_queries([query])[0]
        sparse = encode_query(query)
        if not sparse.indices and not dense.any():
            raise InvalidInput("The query has no word in it (no letter, no digit), so nothing can be searched for.")
        depth = DEPTH
        while True:
            rankings = self._store.rankings(dense, sparse, depth)
            # What is being written is in the store before it is acknowledged, and must not be seen nor counted.
            ids = [hit.id for ranking in rankings for hit in ranking]
            known = self._ledger.known(ids) if sources is None else self._ledger.of_sources(ids, sources)
            by_dense, by_sparse = ([hit for hit in ranking if hit.id in known] for ranking in rankings)
            if len(by_dense) >= top_k or len(rankings[0]) < depth:
                return by_dense, by_sparse
            depth *= 4

    def info(self) -> IndexInfo:
        """Return what the index holds."""
        return IndexInfo(
            passages=self._ledger.count(),
            embedding=self._embedder.id,
            dimension=self._embedder.dimension,
            store=self._store.name,
        )

    def _is_close(self, query: str, by_dense: list[Hit], by_sparse: list[Hit]) -> bool:
        """Tell whether the best passage is above the floor, or has half of the query's words: to an embedding an
        article number says little, and a question is never close to a passage of many pages."""
        floor = self._embedder.floor if self._settings.floor is None else self._settings.floor
        if max((hit.score for hit in by_dense), default=-1.0) >= floor:
            return True
        best = self._ledger.passages(hit.id for hit in sorted(by_sparse, key=lambda hit: -hit.score)[:1])
        asked = set(encode_query(query).indices)
        return any(
            2 * len(asked.intersection(encode_passage(passage.text).indices)) >= len(asked) for passage in best.values()
        )

    def _recover(self, progress: Progress, anew: bool) -> None:
        """Remove what an interrupted write left, and write what the store has lost or, where it is new, never had."""
        self._sweep()
        if self._ledger.meta("analysis") != ANALYSIS:
            self._analyse_again(progress)
        # Whatever their counts are: a store may be that of an older backup, or of before another one was in use.
        if missing := self._store.missing(self._ledger.all_ids()):
            if not anew:
                log.warning("%d passages are not in the vector store and are written again", len(missing))
            self._write(list(self._ledger.passages(missing).values()), progress)

    def _analyse_again(self, progress: Progress) -> None:
        """Count the words of all passages in the present way; where that cannot be now, the former way still finds."""
        try:
            if ids := self._ledger.all_ids():
                log.warning("the words of %d passages are counted in a new way; they are written again", len(ids))
                self._write(list(self._ledger.passages(ids).values()), progress)
            self._ledger.set_meta("analysis", ANALYSIS)
        except Unavailable as error:
            log.warning("the words of passages stay counted in the former way for now: %s", error.detail)

    def _rerank(self, query: str, hits: list[Hit], there: Mapping[str, SourcePassage]) -> list[Hit]:
        if self._reranker is None:
            return hits
        kept = [hit for hit in hits[:RERANKED] if hit.id in there]
        return self._reranker.rank(query, kept, [there[hit.id].text for hit in kept])

    def _write(self, passages: list[SourcePassage], progress: Progress) -> None:
        """Embed passages and write them to the store; durable on return."""
        progress(0, len(passages))
        # Of much the same length in a batch, so that little of it is padding; the longest first, so that what is too
        # much for the memory is so at once, and the time left is not told too short.
        passages = sorted(passages, key=lambda passage: -len(passage.text))
        for start in range(0, len(passages), BATCH):
            if self._closing.is_set():
                raise Unavailable("The retriever is being stopped; this file was not indexed. Send it again.")
            batch = passages[start : start + BATCH]
            vectors = self._embedder.encode_passages([passage.text for passage in batch])
            self._store.upsert(
                [
                    Point(passage.id, vector, encode_passage(passage.text), passage.text)
                    for passage, vector in zip(batch, vectors, strict=True)
                ]
            )
            progress(start + len(batch), len(passages))
        if passages:
            self._store.flush()

    def _sweep(self) -> None:
        """Remove from the store what belongs to no source. What cannot be removed now is removed next time."""
        try:
            if garbage := self._ledger.garbage():
                self._store.delete(garbage)
                self._store.flush()
            self._ledger.forget()
        except Unavailable as error:
            log.warning("passages that are out of use stay in the store for now, unseen: %s", error.detail)


def _load_embedder(settings: RetrieverSettings) -> Embedder:
    if settings.embedding and settings.embedding.startswith(REMOTE):
        from services.retriever.remote_embedding import OpenAIEmbedder

        key = settings.embedding_key.get_secret_value() if settings.embedding_key else "none"
        return OpenAIEmbedder(settings.embedding.removeprefix(REMOTE), settings.embedding_url, key)
    return load_embedder(settings.embedding, settings.device, settings.embedding_precision)


def _open_store(settings: RetrieverSettings, dimension: int, empty: bool, number: int) -> Store:
    """Open the store of the settings. Each engine is imported where it is used: none has to be installed but that."""
    if settings.store == "faiss":
        from services.retriever.faiss_store import FaissStore

        return FaissStore.open(settings.folder / generation("faiss", number), dimension, empty)
    if settings.store == "qdrant" or (settings.store == "auto" and settings.qdrant_url):
        from services.retriever.server_store import ServerStore

        return ServerStore.connect(settings, dimension, empty, number)
    from services.retriever.edge_store import EdgeStore

    return EdgeStore.open(settings.folder / generation("vectors", number), dimension, empty)


def _has_another_embedding(ledger: Ledger, mine: str, settings: RetrieverSettings) -> bool:
    """Tell whether the index has to be built again: vectors of two embeddings must never meet in one store.

    Raises:
        IndexMismatch: it would have to, and the settings do not say so.
    """
    theirs = ledger.meta("embedding")
    if ledger.count() == 0:
        ledger.set_meta("embedding", mine)
        return False
    if theirs != mine and not settings.reindex:
        raise IndexMismatch(
            f"The index in {settings.folder} was built with the embedding {theirs}, and the settings name {mine}. Go"
            " back to that one, or build the index again with this one: asktwice index --reindex --embedding MODEL"
            " (a service does so by itself with ASKTWICE_REINDEX=true)."
        )
    return theirs != mine


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{path.name} is larger than {MAX_FILE_BYTES // 1_000_000} MB. Split it.")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"Cannot read {path}: {error.strerror or error}.") from error
