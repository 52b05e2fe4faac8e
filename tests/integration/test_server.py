"""The embedded server, used as a client would, with the bundled model and the adapter of the demo."""

import json
import os
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from contracts.evaluation import EvaluationResult
from contracts.table import read_table
from contracts.verdict import Outcome
from tests.fake_openai import FakeOpenAI, hang
from tests.integration.conftest import Demo, asktwice, asktwice_serve, copied_home
from tests.serving import AWKWARD_BODIES, MALFORMED_BODIES, eventually

DATA = os.environ.get("ASKTWICE_TEST_DATA")


def ask(client: httpx.Client, mode: str, question: str, **body: object) -> httpx.Response:
    return client.post("/ask", params={"mode": mode}, json={"question": question, **body})


def test_every_ready_mode_answers_and_the_other_says_why_not(client: httpx.Client) -> None:
    question = "Сколько стоит курс ChatGPT Professional?"
    answers = {mode: ask(client, mode, question).json() for mode in ("base", "rag", "ft")}
    assert {mode: answer["mode"] for mode, answer in answers.items()} == {m: m for m in answers}
    assert all(a["model"] == "asktwice-tiny" and a["quantization"] == "nf4" for a in answers.values())
    assert len(answers["rag"]["sources"]) == 3
    assert any("89 900" in source["text"] for source in answers["rag"]["sources"])
    refused = ask(client, "rag_ft", question)
    assert (refused.status_code, refused.json()["code"]) == (409, "adapter_missing")


def test_500_concurrent_mixed_requests_answer_as_one_at_a_time(client: httpx.Client, url: str) -> None:
    rows = read_table(Path("data/selected_qa_full.csv")).rows
    questions = [row.question for row in random.Random(3).sample(rows, 30)]
    short = {"max_new_tokens": 12, "top_k": 1}
    alone = {(m, q): ask(client, m, q, **short).json()["answer"] for q in questions for m in ("base", "rag", "ft")}
    differing = sum(alone["ft", question] != alone["base", question] for question in questions)
    assert differing >= 0.9 * len(questions)
    asked = random.Random(4).choices(list(alone), k=500)
    with httpx.Client(base_url=url, timeout=600, limits=httpx.Limits(max_connections=100)) as many:

        def answer(key: tuple[str, str]) -> str:
            response = ask(many, *key, **short)
            assert response.status_code == 200, response.text
            return str(response.json()["answer"])

        with ThreadPoolExecutor(100) as clients:
            mixed = list(clients.map(answer, asked))
    assert mixed == [alone[key] for key in asked]


def test_streaming_through_the_one_port(client: httpx.Client) -> None:
    whole = ask(client, "ft", "Есть ли рассрочка?").json()["answer"]
    body = {"question": "Есть ли рассрочка?", "stream": True}
    with client.stream("POST", "/ask", params={"mode": "ft"}, json=body) as response:
        events = [line for line in response.iter_lines() if line]
    assert events[0] == "event: sources"
    assert events[-2] == "event: done"
    assert json.loads(events[-1].removeprefix("data: "))["answer"] == whole


@pytest.mark.parametrize("path", ["/ask", "/search", "/documents", "/evaluate"])
def test_bad_bodies_are_422_on_every_post(client: httpx.Client, path: str) -> None:
    bodies = {**AWKWARD_BODIES, **MALFORMED_BODIES}
    if path == "/evaluate":
        del bodies["empty"]  # no body is a request for the five questions
    for name, (body, kind) in bodies.items():
        refused = client.post(path, content=body, headers={"content-type": kind})
        assert refused.status_code == 422, f"{name}: {refused.status_code} {refused.text}"
        assert refused.headers["content-type"] == "application/problem+json", name


def test_a_document_is_found_right_after_its_upload(client: httpx.Client) -> None:
    text = "context;note\nСтоловая университета работает с 8 до 19 часов.;1\n;2\n"
    receipt = client.post("/documents", files={"file": ("столовая.csv", text.encode("cp1251"))}).json()
    assert (receipt["read"], receipt["accepted"], receipt["rejected"]) == (2, 1, 1)
    again = client.post("/documents", files={"file": ("столовая.csv", text.encode("cp1251"))}).json()
    assert (again["accepted"], again["unchanged"]) == (0, 1)
    found = client.post("/search", json={"query": "когда работает столовая", "top_k": 1}).json()["results"]
    assert "с 8 до 19" in found[0]["text"]


def test_evaluate_answers_with_result_txt(client: httpx.Client) -> None:
    response = client.post("/evaluate", json={"questions": ["Есть ли пробный урок?"]})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["x-evaluation-id"]
    assert response.text.count("Вопрос 1: Есть ли пробный урок?\n") == 2


