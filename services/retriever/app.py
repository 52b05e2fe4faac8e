"""The retriever's HTTP: ``/documents`` and ``POST /search``."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Form, Request, UploadFile
from starlette.concurrency import run_in_threadpool

from contracts.errors import InvalidInput
from contracts.health import Readiness
from contracts.retrieval import DocumentList, Receipt, SearchRequest, SearchResponse
from services.kit import create_service
from services.retriever.service import RetrieverService
from services.retriever.settings import RetrieverSettings

NOTHING = "Nothing that is indexed comes close to the query."


def create_app(settings: RetrieverSettings | None = None) -> FastAPI:
    """Return the retriever's app. It opens the index and indexes the data file in the background when it starts."""
    service = RetrieverService(settings or RetrieverSettings())
    one_at_a_time = asyncio.Lock()  # uploads wait here, where waiting costs no thread

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.stop)

    async def readiness() -> Readiness:
        return await run_in_threadpool(service.readiness)

    app = create_service("retriever", "Knowledge in, passages out.", lifespan, readiness)

    @app.post("/documents", tags=["knowledge"])
    async def add(file: UploadFile, request: Request, encoding: Annotated[str | None, Form()] = None) -> Receipt:
        """Index one file in place of the one of that name; answered once it is durable.

        Tables (CSV, TSV, XLSX, JSON, Parquet) with a column ``context``, and prose (text, Markdown, HTML, DOCX, PDF).
        ``encoding`` says what a text is encoded in where that is not certain.
        """
        fields = [name for name, _ in (await request.form()).multi_items()]
        if fields.count("file") != 1 or fields.count("encoding") > 1 or len(set(fields) - {"file", "encoding"}) > 0:
            raise InvalidInput(
                'Send one file a request, in the field "file", and nothing else but "encoding". Nothing was indexed.'
            )
        async with one_at_a_time:
            content = await file.read()
            return await run_in_threadpool(service.ingest, file.filename or "", content, encoding or None)

    @app.get("/documents", tags=["knowledge"])
    def documents() -> DocumentList:
        """Return what is indexed, by name."""
        return DocumentList(documents=service.documents())

    @app.delete("/documents/{name:path}", tags=["knowledge"], status_code=204)
    async def remove(name: str) -> None:
        """Take a document out of the index."""
        async with one_at_a_time:
            await run_in_threadpool(service.remove, name)

    @app.post("/search", tags=["knowledge"])
    def search(body: SearchRequest) -> SearchResponse:
        """Return the passages that fit a query best, best first."""
        found = service.search(body.query, body.top_k, body.sources)
        return SearchResponse(results=found, message=None if found else NOTHING)

    return app
