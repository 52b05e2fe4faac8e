"""The gateway: its routes are those of the embedded mode, and a real Caddy does with them what the services rely on."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.errors import NotFound, Unavailable

CADDYFILE = Path(__file__).parents[2] / "deploy" / "Caddyfile"
SERVICES = ("generator", "retriever", "evaluator")


def routes() -> dict[str, str]:
    """Return Caddy's path patterns -> service."""
    text = CADDYFILE.read_text(encoding="utf-8")
    sent = dict(re.findall(r"handle @(\w+) \{\s*reverse_proxy \{\$\w+:(\w+):8000\}", text))
    return {path: sent[name] for name, paths in re.findall(r"@(\w+) path (.+)", text) for path in paths.split()}


def service_of(path: str) -> str | None:
    """Return who answers a path."""
    for pattern, service in routes().items():
        if path == pattern or (pattern.endswith("/*") and path.startswith(pattern[:-1])):
            return service
    return None


def test_the_routes_are_those_of_the_design() -> None:
    expected = {
        "generator": ["/ask", "/v1/models", "/v1/chat/completions", "/adapters", "/adapters/a.0/load", "/metrics"],
        "retriever": ["/documents", "/search"],
        "evaluator": [
            "/evaluate",
            "/jobs/1",
            "/jobs/1/events",
            "/jobs/1/cancel",
            "/evaluations/1/result.txt",
            "/readyz",
        ],
    }
    for service, paths in expected.items():
        assert {path: service_of(path) for path in paths} == dict.fromkeys(paths, service)
    assert service_of("/docs") == service_of("/openapi.json") == "generator"
    assert service_of("/asked") is None


def test_the_routes_are_those_of_the_embedded_mode() -> None:
    embedded = pytest.importorskip("asktwice.embedded", reason="the embedded mode is not there yet")
    for part, service in embedded.ROUTES.items():
        assert service_of("/v1/models" if part == "v1" else f"/{part}") == service, part
    own_pages = {"/metrics", "/docs", "/docs/*", "/openapi.json"}
    for pattern, service in routes().items():
        if pattern not in own_pages:
            assert embedded.ROUTES.get(pattern.split("/")[1]) == service, pattern


class Upstream(BaseHTTPRequestHandler):
    """Says who it is; streams events until told to go on; refuses a large body as the services do."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "events" in self.path:
            self._events()
        else:
            self._answer(200, f"{self.server.name} {self.path}")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        if length > 1_000_000:
            return self._answer(413, "too large")
        self.do_GET()

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def _events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        server: Any = self.server
        self.wfile.write(b"event: token\ndata: first\n\n")
        self.wfile.flush()
        try:
            while not server.go_on.wait(0.05):
                self.wfile.write(b": still here\n\n")
                self.wfile.flush()
            self.wfile.write(b"event: done\ndata: last\n\n")
        except OSError:
            server.reader_gone.set()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def upstream(name: str) -> Any:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.name, server.go_on, server.reader_gone = name, threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, dict[str, Any]]]:
    """A real Caddy before a generator and a retriever that are there and an evaluator that is not."""
    caddy = shutil.which("caddy")
    if not caddy:
        pytest.skip("no caddy here: install it to test the gateway for real")
    servers = {name: upstream(name) for name in ("generator", "retriever")}
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as probe:
        port = probe.server_port
    gone = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    gone.server_close()
    home = str(tmp_path_factory.mktemp("caddy"))
    environment = {
        **os.environ,
        "XDG_CONFIG_HOME": home,
        "XDG_DATA_HOME": home,
        "ASKTWICE_GATEWAY_PORT": str(port),
        "ASKTWICE_GENERATOR": f"127.0.0.1:{servers['generator'].server_port}",
        "ASKTWICE_RETRIEVER": f"127.0.0.1:{servers['retriever'].server_port}",
        "ASKTWICE_EVALUATOR": f"127.0.0.1:{gone.server_port}",
    }
    command = [caddy, "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            _wait(client)
            yield client, servers
    finally:
        process.terminate()
        process.wait(20)
        for server in servers.values():
            server.go_on.set()
            server.shutdown()


def _wait(client: httpx.Client) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            client.get("/healthz").raise_for_status()
            return
        except httpx.HTTPError:
            assert time.monotonic() < end, "caddy did not start"
            time.sleep(0.05)


def test_a_request_reaches_its_service_with_path_and_query(gateway: tuple[httpx.Client, dict[str, Any]]) -> None:
    client, _ = gateway
    assert client.post("/ask?mode=rag", json={"question": "?"}).text == "generator /ask?mode=rag"
    assert client.post("/search", json={"query": "?"}).text == "retriever /search"
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_service_that_is_down_is_a_503_in_our_own_words(gateway: tuple[httpx.Client, dict[str, Any]]) -> None:
    client, _ = gateway
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    problem = json.loads(answer.content)
    assert {**problem, "detail": ""} == Unavailable("").problem().model_dump()
    assert problem["detail"]


def test_an_unknown_address_is_a_404_in_our_own_words(gateway: tuple[httpx.Client, dict[str, Any]]) -> None:
    client, _ = gateway
    answer = client.get("/nothing")
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")
    assert {**answer.json(), "detail": ""} == NotFound("").problem().model_dump()


def test_events_pass_at_once_and_a_reader_who_goes_is_noticed(gateway: tuple[httpx.Client, dict[str, Any]]) -> None:
    client, servers = gateway
    with client.stream("GET", "/v1/events") as answer:
        first = next(answer.iter_text())
    assert "first" in first, "the upstream has not ended its answer, and the first event is here"
    assert servers["generator"].reader_gone.wait(10)


def test_the_services_own_413_gets_through(gateway: tuple[httpx.Client, dict[str, Any]]) -> None:
    client, _ = gateway
    assert client.post("/ask", content=b"x" * 3_000_000).status_code == 413
