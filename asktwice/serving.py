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

PATIENCE_S = 5.0
ON_ITS_WAY = ("loading", "is being opened", "waits for", "indexing", "starting")
"""What services say of things that need only time."""


def serve_forever(settings: EmbeddedSettings, host: str, port: int) -> None:
    """Serve until Ctrl-C; say when everything is ready, or what is not.

    Raises:
        InvalidInput: the port is taken.
    """
    listening = _listen(host, port)
    url = _url(listening)
    threading.Thread(target=_announce, args=(url,), daemon=True).start()
    server = _Server(settings)
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
    server = _Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield _url(listening)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def wait_until_ready(url: str, within_s: float = 3600.0) -> None:
    """Return once ``/readyz`` says so. Loading and indexing may take their time, an obstacle may not.

    Raises:
        Unavailable: something stands in the way, for ``PATIENCE_S`` on end; the message says what.
    """
    end = time.monotonic() + within_s
    obstacles, since = "", time.monotonic()
    while time.monotonic() < end:
        state = _look(url)
        if state is not None and state.ready:
            return
        now = _obstacles(state)
        if now != obstacles:
            obstacles, since = now, time.monotonic()
        if obstacles and time.monotonic() - since > PATIENCE_S:
            break
        time.sleep(0.1)
    raise Unavailable(f"The services are not ready: {obstacles or 'they are still starting'}")


def _obstacles(state: Readiness | None) -> str:
    """Return what is missing and not on its way."""
    if state is None:
        return ""
    parts = [part for check in state.checks.values() if check != "ok" for part in check.split("; ")]
    return "; ".join(part for part in parts if not any(word in part for word in ON_ITS_WAY))


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


class _Server(uvicorn.Server):
    """Ends evaluations as soon as it is told to stop: who waits for one gets an answer, and the stop does not wait."""

    def __init__(self, settings: EmbeddedSettings):
        self.embedded = Embedded(settings)
        super().__init__(
            uvicorn.Config(self.embedded, log_level="warning", timeout_graceful_shutdown=20, log_config=None)
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.embedded.end_evaluations()
        await super().shutdown(sockets)


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
