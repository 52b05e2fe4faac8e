"""The retriever's HTTP: ``POST /documents``, ``POST /search``."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, UploadFile
from starlette.concurrency import run_in_threadpool

from contracts.errors import InvalidInput
from contracts.health import Readiness
from contracts.retrieval import Receipt, SearchRequest, SearchResponse
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
    async def documents(file: UploadFile, request: Request) -> Receipt:
        """Index one file (CSV with a column ``context``, or text); answered once it is durable."""
        if len((await request.form()).multi_items()) != 1:
            raise InvalidInput('Send one file a request, in the field "file" and nothing else. Nothing was indexed.')
        async with one_at_a_time:
            content = await file.read()
            return await run_in_threadpool(service.ingest, file.filename or "", content)

    @app.post("/search", tags=["knowledge"])
    def search(body: SearchRequest) -> SearchResponse:
        """Return the passages that fit a query best, best first."""
        found = service.search(body.query, body.top_k)
        return SearchResponse(results=found, message=None if found else NOTHING)

    return app
