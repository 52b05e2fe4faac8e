"""The offline stack, built and started for real, asked through the gateway's port.

``COMPOSE`` names the compose command where it is not ``docker compose``. Images are built on the first run (minutes).
"""

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROJECT = "asktwice-test"
FILES = ["docker-compose.yml", "docker-compose.cpu.yml", "deploy/offline.yml"]
FILE_NAME = "courses 2026.csv"


class Stack:
    """The running containers."""

    def __init__(self, command: list[str], port: int, data: Path):
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300)
        self._command = [*command, *(part for file in FILES for part in ("-f", file)), "-p", PROJECT]
        self._environment = {**os.environ, "ASKTWICE_PORT": str(port), "ASKTWICE_DATA_FILE": str(data)}
        self._environment.pop("OPENAI_API_KEY", None)

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments], cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False
        )

    def ask(self, mode: str) -> httpx.Response:
        body = {"question": "Сколько стоит курс номер 3?", "max_new_tokens": 16}
        return self.http.post("/ask", params={"mode": mode}, json=body)

    def python(self, service: str, code: str) -> str:
        """Run a line of Python in a container and return what it prints."""
        return self.compose("exec", "-T", service, "python", "-c", code).stdout.strip()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The services without the trainer, ready; taken down with their volumes in the end."""
    command = shlex.split(os.environ.get("COMPOSE", "docker compose"))
    if not _works(command, "version") or (command[0] == "docker" and not _works(["docker"], "info")):
        pytest.skip(f"no container engine answers to {shlex.join(command)!r}: set COMPOSE to your compose command")
    data = tmp_path_factory.mktemp("data") / FILE_NAME
    rows = [
        f"Сколько стоит курс номер {n}?,Курс {n} стоит {n}000 рублей.,Курс номер {n}: {n}000 рублей." for n in range(40)
    ]
    data.write_text("\n".join(["question,answer,context", *rows]), encoding="utf-8")
    data.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    started = Stack(command, port, data)
    try:
        up = started.compose("up", "-d", "--build", "gateway", "evaluator", "generator", "retriever")
        assert up.returncode == 0, up.stderr[-3000:]
        _eventually(lambda: _status(started.http, "/readyz") == 200, "the stack is ready", 300)
        yield started
    finally:
        started.compose("down", "-v")


def _works(command: list[str], *arguments: str) -> bool:
    try:
        return subprocess.run([*command, *arguments], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _status(http: httpx.Client, path: str) -> int:
    try:
        return http.get(path).status_code
    except httpx.TransportError:
        return 0


def _eventually(look: Callable[[], bool], what: str, within_s: float) -> None:
    end = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.5)


def _problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    return dict(answer.json())


def test_the_containers_have_no_rights_and_only_their_own_code(stack: Stack) -> None:
    for service in ("evaluator", "generator", "retriever"):
        assert stack.python(service, "import os; print(os.getuid(), os.getgid())") == "10001 10001"
        capabilities = "print([l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapBnd'))])"
        assert stack.python(service, capabilities) == str(["0" * 16] * 2)
        assert stack.python(service, "import os; print(os.access('/app', os.W_OK), os.access('/etc', os.W_OK))") == (
            "False False"
        )
        find = "import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
        names = ["services.evaluator", "services.generator", "services.retriever", "trainer", "asktwice"]
        assert stack.python(service, find.format(names=names)) == str([f"services.{service}"])
    assert stack.python("evaluator", "import importlib.util as u; print(u.find_spec('torch'))") == "None"
    for forbidden in ("open('/app/x', 'w')", "open('/input/x', 'w')"):
        assert stack.python("retriever", f"import sys; {forbidden}; print('written')") == ""
    assert stack.python("generator", "open('/artifacts/x', 'w'); print('written')") == ""


def test_ft_is_refused_until_the_trainer_has_published_and_then_works_without_a_restart(stack: Stack) -> None:
    rag = stack.ask("rag")
    assert rag.status_code == 200
    assert any("Курс номер 3: 3000 рублей." in source["text"] for source in rag.json()["sources"])
    early = stack.ask("ft")
    assert (early.status_code, _problem(early)["code"]) == (409, "adapter_missing")

    up = stack.compose("up", "-d", "trainer")
    assert up.returncode == 0, up.stderr[-3000:]

    def published() -> bool:
        assert stack.ask("base").status_code == 200, "a request was dropped while the trainer was at work"
        answer = stack.ask("ft")
        assert answer.status_code in (200, 409), answer.text
        return answer.status_code == 200

    _eventually(published, "the trainer publishes and the generator serves it", 900)
    answer = stack.ask("ft").json()
    assert answer["adapter"].startswith("tuned.")
    assert answer["sources"] == []
    metrics = stack.http.get("/metrics").text
    assert 'asktwice_generator_requests_total{route="/ask",status="409"}' in metrics, (
        "the process is the one that refused"
    )


def test_evaluate_returns_result_txt_that_names_the_users_file(stack: Stack) -> None:
    answer = stack.http.post(
        "/evaluate", json={"questions": ["Сколько стоит курс номер 3?", "Сколько стоит курс номер 5?"]}
    )
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    first, second = (line for line in answer.text.splitlines() if line.startswith(("RAG (", "asktwice-tiny")))
    assert first == (
        "RAG (Retrieval-Augmented Generation) Qdrant + asktwice-tiny (с INT4 квантизацией) без Fine-tuning"
    )
    assert second == f"asktwice-tiny (с INT4 квантизацией) + Fine-tuning на дата сете {FILE_NAME}"
    assert answer.text.count("Вопрос 1: Сколько стоит курс номер 3?") == 2
    assert "[ошибка" not in answer.text
    default = stack.http.post("/evaluate")
    assert default.text.count("Вопрос 5: Есть трудоустройство поле обучения?") == 2


def test_a_service_that_is_away_is_a_503_and_comes_back_with_its_adapter(stack: Stack) -> None:
    assert stack.compose("stop", "generator").returncode == 0
    away = stack.ask("ft")
    assert (away.status_code, _problem(away)["code"]) == (503, "unavailable")
    assert int(away.headers["Retry-After"]) > 0
    assert stack.http.post("/search", json={"query": "курс", "top_k": 1}).status_code == 200
    assert stack.compose("start", "generator").returncode == 0
    _eventually(lambda: _status(stack.http, "/readyz") == 200, "the generator is back", 300)
    assert stack.ask("ft").status_code == 200
