"""Run an app on a real port of 127.0.0.1, and wait for things that become true."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx
import uvicorn
from starlette.types import ASGIApp

T = TypeVar("T")


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve an app; yield its URL. The socket listens before the server runs, so no request comes too early."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive(), "the server did not stop"


def eventually(look: Callable[[], T], what: str, within_s: float = 60.0) -> T:
    """Return the first true value of ``look``; fail with ``what`` when there is none in time."""
    end = time.monotonic() + within_s
    while not (value := look()):
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.02)
    return value


@contextmanager
def ready_client(url: str, within_s: float = 60.0) -> Iterator[httpx.Client]:
    """Yield a client of a service once the service says that it is ready."""
    with httpx.Client(base_url=url, timeout=120) as client:
        eventually(lambda: client.get("/readyz").status_code == 200, "ready", within_s)
        yield client


# Bodies that plain FastAPI answers with 500 because its own 422 answer cannot be encoded.
AWKWARD_BODIES = {
    "nan": (b'{"temperature": NaN}', "application/json"),
    "infinity": (b'{"temperature": Infinity}', "application/json"),
    "overflow": (b'{"temperature": 1e999}', "application/json"),
    "lone surrogate": (b'{"question": "\\ud800"}', "application/json"),
    "surrogate in a number": (b'{"question": "a", "top_k": "\\ud800"}', "application/json"),
    "surrogate key": (b'{"\\ud800": 1}', "application/json"),
    "binary": (b"\x00\xff\xfe\x80binary", "application/octet-stream"),
}
MALFORMED_BODIES = {
    "empty": (b"", "application/json"),
    "not json": (b"{", "application/json"),
    "invalid utf-8": (b'{"question": "\xff"}', "application/json"),
    "array": (b"[]", "application/json"),
    "null": (b"null", "application/json"),
    "deep": (b"[" * 100_000, "application/json"),
    "form": (b"question=a", "application/x-www-form-urlencoded"),
}
