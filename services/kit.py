"""What every service's app shares: health, problem+json errors, body limits, request log, metrics."""

import asyncio
import json
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from types import FrameType
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.chat import ChatError, ChatErrorBody
from contracts.errors import AskTwiceError, FieldError, InternalError, InvalidInput, NotFound, Problem, TooLarge
from contracts.health import Readiness

MAX_BODY_BYTES = 1_000_000
MAX_UPLOAD_BYTES = 200_000_000
UPLOADS = ("/documents", "/evaluate")
"""The routes that take files."""
MAX_DROPPED_BYTES = 64_000_000
BODY_S = 30.0
"""How long a body may take to come; an upload, how long no part of it may come."""
PROBLEM_JSON = "application/problem+json"
WRONG = "Something went wrong on our side; the log of the service has the details."

log = logging.getLogger("asktwice")

Result = TypeVar("Result")
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_service(
    name: str,
    description: str,
    lifespan: Lifespan,
    readiness: Callable[[], Awaitable[Readiness]],
    door: Middleware | None = None,
) -> FastAPI:
    """Return an app with everything but the service's own routes.

    Args:
        name: the service's name, in the log and as the prefix of its metrics.
        description: what it does, for the API page.
        lifespan: opens and closes what the service owns.
        readiness: asked by ``/readyz`` each time; ready is 200, else 503.
        door: refuses requests before anything is read of them; what it refuses is logged and counted.
    """
    app = FastAPI(title=f"AskTwice {name}", description=description, lifespan=lifespan)
    registry = CollectorRegistry()
    app.state.registry = registry
    _handle_errors(app)
    app.add_middleware(BodyLimit)
    if door is not None:
        app.user_middleware.insert(0, door)
    app.add_middleware(Observed, name=name, registry=registry)

    @app.get("/healthz", tags=["operations"])
    async def healthz() -> dict[str, str]:
        """Alive: the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operations"], response_model=Readiness)
    async def readyz() -> Response:
        """Ready: 200 when everything that is needed to answer is there, else 503 with what is missing."""
        state = await readiness()
        headers = {} if state.ready else {"Retry-After": "2"}
        return _json(state.model_dump_json(), 200 if state.ready else 503, headers)

    @app.get("/metrics", tags=["operations"])
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


async def while_there(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work for as long as the client waits for it; the request's body has been read.

    Raises:
        ClientLeft: the client closed the connection; the work was cancelled.
    """

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(left())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def at_stop_signal(call: Callable[[], None]) -> Callable[[], None]:
    """Have ``call`` called in the running loop when the process is told to stop, before the server acts on it.

    uvicorn first waits for the requests that run, then breaks them off, and only then ends the app: too late to refuse
    anybody. Returns what undoes it. Outside of the main thread there are no signals, and nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    loop, former = asyncio.get_running_loop(), dict[int, Any]()

    def told(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(call)
        server = former[number]
        if callable(server):
            server(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        former[number] = signal.signal(number, told)

    def undo() -> None:
        for number, handler in former.items():
            if signal.getsignal(number) is told:
                signal.signal(number, handler)

    return undo


class EventStream(StreamingResponse):
    """Server-sent events.

    Args:
        close: called once the response has ended, however it did: of a client that left before its first byte the
            events are never asked for, and could not see to it themselves.
    """

    def __init__(self, events: AsyncIterator[str], close: Callable[[], None]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


def problem_response(error: AskTwiceError) -> Response:
    """Render an error as ``application/problem+json``."""
    return _json(problem_json(error.problem()), error.status, _retry_after(error), PROBLEM_JSON)


def error_response(scope: Scope, error: AskTwiceError) -> Response:
    """Render an error as the route's own readers expect it: OpenAI's shape under ``/v1``, else a problem."""
    if not _speaks_openai(scope):
        return problem_response(error)
    return _json(_openai_json(openai_error(error)), _openai_status(error.problem()), _retry_after(error))


def openai_error(error: AskTwiceError) -> ChatErrorBody:
    """Return the error in OpenAI's shape."""
    return _openai_body(error.problem())


def _openai_body(problem: Problem) -> ChatErrorBody:
    kind = "invalid_request_error" if problem.status < 500 and problem.status != 429 else "server_error"
    param = problem.errors[0].field.removeprefix("body.") if problem.errors else None
    message = ChatError(message=problem.detail, type=kind, param=param, code=problem.code)
    return ChatErrorBody(error=message)


def _openai_json(body: ChatErrorBody) -> str:
    return json.dumps(_cleaned(body.model_dump()))


def _openai_status(problem: Problem) -> int:
    """What OpenAI's clients take for a bad request is 400."""
    return 400 if problem.status == 422 else problem.status


def _speaks_openai(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.startswith("/v1/")


def _retry_after(error: AskTwiceError) -> dict[str, str]:
    return {"Retry-After": str(max(1, round(error.retry_after or 1)))} if error.status in (429, 503) else {}


def problem_json(problem: Problem) -> str:
    """JSON that any reader can decode: lone surrogates, which a request may carry, become ``?``."""
    return problem.model_dump_json() if _encodable(problem) else json.dumps(_cleaned(problem.model_dump()))


def _encodable(problem: Problem) -> bool:
    try:
        problem.model_dump_json().encode()
    except (UnicodeEncodeError, ValueError):
        return False
    return True


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list) else value


