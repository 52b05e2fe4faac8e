"""A retriever that may not be there yet: opens it, indexes the data file, and says meanwhile how far it is."""

import itertools
import logging
from collections.abc import Callable
from threading import Event, Thread

from contracts.errors import AskTwiceError, IndexEmpty, InternalError, Unavailable
from contracts.health import Readiness
from contracts.retrieval import Document, Passage, Receipt
from services.retriever.retriever import Progress, Retriever
from services.retriever.settings import RetrieverSettings

RETRY_S = (0.5, 1, 2, 5, 10)
log = logging.getLogger("asktwice")


class RetrieverService:
    """Starts in a thread of its own, so that the process answers at once.

    What is not there yet (Qdrant, the model, the folder's lock) is tried again until it is; what only a person can
    mend (another embedding, a refused data file) is said on ``/readyz``.
    """

    def __init__(self, settings: RetrieverSettings):
        self._settings = settings
        self._retriever: Retriever | None = None
        self._checks = {"index": "is being opened", "data": "waits for the index"}
        self._obstacle: AskTwiceError = Unavailable("The index is being opened.", retry_after=2)
        self._stopping = Event()
        self._thread = Thread(target=self._start, name="retriever-start", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the start if it is still going on, and close the index."""
        self._stopping.set()
        if self._retriever:
            self._retriever.interrupt()
        self._thread.join()
        if self._retriever:
            self._retriever.close()

    def search(self, query: str, top_k: int, sources: list[str] | None = None) -> list[Passage]:
        """Search; while the first data file is being indexed the answer is not "empty" but "not yet"."""
        try:
            return self._opened().search(query, top_k, sources)
        except IndexEmpty:
            if self._thread.is_alive():
                raise Unavailable(f"The data file: {self._checks['data']}.", retry_after=2) from None
            raise

    def ingest(self, name: str, content: bytes, encoding: str | None = None) -> Receipt:
        return self._opened().ingest(name, content, encoding=encoding)

    def documents(self) -> list[Document]:
        return self._opened().documents()

    def remove(self, name: str) -> None:
        self._opened().remove(name)

    def readiness(self) -> Readiness:
        about = self._retriever.info().model_dump() if self._retriever else {}
        return Readiness.of(dict(self._checks), about)

    def _opened(self) -> Retriever:
        if self._retriever is None:
            raise self._obstacle
        return self._retriever

    def _start(self) -> None:
        try:
            if self._until_it_works("index", self._open):
                self._until_it_works("data", self._index_data)
        except Exception as error:
            log.error("the retriever could not start", exc_info=error)
            self._obstacle = InternalError("The retriever could not start; its log has the details.")
            self._checks["index"] = self._obstacle.detail

    def _until_it_works(self, check: str, step: Callable[[], None]) -> bool:
        """Try until it works, or only a person can make it work; return whether it works."""
        for pause in itertools.chain(RETRY_S, itertools.repeat(RETRY_S[-1])):
            if self._stopping.is_set():
                return False
            try:
                step()
                self._checks[check] = "ok"
                return True
            except Unavailable as error:
                self._obstacle = error
                self._checks[check] = f"{error.detail} Trying again."
                log.warning("%s Trying again.", error.detail)
                self._stopping.wait(pause)
            except AskTwiceError as error:
                self._obstacle = error
                self._checks[check] = error.detail
                log.error("%s", error.detail)
                return False
        return False

    def _open(self) -> None:
        self._retriever = Retriever.open(self._settings, self._report("index", "rebuilding"))

    def _index_data(self) -> None:
        self._checks["data"] = "indexing"
        if self._retriever and (receipt := self._retriever.ingest_data(self._report("data", "indexing"))):
            log.info("%s: %d rows, %d passages", receipt.source, receipt.read, receipt.passages)

    def _report(self, check: str, what: str) -> Progress:
        def progress(done: int, total: int) -> None:
            self._checks[check] = f"{what} {done}/{total}"

        return progress
