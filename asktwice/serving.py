"""Serve the embedded app on a port: for ``asktwice serve`` until Ctrl-C, for the demo while it asks."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from asktwice.console import say
from asktwice.embedded import Embedded, EmbeddedSettings
from contracts.errors import AskTwiceError, InvalidInput, Unavailable
from contracts.health import Readiness

PATIENCE_S = 5.0
ON_ITS_WAY = re.compile(
    r"(\w+: )*(loading|starting|is being opened|waits for the index|(indexing|rebuilding)( \d+/\d+)?)"
)
"""What services say of things that need only time."""


def serve_forever(
    settings: EmbeddedSettings, host: str, port: int, confirm: Callable[[str], str] | None = None
) -> None:
    """Serve until Ctrl-C; say when everything is ready, or what is not.

    Args:
        confirm: given the URL once everything is ready; says what it found, or refuses, and then the server ends.

    Raises:
        InvalidInput: the port is taken.
        AskTwiceError: as ``confirm`` refused.
    """
    listening = _listen(host, port)
    url = _url(listening)
    server = _Server(settings)
    refused: list[AskTwiceError] = []

    def announce() -> None:
        _announce(url)
        if confirm is None:
            return
        try:
            say(confirm(url))
        except Exception as error:  # else the thread would end, and the server serve on as if nothing had been asked
            refused.append(
                error if isinstance(error, AskTwiceError) else Unavailable(f"{type(error).__name__}: {error}")
            )
            server.should_exit = True

    threading.Thread(target=announce, daemon=True).start()
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        say("Stopped.")
    finally:
        listening.close()
    if refused:
        raise refused[0]


@contextmanager
def served(settings: EmbeddedSettings) -> Iterator[str]:
    """Serve on a free port of this machine; yield the URL once everything is ready.

    Raises:
        Unavailable: something stands in the way.
    """
    listening = _listen("127.0.0.1", 0)
    server = _Server(settings.model_copy(update={"resume": False}))  # it is there for one command
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        url = _url(listening)
        wait_until_ready(url, thread.is_alive)
        yield url
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def wait_until_ready(url: str, alive: Callable[[], bool] = lambda: True) -> None:
    """Return once ``/readyz`` says so. Loading and indexing may take their time, an obstacle may not.

    Args:
        url: of the server.
        alive: whether the server runs at all.

    Raises:
        Unavailable: something stands in the way, for ``PATIENCE_S`` on end, or the server ended; the message says what.
    """
    obstacles, since = "", time.monotonic()
    while alive():
        state = _look(url)
        if state is not None and state.ready:
            return
        now = _obstacles(state)
        if now != obstacles:
            obstacles, since = now, time.monotonic()
        if obstacles and time.monotonic() - since > PATIENCE_S:
            raise Unavailable(f"The services are not ready: {obstacles}")
        time.sleep(0.1)
    raise Unavailable("The server could not be started; the lines above say why.")


def _obstacles(state: Readiness | None) -> str:
    """Return what is missing and not on its way. Checks are nested: ``index: is being opened; data: waits for ...``."""
    if state is None:
        return ""
    parts = [part for check in state.checks.values() if check != "ok" for part in check.split("; ")]
    return "; ".join(part for part in parts if not ON_ITS_WAY.fullmatch(part))


def _look(url: str) -> Readiness | None:
    try:
        return Readiness.model_validate_json(httpx.get(f"{url}/readyz", timeout=10).content)
    except (httpx.HTTPError, ValueError):
        return None


def _announce(url: str) -> None:
    """Say that it starts, what stands in the way while it does, and when it is ready."""
    say(f"Starting on {url} (Ctrl-C stops it)")
    said = ""
    while True:
        try:
            wait_until_ready(url)
        except Unavailable as error:
            if error.detail != said:
                say(error.detail, style="yellow")
                said = error.detail
        else:
            say(f"Ready: {url}/docs shows what can be asked")
            return


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