def _json(body: str, status: int, headers: dict[str, str], media_type: str = "application/json") -> Response:
    return Response(body.encode("utf-8", "replace"), status, headers, media_type)


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(AskTwiceError)
    async def ours(request: Request, error: AskTwiceError) -> Response:
        return error_response(request.scope, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        told = invalid_input(error.errors())
        if isinstance(error.body, bytes):  # FastAPI parses only what calls itself JSON
            told = InvalidInput("The body is read as JSON only: send the header Content-Type: application/json.")
        return error_response(request.scope, told)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        problem = _http_problem(error)
        headers = dict(error.headers or {})
        if _speaks_openai(request.scope):
            return _json(_openai_json(_openai_body(problem)), _openai_status(problem), headers)
        return _json(problem_json(problem), problem.status, headers, PROBLEM_JSON)

    @app.exception_handler(ClientLeft)
    async def gone(_: Request, __: ClientLeft) -> Response:
        return Response(status_code=499)  # for the log: nobody reads it


def invalid_input(errors: Any) -> InvalidInput:
    """Turn pydantic's errors into ours: place and message only, the offending input is never echoed."""
    fields = [
        FieldError(field=".".join(str(part)[:100] for part in error["loc"])[:300] or "body", message=error["msg"][:300])
        for error in list(errors)[:20]
    ]
    detail = "; ".join(f"{field.field}: {field.message}" for field in fields[:3]) or "The request is not valid."
    return InvalidInput(detail, errors=fields)


def _http_problem(error: HTTPException) -> Problem:
    """Starlette's own errors under our format; 405 and the like keep their status."""
    if error.status_code == 404:
        return NotFound("There is nothing at this address. See /docs for what there is.").problem()
    if error.status_code == 413:
        return TooLarge(str(error.detail)).problem()
    if error.status_code == 400:  # FastAPI says so of bodies that its JSON parser chokes on
        field = FieldError(field="body", message=str(error.detail)[:300])
        return InvalidInput(f"body: {field.message}", errors=[field]).problem()
    detail = str(error.detail)[:300]
    return Problem(title=detail, status=error.status_code, detail=detail, code=f"http_{error.status_code}")


class BodyLimit:
    """Answer 413 to a body over the limit, 408 to one that does not come; multipart uploads have limits of their own.

    The rest of the body is read and dropped first, as far as it is not absurd: a client, or a gateway, that is still
    sending when the connection closes would see a broken connection in place of the answer.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        form = headers.get(b"content-type", b"").startswith(b"multipart/form-data")
        upload = form and scope["path"] in UPLOADS
        limit = MAX_UPLOAD_BYTES if upload else MAX_BODY_BYTES
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            await _drop_body(receive)
            return await _too_large(scope, limit)(scope, receive, send)
        seen, started, more = 0, False, True
        begun = asyncio.get_running_loop().time()

        async def counted() -> Message:
            nonlocal seen, more, begun
            try:
                async with asyncio.timeout_at(begun + BODY_S if more else None):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"The body did not come within {BODY_S:.0f} seconds.") from error
            if upload:
                begun = asyncio.get_running_loop().time()
            seen += len(message.get("body", b""))
            more = message.get("more_body", False)
            if seen > limit:
                raise HTTPException(413, f"The body is over {limit // 1_000_000} MB.")
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if seen > limit and more and not started:
                await _drop_body(receive)
            started = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except HTTPException:
            if started or seen <= limit:
                raise
            if more:
                await _drop_body(receive)
            await _too_large(scope, limit)(scope, receive, send)


async def _drop_body(receive: Receive) -> None:
    """Read what is left of a body, up to ``MAX_DROPPED_BYTES`` and for as long as a body may take to come."""
    dropped = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(BODY_S):
            while dropped < MAX_DROPPED_BYTES:
                message = await receive()
                dropped += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


def _too_large(scope: Scope, limit: int) -> Response:
    return error_response(scope, TooLarge(f"The body is over {limit // 1_000_000} MB."))


class Observed:
    """Log one line and count one observation for each request. Never logs what was asked.

    What nobody expected is answered here, within the server's own error handler: that one raises it again, and the
    server then closes a connection over which the client may be sending its next request.
    """

    def __init__(self, app: ASGIApp, name: str, registry: CollectorRegistry):
        self.app = app
        self.name = name
        labels = ["route", "status"]
        self.requests = Counter(f"asktwice_{name}_requests", "Requests", labels, registry=registry)
        self.seconds = Histogram(
            f"asktwice_{name}_request_seconds", "Seconds per request", ["route"], registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, status, started = time.perf_counter(), 500, False

        async def watched(message: Message) -> None:
            nonlocal status, started
            started = True
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            log.exception("unexpected error on %s %s", scope["method"], scope["path"])
            if started:  # the client has to see that it is broken off
                raise
            await error_response(scope, InternalError(WRONG))(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", "other")
            self.requests.labels(route, str(status)).inc()
            self.seconds.labels(route).observe(seconds)
            if route not in ("/healthz", "/readyz", "/metrics"):
                log.info("%s %s %s %d %.0f ms", self.name, scope["method"], route, status, seconds * 1000)
