"""A fake OpenAI-compatible server on 127.0.0.1 that answers, refuses, hangs or returns garbage, as it is told.

    with FakeOpenAI(rate_limit(retry_after=1), answer("RAG лучше")) as judge:
        ... OPENAI_BASE_URL = judge.url ...
        judge.requests[0].prompt

One behaviour a call, in order; the last one stays. Plain threads and sockets, because the point is to misbehave.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Recorded:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: Any

    @property
    def prompt(self) -> str:
        """All messages of the chat in one text."""
        return "\n".join(message["content"] for message in self.body["messages"])


class Handler(BaseHTTPRequestHandler):
    server: "Server"
    recorded: Recorded

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        recorded = Recorded(self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(body or b"null"))
        self.recorded = recorded
        self.server.behaviour_for(recorded)(self)

    def reply(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


Behaviour = Callable[[Handler], None]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, behaviours: tuple[Behaviour, ...]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours = list(behaviours)
        self.requests: list[Recorded] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def behaviour_for(self, request: Recorded) -> Behaviour:
        with self.lock:
            self.requests.append(request)
            return self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that gave up on us is what some behaviours are for


class FakeOpenAI:
    """The server while the ``with`` block lasts. ``url`` is what ``OPENAI_BASE_URL`` is set to."""

    def __init__(self, *behaviours: Behaviour):
        self._server = Server(behaviours or (answer("анализ"),))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def requests(self) -> list[Recorded]:
        return self._server.requests

    def __enter__(self) -> "FakeOpenAI":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.closing.set()
        self._server.shutdown()
        self._server.server_close()


def completion(message: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    """Return a chat completion as the API sends it."""
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _json(value: Any, status: int = 200, **headers: str) -> Behaviour:
    return lambda handler: handler.reply(status, json.dumps(value).encode(), **headers)


def _error(status: int, message: str, code: str | None = None, **headers: str) -> Behaviour:
    return _json({"error": {"message": message, "type": "error", "code": code}}, status, **headers)


def answer(text: str, finish_reason: str = "stop") -> Behaviour:
    return _json(completion({"content": text}, finish_reason))


def answering(make: Callable[[Recorded], str], after_s: float = 0.0) -> Behaviour:
    """Answer each request by what it says, some time after it came."""

    def reply(handler: Handler) -> None:
        handler.server.closing.wait(after_s)
        answer(make(handler.recorded))(handler)

    return reply


def refusal(text: str = "I cannot help with that.") -> Behaviour:
    return _json(completion({"content": None, "refusal": text}))


def null_content() -> Behaviour:
    return _json(completion({"content": None}))


def empty_choices() -> Behaviour:
    return _json({**completion({}), "choices": []})


def refuse_key(status: int = 401) -> Behaviour:
    """As the real one does: the message repeats a part of the key."""

    def refuse(handler: Handler) -> None:
        key = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        _error(status, f"Incorrect API key provided: {key}.", "invalid_api_key")(handler)

    return refuse


def rate_limit(retry_after: float | None = None) -> Behaviour:
    headers = {} if retry_after is None else {"Retry_After": f"{retry_after:g}"}
    return _error(429, "Rate limit reached", "rate_limit_exceeded", **headers)


def no_quota() -> Behaviour:
    return _error(429, "You exceeded your current quota", "insufficient_quota")


def fail(status: int = 500) -> Behaviour:
    return _error(status, "The server had an error")


def redirect(to: str) -> Behaviour:
    return lambda handler: handler.reply(302, b"", Location=to)


def raw(body: bytes, content_type: str = "application/json") -> Behaviour:
    """200 with any body: HTML, truncated JSON, nothing."""
    return lambda handler: handler.reply(200, body, content_type)


def hang() -> Behaviour:
    """Take the request and never answer."""
    return lambda handler: handler.server.closing.wait() and None


def drip(every_s: float = 0.02) -> Behaviour:
    """Answer a byte at a time and never come to the end: no single read ever times out."""

    def dripping(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not handler.server.closing.wait(every_s):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    return dripping


def disconnect() -> Behaviour:
    """Close the connection without an answer."""
    return lambda handler: handler.connection.close()


def cut_off() -> Behaviour:
    """Close the connection in the middle of the answer."""

    def cutting(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')
        handler.wfile.flush()
        handler.connection.close()

    return cutting
