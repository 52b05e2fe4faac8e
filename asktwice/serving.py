"""Serve the embedded app on a port: for ``asktwice serve`` until Ctrl-C, for the demo while it asks."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from asktwice.console import say
from asktwice.embedded import Embedded, EmbeddedSettings
from contracts.errors import InvalidInput, Unavailable
from contracts.health import Readiness


def serve_forever(settings: EmbeddedSettings, host: str, port: int) -> None:
    """Serve until Ctrl-C; say when everything is ready, or what is not.

    Raises:
        InvalidInput: the port is taken.
    """
    listening = _listen(host, port)
    url = _url(listening)
    threading.Thread(target=_announce, args=(url,), daemon=True).start()
    server = _server(settings)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        say("Stopped.")
    finally:
        listening.close()


@contextmanager
def served(settings: EmbeddedSettings) -> Iterator[str]:
    """Serve on a free port of this machine; yield the URL."""
    listening = _listen("127.0.0.1", 0)
    server = _server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield _url(listening)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def wait_until_ready(url: str, within_s: float = 600.0) -> None:
    """Return once ``/readyz`` says so.

    Raises:
        Unavailable: it does not within the time; the message says what is missing.
    """
    end = time.monotonic() + within_s
    state = Readiness(ready=False, checks={"server": "starting"})
    while time.monotonic() < end:
        state = _look(url) or state
        if state.ready:
            return
        if any("cannot be loaded" in check for check in state.checks.values()):
            break
        time.sleep(0.1)
    missing = "; ".join(f"{name}: {check}" for name, check in state.checks.items() if check != "ok")
    raise Unavailable(f"The services are not ready: {missing}")


def _look(url: str) -> Readiness | None:
    try:
        return Readiness.model_validate_json(httpx.get(f"{url}/readyz", timeout=10).content)
    except (httpx.HTTPError, ValueError):
        return None


def _announce(url: str) -> None:
    say(f"Starting on {url} (Ctrl-C stops it)")
    try:
        wait_until_ready(url)
    except Unavailable as error:
        say(error.detail, style="yellow")
    else:
        say(f"Ready: {url}/docs shows what can be asked")


def _server(settings: EmbeddedSettings) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(Embedded(settings), log_level="warning", timeout_graceful_shutdown=20, log_config=None)
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise InvalidInput(
            f"Cannot listen on {host}:{port} ({error.strerror}). Choose another with --port, or 0 for a free one."
        ) from error


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{host}:{port}"
