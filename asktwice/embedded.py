"""The three services in one process, on one port: the default without Docker, and what the tests run.

The services are the same apps as in the containers and talk through the same typed clients, here over an in-process
ASGI transport. The routing table is that of the compose stack's gateway.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from prometheus_client import generate_latest
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from contracts.clients import GeneratorClient, RetrieverClient
from contracts.errors import NotFound
from services.evaluator.app import create_app as create_evaluator
from services.evaluator.settings import EvaluatorSettings
from services.generator.app import create_app as create_generator
from services.generator.settings import GeneratorSettings
from services.kit import problem_response
from services.retriever.app import create_app as create_retriever
from services.retriever.settings import RetrieverSettings

ROUTES = {
    "ask": "generator",
    "v1": "generator",
    "adapters": "generator",
    "documents": "retriever",
    "search": "retriever",
    "evaluate": "evaluator",
    "evaluations": "evaluator",
    "jobs": "evaluator",
    "readyz": "evaluator",  # it asks the other two
}
"""First part of the path -> the service that answers."""


class EmbeddedSettings(BaseModel):
    """What the one process serves. Everything else comes from the services' own settings."""

    home: Path
    profile: str
    base: str
    embedding: str | None
    data: Path | None
    """Indexed at start unless the index holds it; None serves what is indexed."""
    questions: Path
    resume: bool = True
    """Whether evaluations that ended with their process are gone on with."""
    bertscore: str | None = None
    """Encoder of BERTScore; None leaves it to the evaluator's settings."""
    bertscore_layer: int | None = None


class Embedded:
    """An ASGI app that hands each request to the service that its path belongs to."""

    def __init__(self, settings: EmbeddedSettings):
        self.parts = _build(settings)
        self._own = _own_pages(self.parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._own(scope, receive, send)
        first = scope["path"].removeprefix("/").partition("/")[0]
        part = self.parts.get(ROUTES.get(first, ""), self._own)
        return await part(scope, receive, send)

    async def end_evaluations(self) -> None:
        """End the evaluations that run; what they had is kept, and who waits for them is told."""
        jobs = getattr(self.parts["evaluator"].state, "jobs", None)
        if jobs is not None:
            await jobs.close()


def _build(settings: EmbeddedSettings) -> dict[str, FastAPI]:
    home = settings.home
    retriever = create_retriever(RetrieverSettings(home=home, data=settings.data, embedding=settings.embedding))
    generator = create_generator(
        GeneratorSettings(home=home, base=settings.base, profile=settings.profile), RetrieverClient(_inside(retriever))
    )
    asked = EvaluatorSettings(home=home, questions=settings.questions, resume=settings.resume)
    if settings.data is not None:
        asked = asked.model_copy(update={"data": settings.data})
    if settings.bertscore is not None:
        asked = asked.model_copy(update={"bertscore": settings.bertscore, "bertscore_layer": settings.bertscore_layer})
    evaluator = create_evaluator(
        asked,
        GeneratorClient(_inside(generator)),
        RetrieverClient(_inside(retriever)),
    )
    return {"retriever": retriever, "generator": generator, "evaluator": evaluator}


def _inside(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://embedded", timeout=None)


def _own_pages(parts: dict[str, FastAPI]) -> FastAPI:
    """Return the app for what no service answers alone; its lifespan opens and closes all of them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for part in parts.values():  # mounted or called apps get no lifespan of their own
                await stack.enter_async_context(part.router.lifespan_context(part))
            yield

    app = FastAPI(title="AskTwice", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        text = b"".join(generate_latest(part.state.registry) for part in parts.values())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json")
    async def openapi() -> dict[str, Any]:
        return merged_openapi(parts)

    @app.get("/docs")
    async def docs() -> Response:
        return get_swagger_ui_html(openapi_url="/openapi.json", title="AskTwice")

    @app.exception_handler(404)
    async def nothing(_: object, __: Exception) -> Response:
        return problem_response(NotFound("There is nothing at this address. See /docs for what there is."))

    return app


def merged_openapi(parts: dict[str, FastAPI]) -> dict[str, Any]:
    """Return one description of all services' routes, each under the service's name."""
    merged: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "AskTwice", "version": "0.1.0"},
        "paths": {},
        "components": {"schemas": {}},
    }
    for name, part in parts.items():
        described = part.openapi()
        for path, operations in described["paths"].items():
            if ROUTES.get(path.split("/")[1]) == name or path == "/healthz":
                merged["paths"][path] = {
                    verb: {**operation, "tags": [name], "operationId": f"{name}_{operation['operationId']}"}
                    for verb, operation in operations.items()
                }
        merged["components"]["schemas"] |= described.get("components", {}).get("schemas", {})
    return merged
