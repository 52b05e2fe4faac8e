"""Typed clients of the three services over an injected ``httpx.AsyncClient``.

The same class works over the network and, in the embedded mode, over an in-process ASGI transport.
"""

from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from contracts.errors import AskTwiceError, DeadlineExceeded, InternalError, Unavailable, error_from_problem
from contracts.evaluation import Job
from contracts.generation import AdapterList, Answer, AskRequest, GeneratorInfo, Mode
from contracts.health import Readiness
from contracts.retrieval import Document, DocumentList, IndexInfo, Receipt, SearchRequest, SearchResponse

Model = TypeVar("Model", bound=BaseModel)


class _Client:
    service = "service"

    def __init__(self, http: httpx.AsyncClient):
        self._http = http

    async def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Send a request; raise the error that the service meant.

        Raises:
            AskTwiceError: as answered by the service; ``Unavailable`` or ``DeadlineExceeded`` where it did not answer.
        """
        try:
            response = await self._http.request(method, path, **kwargs)
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"the {self.service} did not answer in time") from error
        except httpx.TransportError as error:
            raise Unavailable(
                f"the {self.service} cannot be reached ({type(error).__name__})", retry_after=2
            ) from error
        if response.is_success:
            return response
        raise _error(response)

    async def readiness(self) -> Readiness:
        """Return what the service says of itself; "not ready" where it does not answer."""
        try:
            response = await self._http.get("/readyz")
            return Readiness.model_validate_json(response.content)
        except (httpx.HTTPError, ValidationError) as error:
            return Readiness(ready=False, checks={self.service: f"does not answer ({type(error).__name__})"})


class RetrieverClient(_Client):
    service = "retriever"

    async def search(self, query: str, top_k: int) -> SearchResponse:
        body = SearchRequest(query=query, top_k=top_k).model_dump()
        return _parse(SearchResponse, await self._send("POST", "/search", json=body))

    async def add(self, name: str, content: bytes, encoding: str | None = None) -> Receipt:
        """Index one document; acknowledged once it is durable."""
        said = {"encoding": encoding} if encoding else {}
        return _parse(Receipt, await self._send("POST", "/documents", files={"file": (name, content)}, data=said))

    async def documents(self) -> list[Document]:
        """Return what is indexed, by name."""
        return _parse(DocumentList, await self._send("GET", "/documents")).documents

    async def remove(self, name: str) -> None:
        """Take a document out of the index.

        Raises:
            NotFound: there is none of that name.
        """
        await self._send("DELETE", f"/documents/{quote(name, safe='')}")

    async def info(self) -> IndexInfo:
        """Return what the index holds.

        Raises:
            Unavailable: the retriever is not ready.
        """
        return _about(IndexInfo, await self.readiness(), self.service)


class GeneratorClient(_Client):
    service = "generator"

    async def ask(self, request: AskRequest, mode: Mode) -> Answer:
        body = request.model_dump(exclude_none=True)
        return _parse(Answer, await self._send("POST", "/ask", params={"mode": mode.value}, json=body))

    async def info(self) -> GeneratorInfo:
        """Return which model answers.

        Raises:
            Unavailable: the generator is not ready.
        """
        return _about(GeneratorInfo, await self.readiness(), self.service)

    async def adapters(self) -> AdapterList:
        return _parse(AdapterList, await self._send("GET", "/adapters"))


class EvaluatorClient(_Client):
    service = "evaluator"

    async def start(
        self,
        questions: list[str] | None = None,
        table: tuple[str, bytes] | None = None,
        *,
        modes: str | None = None,
        measure: int = 0,
        lang: str = "ru",
        grade: bool = False,
        probe: bool = False,
    ) -> Job:
        """Begin to ask the questions (by default the five); it goes on by itself.

        Args:
            questions: as a list; or
            table: the name and content of a CSV of them.
            modes: what is compared, by commas; rag and ft where nothing is said.
            measure: how many held-out rows of the server's data file are measured beside them.
            lang: of the measured part.
            grade: whether the judge grades the answers.
            probe: whether the probes are asked, too.
        """
        body: dict[str, Any] = {"json": {"questions": questions}} if questions else {}
        if table:
            body = {"files": {"file": table}}
        params: dict[str, Any] = {"measure": measure, "lang": lang, "grade": grade, "probe": probe}
        params |= {"modes": modes} if modes else {}
        headers = {"Prefer": "respond-async"}
        return _parse(Job, await self._send("POST", "/evaluate", params=params, headers=headers, **body))

    async def job(self, id: str) -> Job:
        """Return how far an evaluation is."""
        return _parse(Job, await self._send("GET", f"/jobs/{id}"))

    async def result(self, job: Job) -> str:
        """Return the text of result.txt of an evaluation that succeeded."""
        if job.result is None:
            raise InternalError(f"The evaluation {job.id} {job.state}: {job.error or 'no reason given'}.")
        return (await self._send("GET", job.result)).text


def _parse(model: type[Model], response: httpx.Response) -> Model:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise InternalError(f"{response.request.url.path} answered something else than a {model.__name__}") from error


def _about(model: type[Model], readiness: Readiness, service: str) -> Model:
    try:
        return model.model_validate(readiness.about)
    except ValidationError as error:
        why = "; ".join(f"{name}: {state}" for name, state in readiness.checks.items() if state != "ok")
        raise Unavailable(f"the {service} is not ready ({why or 'no reason given'})", retry_after=5) from error


def _error(response: httpx.Response) -> AskTwiceError:
    try:
        body = response.json()
    except ValueError:
        body = None
    after = response.headers.get("Retry-After", "")
    return error_from_problem(body, response.status_code, float(after) if after.isdigit() else None)
