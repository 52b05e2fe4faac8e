"""Errors and clients: what a service means is what its client raises."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from contracts import errors
from contracts.clients import GeneratorClient, RetrieverClient
from contracts.errors import AskTwiceError
from contracts.generation import AskRequest, Mode
from services.kit import problem_response

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AskTwiceError)]


def client_of(error: AskTwiceError) -> RetrieverClient:
    app = FastAPI()

    @app.post("/search")
    async def search() -> object:
        return problem_response(error)

    return RetrieverClient(httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://r"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not AskTwiceError])
def test_an_error_crosses_the_wire_unchanged(kind: type[AskTwiceError]) -> None:
    with pytest.raises(kind) as raised:
        asyncio.run(client_of(kind("почему", retry_after=7)).search("q", 3))
    assert type(raised.value) is kind
    assert raised.value.detail == "почему"
    if kind.status in (429, 503):
        assert raised.value.retry_after == 7


def transport(handler: object) -> GeneratorClient:
    return GeneratorClient(httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://g"))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(502, text="<html>"), errors.Unavailable),
        (httpx.Response(500, text="oops"), errors.InternalError),
        (httpx.Response(200, text="not json"), errors.InternalError),
        (httpx.Response(200, json={"answer": 1}), errors.InternalError),
        (httpx.ConnectError("no"), errors.Unavailable),
        (httpx.ReadTimeout("slow"), errors.DeadlineExceeded),
    ],
)
def test_a_service_that_lies_or_is_gone_becomes_our_error(
    answer: httpx.Response | Exception, kind: type[AskTwiceError]
) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(kind):
        asyncio.run(transport(handler).ask(AskRequest(question="q"), Mode.base))
    assert asyncio.run(transport(handler).readiness()).ready is False
    with pytest.raises(errors.Unavailable):
        asyncio.run(transport(handler).info())
