"""The evaluator over HTTP: result.txt, jobs, bad bodies, readiness."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI

from contracts.clients import EvaluatorClient
from contracts.errors import Unavailable
from contracts.evaluation import EvaluationQuestion, EvaluationResult
from contracts.generation import Answer, Mode
from contracts.health import Readiness
from services.evaluator.bertscore import random_encoder
from services.evaluator.settings import EvaluatorSettings
from services.kit import PROBLEM_JSON
from tests import fake_openai as fake
from tests.fake_openai import FakeOpenAI
from tests.services.evaluator.fakes import FIVE, FakeGenerator, make_answer, opened, plan_of, served, turns
from tests.serving import eventually

Build = Callable[[EvaluatorSettings], FastAPI]
RULE = "=" * 24
T = TypeVar("T")


def run(doing: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(doing, 30))


def questions_of(text: str) -> list[str]:
    return [line.split(": ", 1)[1] for line in text.splitlines() if line.startswith("Вопрос ")]


def post(app: FastAPI, **request: object) -> httpx.Response:
    async def send() -> httpx.Response:
        async with opened(app) as client:
            return await client.post("/evaluate", **request)

    return run(send())


def test_no_body_asks_the_five_questions_and_returns_result_txt(evaluator: Build, settings: EvaluatorSettings) -> None:
    response = post(evaluator(settings))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    text = response.content.decode()
    assert questions_of(text) == [*FIVE, *FIVE]
    id = response.headers["X-Evaluation-Id"]
    assert (settings.home / "evaluations" / id / "result.txt").read_text(encoding="utf-8") == text
    lines = text.splitlines()
    assert (
        lines[0] == "RAG (Retrieval-Augmented Generation) Qdrant + asktwice-tiny (с INT4 квантизацией) без Fine-tuning"
    )
    assert "asktwice-tiny (с INT4 квантизацией) + Fine-tuning на дата сете selected_qa_full.csv" in lines
    assert "Анализа нет: не задан ключ OPENAI_API_KEY" in text
    assert lines.count(RULE) == 6 + 6 + 2 + 2
    assert id in lines[-2]
    assert lines[-1] == RULE


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (fake.answer("RAG точнее."), "RAG точнее."),
        (fake.refuse_key(), "не принял ключ (HTTP 401"),
        (fake.hang(), "не ответила за 0.2 с"),
        (fake.rate_limit(), "HTTP 429"),
        (fake.fail(500), "HTTP 500"),
        (fake.raw(b"<html>", "text/html"), "нет текста"),
    ],
    ids=["answers", "401", "hangs", "429", "500", "html"],
)
def test_whatever_the_judge_does_the_answers_come_with_200(
    evaluator: Build,
    settings: EvaluatorSettings,
    caplog: pytest.LogCaptureFixture,
    behaviour: fake.Behaviour,
    says: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    key = "sk-canary-77aa"
    with FakeOpenAI(behaviour) as judge:
        told = {"openai_base_url": judge.url, "openai_api_key": key, "judge_timeout_s": 0.2}
        told_settings = EvaluatorSettings(**(settings.model_dump() | told))
        response = post(evaluator(told_settings), json={"questions": ["Сколько стоит?"]})
    assert response.status_code == 200
    assert "Ответ 1: rag: Сколько стоит?\n" in response.text
    analysis = response.text.split("Анализ качества ответов (gpt-4o-mini)\n")[1].split(RULE)[1]
    assert says in analysis
    prompt = judge.requests[0].prompt
    assert response.text[: response.text.index("\nАнализ качества")] in prompt
    written = b"".join(path.read_bytes() for path in settings.home.rglob("*") if path.is_file())
    assert key.encode() not in written + response.content + caplog.text.encode()


def test_json_questions_may_be_strings_or_objects(evaluator: Build, settings: EvaluatorSettings) -> None:
    body = {"questions": ["Первый?", {"question": "Второй?", "answer": "Да", "context": "Текст"}]}
    response = post(evaluator(settings), json=body)
    assert questions_of(response.text) == ["Первый?", "Второй?"] * 2
    assert "Измерено на вопросах с эталонными ответами: 1;" in response.text
    assert "обучающие строки неизвестны" in response.text
    assert "Вывод: данных мало, чтобы назвать лучшего." in response.text


def test_a_csv_from_excel_in_cp1251_is_read_and_every_row_accounted_for(
    evaluator: Build, settings: EvaluatorSettings
) -> None:
    csv = (
        "Question;Answer;Отдел\r\nСколько стоит курс программирования на Python?;Сто рублей;1\r\n"
        ';пусто;2\r\n"Есть ли рассрочка;\r\nи скидка?";;3\r\n'
        "Сколько стоит курс программирования на Python?;Сто рублей;4\r\n"
    )
    response = post(evaluator(settings), files={"file": ("вопросы.csv", csv.encode("cp1251"), "text/csv")})
    assert response.status_code == 200, response.text
    kept = settings.home / "evaluations" / response.headers["X-Evaluation-Id"] / "questions.csv"
    again = post(evaluator(settings), files={"file": ("questions.csv", kept.read_bytes())})
    assert questions_of(again.text) == questions_of(response.text)
    asked = ["Сколько стоит курс программирования на Python?", "Есть ли рассрочка; и скидка?"]
    assert questions_of(response.text) == asked * 2
    assert "Вопросы: 2, из вопросы.csv: строк 4 = принято 2 + отклонено 1 + повторов 1;" in response.text


def test_the_classic_table_is_one_run_base_rag_and_ft_by_bertscore(
    evaluator: Build, settings: EvaluatorSettings, tmp_path: Path
) -> None:
    questions = [f"Сколько стоит товар {n}?" for n in range(12)]
    table = "question,answer,context\n" + "".join(f"{q},{q} Сто рублей.,Цена.\n" for q in questions)
    encoder = random_encoder(tmp_path / "encoder", questions, layers=2)
    asked = settings.model_copy(update={"bertscore": encoder, "bertscore_layer": 2})
    response = post(
        evaluator(asked), params={"modes": "base,rag,ft", "lang": "en"}, files={"file": ("q.csv", table.encode())}
    )
    assert response.status_code == 200, response.text
    folder = settings.home / "evaluations" / response.headers["X-Evaluation-Id"]
    found = EvaluationResult.model_validate_json((folder / "results.json").read_bytes()).measurement
    assert found
    assert [arm.arm for arm in found.arms] == ["base", "rag", "ft"]
    assert all(0 < arm.means["bertscore"] <= 1 and arm.measured["bertscore"] == 12 for arm in found.arms)
    assert response.text.count("BERTScore F1 0.") == 3
    assert "bertscore" in (folder / "items.csv").read_text(encoding="utf-8-sig").splitlines()[0]


def test_modes_that_are_none_are_422_and_nothing_is_begun(evaluator: Build, settings: EvaluatorSettings) -> None:
    for params in ({"modes": "gpt"}, {"modes": ""}, {"measure": "-1"}, {"lang": "de"}, {"modes": "rag,oracle"}):
        assert post(evaluator(settings), params=params, json=TWO).status_code == 422, params
    assert not (settings.home / "evaluations").exists()


LONG = "а" * 20_001
BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "nan": (b'{"questions": [NaN]}', "application/json"),
    "infinity": (b'{"questions": [Infinity]}', "application/json"),
    "minus infinity": (b'{"questions": -Infinity}', "application/json"),
    "1e999": (b'{"questions": [1e999]}', "application/json"),
    "lone surrogate": (rb'{"questions": ["\ud800"]}', "application/json"),
    "surrogate of wrong type": (rb'{"questions": "\udfff"}', "application/json"),
    "surrogate key": (rb'{"questions": ["?"], "\ud800": 1}', "application/json"),
    "binary": (bytes(range(256)), "application/octet-stream"),
    "binary as json": (bytes(range(256)), "application/json"),
    "deep": (b'{"questions": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "application/json"),
    "deep objects": (b'{"questions": [' + b'{"question": ' * 50_000, "application/json"),
    "wrong type": (b'{"questions": 1}', "application/json"),
    "wrong type inside": (b'{"questions": [1, null, {}]}', "application/json"),
    "a list": (b'["?"]', "application/json"),
    "a string": (b'"?"', "application/json"),
    "null": (b"null", "application/json"),
    "empty object": (b"{}", "application/json"),
    "no questions": (b'{"questions": []}', "application/json"),
    "blank question": (b'{"questions": ["  "]}', "application/json"),
    "too long": (json.dumps({"questions": [LONG]}).encode(), "application/json"),
    "too many": (json.dumps({"questions": ["?"] * 10_001}).encode(), "application/json"),
    "unknown field": (b'{"questions": ["?"], "base_url": "http://evil"}', "application/json"),
    "truncated": (b'{"questions": ["?"', "application/json"),
    "blank": (b" \n", "application/json"),
    "form": (b"questions=1", "application/x-www-form-urlencoded"),
    "no type": (b'{"questions": ["?"]}', ""),
    "form without a file": (b"--x--\r\n", "multipart/form-data; boundary=x"),
    "form without a boundary": (b"abc", "multipart/form-data"),
    "broken form": (b"--x\r\nabc", "multipart/form-data; boundary=x"),
    "text field": (
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nquestion\r\n--x--\r\n',
        "multipart/form-data; boundary=x",
    ),
}


def test_bad_bodies_are_422_with_a_problem(evaluator: Build, settings: EvaluatorSettings) -> None:
    async def send_all() -> dict[str, httpx.Response]:
        async with opened(evaluator(settings)) as client:
            return {
                name: await client.post("/evaluate", content=body, headers={"Content-Type": kind} if kind else {})
                for name, (body, kind) in BAD_BODIES.items()
            }

    for name, response in run(send_all()).items():
        assert response.status_code == 422, (name, response.status_code, response.text[:300])
        assert response.headers["content-type"] == PROBLEM_JSON, name
        assert response.json()["code"] == "invalid_input", name
        assert len(response.content) < 8_000, name
    assert not (settings.home / "evaluations").exists()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"file": ("q.csv", b"text\nabc\n")}, "lacks the column question"),
        ({"file": ("q.csv", b'question\n"abc\n')}, "never closed"),
        ({"file": ("q.csv", b"PK\x03\x04")}, "not text"),
        ({"file": ("q.csv", ("question\n" + LONG).encode())}, "row 1"),
        ({"file": ("q.csv", b"")}, "empty"),
        ({"other": ("q.csv", b"question\nabc\n")}, '"file"'),
        ([("file", ("a.csv", b"question\nabc\n")), ("file", ("b.csv", b"question\nabc\n"))], "file"),
    ],
)
def test_a_bad_table_is_422_and_says_why(
    evaluator: Build, settings: EvaluatorSettings, files: object, says: str
) -> None:
    response = post(evaluator(settings), files=files)
    assert response.status_code == 422, response.text
    assert says in response.json()["detail"]


def test_a_body_over_a_megabyte_is_413(evaluator: Build, settings: EvaluatorSettings) -> None:
    response = post(evaluator(settings), content=b" " * 1_000_001, headers={"Content-Type": "application/json"})
    assert response.status_code == 413


def test_without_a_questions_file_it_says_which_is_missing(evaluator: Build, settings: EvaluatorSettings) -> None:
    response = post(evaluator(settings.model_copy(update={"questions": settings.home / "none.txt"})))
    assert response.status_code == 409
    assert "none.txt" in response.json()["detail"]


def test_the_typed_client_follows_a_job_to_its_text(evaluator: Build, settings: EvaluatorSettings) -> None:
    async def ask() -> str:
        async with opened(evaluator(settings)) as http:
            client = EvaluatorClient(http)
            job = await client.start(["Сколько стоит?"])
            assert job.id.startswith("ev_")
            await http.get(f"/jobs/{job.id}/events")  # ends with the job
            job = await client.job(job.id)
            assert (job.state, job.done, job.total) == ("succeeded", 2, 2)
            return await client.result(job)

    assert questions_of(run(ask())) == ["Сколько стоит?"] * 2


def test_a_generator_that_is_not_there_is_503_and_the_job_says_so(
    generator: FakeGenerator, evaluator: Build, settings: EvaluatorSettings
) -> None:
    async def gone(question: str, mode: Mode) -> Answer:
        raise Unavailable("The base model is still being loaded.", retry_after=60)

    generator.answering, generator.ready = gone, Readiness.of({"model": "loading"})
    response = post(evaluator(settings.model_copy(update={"question_deadline_s": 2.0})))
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert "model: loading" in response.json()["detail"]


def test_openapi_describes_both_bodies(evaluator: Build, settings: EvaluatorSettings) -> None:
    operation = evaluator(settings).openapi()["paths"]["/evaluate"]["post"]
    body = operation["requestBody"]
    assert body["required"] is False
    assert set(body["content"]) == {"application/json", "multipart/form-data"}
    assert "$ref" not in json.dumps(operation)
    assert "text/plain" in operation["responses"]["200"]["content"]


@pytest.mark.parametrize(
    ("model", "checks"),
    [
        ("ok", {"generator": "ok", "retriever": "ok"}),
        ("loading", {"generator": "model: loading", "retriever": "ok"}),
    ],
)
def test_readiness_is_that_of_all_services(
    generator: FakeGenerator, evaluator: Build, settings: EvaluatorSettings, model: str, checks: dict[str, str]
) -> None:
    async def ready() -> httpx.Response:
        async with opened(evaluator(settings)) as client:
            return await client.get("/readyz")

    generator.ready = Readiness.of({"model": model}, generator.ready.about)
    response = run(ready())
    assert response.status_code == (200 if model == "ok" else 503)
    assert response.json()["checks"] == checks
    assert response.json()["about"]["generator"]["model"] == "models/asktwice-tiny"
    assert response.json()["about"]["retriever"]["embedding"] == "hashed-char-ngrams-2048"


class Gate:
    """Holds back the answers to all questions but the first."""

    def __init__(self, generator: FakeGenerator) -> None:
        self.open = asyncio.Event()
        self.waiting = asyncio.Event()
        generator.answering = self.answer

    async def answer(self, question: str, mode: Mode) -> Answer:
        if question != "Первый?":
            self.waiting.set()
            await self.open.wait()
        return make_answer(question, mode)


ASYNC = {"Prefer": "wait=5, respond-async"}
TWO = {"questions": ["Первый?", "Второй?"]}


def test_a_job_is_begun_watched_and_fetched(
    generator: FakeGenerator, evaluator: Build, settings: EvaluatorSettings
) -> None:
    async def live() -> None:
        gate = Gate(generator)
        async with opened(evaluator(settings)) as client:
            begun = await client.post("/evaluate", json=TWO, headers=ASYNC)
            assert begun.status_code == 202
            id = begun.headers["X-Evaluation-Id"]
            assert begun.headers["Location"] == f"/jobs/{id}"
            assert begun.json()["total"] == 4
            await gate.waiting.wait()
            running = (await client.get(f"/jobs/{id}")).json()
            assert (running["state"], running["result"]) == ("running", None)
            early = await client.get(f"/evaluations/{id}/result.txt")
            assert (early.status_code, early.json()["code"]) == (409, "not_ready")
            gate.open.set()
            events = (await client.get(f"/jobs/{id}/events")).text
            assert "event: done" in events
            ended = (await client.get(f"/jobs/{id}")).json()
            assert (ended["state"], ended["done"], ended["total"]) == ("succeeded", 4, 4)
            assert ended["result"] == f"/evaluations/{id}/result.txt"
            result = await client.get(ended["result"])
            assert result.headers["content-type"] == "text/plain; charset=utf-8"
            assert questions_of(result.text) == ["Первый?", "Второй?"] * 2

    run(live())


def test_events_tell_each_answer_and_end_with_the_job(
    generator: FakeGenerator, evaluator: Build, settings: EvaluatorSettings
) -> None:
    """Over a real port, because only there a stream arrives piece by piece."""
    opening: list[Callable[[], None]] = []

    async def gated(question: str, mode: Mode) -> Answer:
        if question != "Первый?":
            gate = asyncio.Event()
            loop = asyncio.get_running_loop()
            opening.append(lambda: loop.call_soon_threadsafe(gate.set))
            await gate.wait()
        return make_answer(question, mode)

    generator.answering = gated
    with served(evaluator(settings.model_copy(update={"concurrency": 2}))) as url, httpx.Client(base_url=url) as client:
        id = client.post("/evaluate", json=TWO, headers=ASYNC).headers["X-Evaluation-Id"]
        seen: list[tuple[str, int]] = []
        with client.stream("GET", f"/jobs/{id}/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            kind = ""
            for line in response.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    seen.append((kind, json.loads(line.removeprefix("data: "))["done"]))
                    while opening and seen[-1][1] >= 2:
                        opening.pop()()
    assert seen[-1] == ("done", 4)
    assert {kind for kind, _ in seen[:-1]} == {"progress"}
    assert [done for _, done in seen] == sorted(done for _, done in seen)
    assert len(seen) >= 3


def test_cancel_stops_the_questions_and_keeps_the_answers(
    generator: FakeGenerator, evaluator: Build, settings: EvaluatorSettings
) -> None:
    async def live() -> str:
        gate = Gate(generator)
        async with opened(evaluator(settings.model_copy(update={"concurrency": 1}))) as client:
            waiting = asyncio.create_task(client.post("/evaluate", json=TWO))
            await gate.waiting.wait()
            (folder,) = (settings.home / "evaluations").iterdir()
            cancelled = await client.post(f"/jobs/{folder.name}/cancel")
            assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
            assert generator.in_flight == 0
            response = await waiting
            assert response.status_code == 409
            assert "cancelled" in response.json()["detail"]
            again = await client.post(f"/jobs/{folder.name}/cancel")
            assert (again.status_code, again.json()["state"]) == (200, "cancelled")
            assert (await client.get(f"/evaluations/{folder.name}/result.txt")).status_code == 404
            return folder.name

    id = run(live())
    kept = (settings.home / "evaluations" / id / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["answer"]["answer"]["answer"] for line in kept] == ["rag: Первый?", "ft: Первый?"]


def test_a_client_that_leaves_does_not_stop_the_evaluation(
    generator: FakeGenerator, evaluator: Build, settings: EvaluatorSettings
) -> None:
    async def live() -> None:
        gate = Gate(generator)
        async with opened(evaluator(settings)) as client:
            leaving = asyncio.create_task(client.post("/evaluate", json=TWO))
            await gate.waiting.wait()
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            (folder,) = (settings.home / "evaluations").iterdir()
            gate.open.set()
            await client.get(f"/jobs/{folder.name}/events")
            assert (await client.get(f"/jobs/{folder.name}")).json()["state"] == "succeeded"
            assert (await client.get(f"/evaluations/{folder.name}/result.txt")).status_code == 200

    run(live())


def test_after_a_restart_a_job_that_ran_is_interrupted_where_it_is_not_to_go_on(
    generator: FakeGenerator, evaluator: Build, settings: EvaluatorSettings
) -> None:
    async def stopped_in_the_middle() -> str:
        gate = Gate(generator)
        async with opened(evaluator(settings.model_copy(update={"concurrency": 1}))) as client:
            id = (await client.post("/evaluate", json=TWO, headers=ASYNC)).headers["X-Evaluation-Id"]
            await gate.waiting.wait()
            return id

    async def after(id: str) -> tuple[dict[str, object], httpx.Response]:
        async with opened(evaluator(settings.model_copy(update={"resume": False}))) as client:
            return (await client.get(f"/jobs/{id}")).json(), await client.get(f"/evaluations/{id}/result.txt")

    id = run(stopped_in_the_middle())
    job, result = run(after(id))
    assert (job["state"], job["done"], job["total"], job["result"]) == ("interrupted", 2, 4, None)
    assert "2 of 4 answers are kept" in str(job["error"])
    assert result.status_code == 404


def test_when_the_server_stops_all_who_wait_are_told_at_once(
    generator: FakeGenerator, evaluator: Build, settings: EvaluatorSettings
) -> None:
    async def live() -> str:
        gate = Gate(generator)
        app = evaluator(settings.model_copy(update={"concurrency": 1}))
        async with opened(app) as client:
            waiting = asyncio.create_task(client.post("/evaluate", json=TWO))
            await gate.waiting.wait()
            (folder,) = (settings.home / "evaluations").iterdir()
            watching = asyncio.create_task(client.get(f"/jobs/{folder.name}/events"))
            await turns()
            jobs = app.state.jobs
            not_begun = await jobs.start(plan_of([EvaluationQuestion(question="?")]))
            await asyncio.gather(jobs.close(), jobs.close())
            await jobs.close()
            response = await waiting
            assert (response.status_code, response.json()["code"]) == (503, "unavailable")
            assert response.json()["detail"] == "The server is stopping; the answers it had are kept."
            last = (await watching).text.strip().splitlines()
            assert '"state":"interrupted"' in last[-1]
            with pytest.raises(Unavailable, match="is stopping"):
                await jobs.text(not_begun)
            late = await client.post("/evaluate", json=TWO)
            assert (late.status_code, late.json()["code"]) == (503, "unavailable")
            assert generator.in_flight == 0
            return folder.name

    id = run(live())
    kept = (settings.home / "evaluations" / id / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(kept) == 2


def test_a_judge_that_hangs_does_not_hold_up_the_stop(evaluator: Build, settings: EvaluatorSettings) -> None:
    with FakeOpenAI(fake.hang()) as judge:
        told = {"openai_base_url": judge.url, "openai_api_key": "sk-test", "judge_timeout_s": 60.0}
        app = evaluator(EvaluatorSettings(**(settings.model_dump() | told)))

        async def live() -> httpx.Response:
            async with opened(app) as client:
                waiting = asyncio.create_task(client.post("/evaluate", json=TWO))
                await asyncio.to_thread(eventually, lambda: bool(judge.requests), "the question to the judge")
                await asyncio.wait_for(app.state.jobs.close(), 5)
                return await asyncio.wait_for(waiting, 5)

        response = run(live())
    assert response.status_code == 503
    assert "the answers it had are kept" in response.json()["detail"]


@pytest.mark.parametrize("id", ["ev_20260102T030405Z_0123abcd", "nonsense", "..%2f..%2fjob", "%00", "%ff"])
def test_an_unknown_job_is_404(evaluator: Build, settings: EvaluatorSettings, id: str) -> None:
    async def ask() -> list[httpx.Response]:
        async with opened(evaluator(settings)) as client:
            return [
                await client.get(f"/jobs/{id}"),
                await client.get(f"/jobs/{id}/events"),
                await client.post(f"/jobs/{id}/cancel"),
                await client.get(f"/evaluations/{id}/result.txt"),
            ]

    for response in run(ask()):
        assert response.status_code == 404
        assert response.json()["code"] == "not_found"


def test_too_many_evaluations_are_429(generator: FakeGenerator, evaluator: Build, settings: EvaluatorSettings) -> None:
    async def live() -> list[httpx.Response]:
        Gate(generator)
        async with opened(evaluator(settings)) as client:
            return [await client.post("/evaluate", json={"questions": ["Второй?"]}, headers=ASYNC) for _ in range(65)]

    responses = run(live())
    assert {response.status_code for response in responses[:64]} == {202}
    assert responses[64].status_code == 429
    assert responses[64].headers["Retry-After"] == "10"


def test_a_full_disk_is_told_and_the_job_failed(
    generator: FakeGenerator, evaluator: Build, settings: EvaluatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("services.evaluator.store.EvaluationStore.keep", full)
    response = post(evaluator(settings))
    assert response.status_code == 500
    assert "No space left on device" in response.json()["detail"]
