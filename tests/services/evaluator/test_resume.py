"""Evaluations that are killed, again and again: they go on, ask nothing twice, and say the same in the end."""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from contracts.generation import GeneratorInfo, Mode
from contracts.health import Readiness
from tests.services.evaluator.fakes import make_answer
from tests.serving import eventually

QUESTIONS = 30
IN_FLIGHT = 4
CHILD = """
import sys
from pathlib import Path
import uvicorn
from services.evaluator.app import create_app
from services.evaluator.settings import EvaluatorSettings

home, generator, port = sys.argv[1:]
settings = EvaluatorSettings(
    home=Path(home), generator_url=generator, retriever_url=generator, concurrency=4, openai_api_key=None
)
uvicorn.run(create_app(settings), host="127.0.0.1", port=int(port), log_level="error")
"""


class Stub:
    """Generator and retriever in one, in this process: they outlive what is killed, and count what they are asked."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def _send(self, body: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def do_GET(self) -> None:
                info = GeneratorInfo(model="models/asktwice-tiny", quantization="nf4", profile="demo", device="cpu")
                ready = Readiness.of({"model": "ok"}, info.model_dump()).model_dump_json()
                self._send('{"adapters": []}' if self.path == "/adapters" else ready)

            def do_POST(self) -> None:
                body: Any = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                mode = parse_qs(urlsplit(self.path).query)["mode"][0]
                stub.asked[mode, body["question"]] += 1
                time.sleep(0.02)
                self._send(make_answer(body["question"], Mode(mode)).model_dump_json())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def free_port() -> int:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return int(server.server_address[1])


def started(home: Path, generator: str, port: int) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(home), generator, str(port)])

    def listens() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    eventually(listens, "a server", 30)
    return child


def evaluated(home: Path, kills: int, seed: int) -> tuple[str, Counter[tuple[str, str]]]:
    """Run one evaluation through so many kills; return result.txt without times and ids, and what was asked."""
    stub, drawn = Stub(), random.Random(seed)
    table = "question,answer,context\n" + "".join(
        f"Сколько стоит товар {n}?,Товар стоит {n} рублей.,Цена {n}.\n" for n in range(QUESTIONS)
    )
    child = started(home, stub.url, port := free_port())
    try:
        begun = httpx.post(
            f"http://127.0.0.1:{port}/evaluate", headers={"Prefer": "respond-async"}, timeout=30,
            files={"file": ("q.csv", table.encode())},
        )  # fmt: skip
        id = begun.json()["id"]
        for _ in range(kills):
            time.sleep(drawn.uniform(0, 0.15))
            child.send_signal(signal.SIGKILL)
            child.wait()
            child = started(home, stub.url, port := free_port())
        last: dict[str, Any] = {}

        def ended() -> bool:
            last.update(httpx.get(f"http://127.0.0.1:{port}/jobs/{id}").json())
            return last["state"] not in ("queued", "running")

        eventually(ended, "an end", 60)
        assert (last["state"], last["done"]) == ("succeeded", 2 * QUESTIONS), last
        text = httpx.get(f"http://127.0.0.1:{port}{last['result']}").text
    finally:
        child.kill()
        child.wait()
        stub.close()
    same = text.split("Адаптер:")[0]
    assert "Измерено на вопросах с эталонными ответами: 30" in same
    return same, stub.asked


def check_kills(tmp_path: Path, kills: int, runs: int) -> None:
    calm, asked = evaluated(tmp_path / "calm", 0, 0)
    assert set(asked.values()) == {1}
    assert len(asked) == 2 * QUESTIONS
    for run in range(runs):
        text, asked = evaluated(tmp_path / f"run {run}", kills, run)
        assert text == calm
        assert len(asked) == 2 * QUESTIONS
        assert sum(asked.values()) <= 2 * QUESTIONS + kills * IN_FLIGHT  # what was in flight was asked again, no more


def test_after_five_kills_nothing_was_asked_twice_but_what_was_in_flight(tmp_path: Path) -> None:
    check_kills(tmp_path, 5, 1)


@pytest.mark.slow
def test_after_a_hundred_kills_nothing_was_asked_twice_but_what_was_in_flight(tmp_path: Path) -> None:
    check_kills(tmp_path, 10, 10)


def test_what_was_cancelled_is_not_gone_on_with_and_what_was_cut_off_is_mended(tmp_path: Path) -> None:
    stub = Stub()
    child = started(tmp_path, stub.url, port := free_port())
    questions = {"questions": [f"Вопрос {n}?" for n in range(200)]}
    url, prefer = f"http://127.0.0.1:{port}", {"Prefer": "respond-async"}
    cancelled = httpx.post(f"{url}/evaluate", json=questions, headers=prefer, timeout=30).json()["id"]
    httpx.post(f"{url}/jobs/{cancelled}/cancel", timeout=30)
    killed = httpx.post(f"{url}/evaluate", json=questions, headers=prefer, timeout=30).json()["id"]
    answers = tmp_path / "evaluations" / killed / "answers.jsonl"
    eventually(lambda: answers.stat().st_size > 0, "an answer")
    child.kill()
    child.wait()
    with answers.open("ab") as file:
        file.write(b'{"index": 7, "answ')
    child = started(tmp_path, stub.url, port := free_port())
    try:
        state = eventually(
            lambda: (job := httpx.get(f"http://127.0.0.1:{port}/jobs/{killed}").json())["state"] != "running" and job,
            "an end", 60,
        )  # fmt: skip
        assert (state["state"], state["done"]) == ("succeeded", 400)
        assert httpx.get(f"http://127.0.0.1:{port}/jobs/{cancelled}").json()["state"] == "cancelled"
    finally:
        child.kill()
        child.wait()
        stub.close()
    lines = answers.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 400
    assert all(json.loads(line) for line in lines)