def test_the_winner_is_served_once_its_measured_answers_are_found_again(demo: Demo, tmp_path: Path) -> None:
    home = copied_home(demo, tmp_path)
    evaluation, *_ = sorted(path for path in (home / "evaluations").iterdir() if path.is_dir())
    result = EvaluationResult.model_validate_json((evaluation / "results.json").read_bytes())
    assert result.measurement
    assert result.measurement.verdict
    assert result.measurement.verdict.outcome is Outcome.better  # of the bundled model, on its own data
    with asktwice_serve(home, "--winner", evaluation.name) as (url, _):
        log = home / "serve.log"
        eventually(lambda: "/ask?mode=auto answers with" in log.read_text(encoding="utf-8"), "a winner", 60)
        asked = result.asked[-1]
        measured = next(a for a in asked.answers if a.arm == result.measurement.verdict.winner)
        assert measured.answer
        answer = httpx.post(f"{url}/ask?mode=auto", json={"question": asked.question.question}, timeout=60).json()
        assert (answer["mode"], answer["answer"]) == (measured.arm, measured.answer.answer)

    for asked in result.asked:
        for given in asked.answers:
            if given.answer:
                given.answer.answer += " Не тот ответ."
    (evaluation / "results.json").write_text(result.model_dump_json(), encoding="utf-8")
    refused = asktwice("serve", "--port", "0", "--home", home, "--winner", evaluation.name)
    assert refused.returncode == 1
    assert "only 0 of 10 measured answers were found again" in refused.stderr
    assert not (home / "winner.json").exists()
    assert "There is no finished evaluation ev_1" in asktwice("serve", "--home", home, "--winner", "ev_1").stderr


def test_pages_of_operations(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz").json()
    assert ready["ready"] is True
    assert ready["about"]["retriever"]["passages"] >= 66
    metrics = client.get("/metrics").text
    assert all(f"asktwice_{name}_requests_total" in metrics for name in ("retriever", "generator", "evaluator"))
    described = client.get("/openapi.json").json()
    assert {"/ask", "/search", "/documents", "/evaluate", "/adapters", "/jobs/{id}"} <= described["paths"].keys()
    assert client.get("/docs").status_code == 200
    nothing = client.get("/nothing")
    assert (nothing.status_code, nothing.json()["code"]) == (404, "not_found")


def test_ctrl_c_ends_cleanly_even_while_answering(demo: Demo, tmp_path: Path) -> None:
    home = copied_home(demo, tmp_path)
    with asktwice_serve(home) as (url, process), ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(httpx.post, f"{url}/ask?mode=ft", json={"question": "Привет"}, timeout=60)]
        httpx.get(f"{url}/healthz")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        for request in asking:
            error = request.exception()
            assert error is not None or request.result().status_code in (200, 503)
    log = (home / "serve.log").read_text(encoding="utf-8")
    assert "Stopped." in log
    assert "Traceback" not in log


def test_ctrl_c_does_not_wait_for_a_judge_that_hangs(demo: Demo, tmp_path: Path) -> None:
    home = copied_home(demo, tmp_path)
    with FakeOpenAI(hang()) as judge, ThreadPoolExecutor(1) as clients:
        environment = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": judge.url}
        with asktwice_serve(home, **environment) as (url, process):
            waiting = clients.submit(httpx.post, f"{url}/evaluate", timeout=60)
            eventually(lambda: judge.requests, "the judge is asked")
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert time.monotonic() - begun < 10
            assert waiting.result().status_code == 503
    log = (home / "serve.log").read_text(encoding="utf-8")
    assert "Traceback" not in log


def test_a_judge_that_hangs_costs_its_time_limit_and_no_answer(demo: Demo, tmp_path: Path) -> None:
    home = copied_home(demo, tmp_path)
    with FakeOpenAI(*[hang()] * 3) as judge:
        limits = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": judge.url, "ASKTWICE_JUDGE_TIMEOUT_S": "0.5"}
        with asktwice_serve(home, **limits) as (url, _):
            response = httpx.post(f"{url}/evaluate", timeout=60)
    assert response.status_code == 200
    assert "не ответила за 0.5 с" in response.text
    assert response.text.count("Ответ 5: ") == 2
    assert "sk-test" not in response.text


def test_options_on_everything_is_no_crash(url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b" 404 " in connection.recv(1000).split(b"\r\n")[0] + b" "


@pytest.mark.skipif(DATA is None, reason="ASKTWICE_TEST_DATA does not name the folder with xquad_en.csv")
def test_a_csv_never_seen_in_another_domain_and_language(tmp_path: Path) -> None:
    from tests.integration.conftest import asktwice

    file = Path(str(DATA)) / "xquad_en.csv"
    indexed = asktwice("index", file, "--home", tmp_path, "--profile", "demo")
    assert indexed.returncode == 0, indexed.stderr
    assert "1190 rows read = " in indexed.stdout
    assert "240 passages" in indexed.stdout
    rows = random.Random(1).sample(read_table(file).rows, 40)
    with (
        asktwice_serve(tmp_path, ASKTWICE_PROFILE="demo") as (url, _),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        assert client.get("/readyz").json()["about"]["retriever"]["passages"] == 240  # nothing but the user's own
        answers = [ask(client, "rag", row.question, max_new_tokens=8).json() for row in rows]
        assert ask(client, "ft", "Who?").status_code == 409
    found = sum(row.context in {s["text"] for s in a["sources"]} for row, a in zip(rows, answers, strict=True))
    assert found >= 36
