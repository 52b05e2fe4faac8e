"""How much asking and grading at once saves: the evaluator beside a loop that asks, waits, has it graded, waits."""

import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from pydantic import SecretStr

from contracts.clients import GeneratorClient, RetrieverClient
from contracts.evaluation import AskedQuestion, EvaluationQuestion, ModeAnswer, QuestionsOrigin
from contracts.generation import Answer, Mode, Timings, Usage
from contracts.verdict import VerdictSettings
from services.evaluator.arms import parse_arms
from services.evaluator.comparison import Comparison
from services.evaluator.completions import Completions
from services.evaluator.grading import Grader, Item, Judged
from services.evaluator.judge import Judge
from services.evaluator.plan import Plan
from services.evaluator.settings import EvaluatorSettings

Report = Callable[[int, int, str], None]

LATENCY_S = 0.2
IN_FLIGHT = 32
QUESTIONS = 1280
SEQUENTIAL = 20
_ANSWER, _REFERENCE = "Курс стоит 100 рублей.", "100 рублей."


def concurrency_ratio(rounds: int, report: Report) -> dict[str, float]:
    """Time ``QUESTIONS`` questions, asked and graded, ``IN_FLIGHT`` at a time, and some of them one after the other.

    Generator and judge are servers of another process that answer after ``LATENCY_S``; both sides speak to them over
    real connections that are kept open. Ours is the whole way: answers checked against the contract and grades against
    their schema, as in an evaluation.

    Returns:
        ``concurrency_ratio``: the loop's seconds a question over ours, the median of the rounds.

    Raises:
        RuntimeError: an answer or a grade is missing.
    """
    ratios = []
    with _stub() as url:
        for number in range(rounds):
            report(number, rounds, "one after the other")
            alone = _one_after_the_other(url)
            report(number, rounds, f"{IN_FLIGHT} at once")
            ratios.append(alone / asyncio.run(_at_once(url)))
    return {"concurrency_ratio": round(median(ratios), 2)}


def _one_after_the_other(url: str) -> float:
    with httpx.Client(base_url=url, timeout=30) as http:
        begun = time.perf_counter()
        for number in range(SEQUENTIAL):
            http.post("/ask", params={"mode": "rag"}, json={"question": f"Вопрос {number}?"}).json()
            http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": _ANSWER}]}).json()
        return (time.perf_counter() - begun) / SEQUENTIAL


async def _at_once(url: str) -> float:
    with TemporaryDirectory(prefix="asktwice-bench-") as folder:
        settings = EvaluatorSettings(
            home=Path(folder),
            concurrency=IN_FLIGHT,
            judge_concurrency=IN_FLIGHT,
            openai_api_key=SecretStr("bench"),
            openai_base_url=f"{url}/v1",
        )
        asked = [
            AskedQuestion(question=EvaluationQuestion(question=f"Вопрос {n}?", answer=_REFERENCE), answers=[])
            for n in range(QUESTIONS)
        ]
        arms = parse_arms(["rag"])
        plan = Plan(asked, QuestionsOrigin(kind="request"), arms, train=[], verdict=VerdictSettings())

        async def keep(index: int, answer: ModeAnswer) -> None:
            pass

        limits = httpx.Limits(max_keepalive_connections=IN_FLIGHT)
        async with (
            httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as http,
            Completions(settings) as completions,
        ):
            comparison = Comparison(GeneratorClient(http), RetrieverClient(http), Judge(settings), settings)
            begun = time.perf_counter()
            await comparison.ask_all(plan, keep)
            items = [
                Item(str(n), given.arm, each.question.question, _REFERENCE, "", given.answer.answer)
                for n, each in enumerate(asked)
                for given in each.answers
                if given.answer
            ]
            grading = await Grader(completions).grade(items)
            took = time.perf_counter() - begun
    if len(grading.grades) != QUESTIONS:
        raise RuntimeError(f"{len(grading.grades)} of {QUESTIONS} answers were graded: {grading.ungraded[:1]}")
    return took / QUESTIONS


@contextmanager
def _stub() -> Iterator[str]:
    """Run generator and judge in a process of their own, so that they cost ours nothing; yield their address."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, _answer_body(), _completion_body()), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(told: Any, answer: bytes, completion: bytes) -> None:
    async def serve() -> None:
        server = await asyncio.start_server(lambda r, w: _connection(r, w, answer, completion), "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def _connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes, completion: bytes
) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            await asyncio.sleep(LATENCY_S)
            body = completion if b"/chat/completions" in head.split(b"\r\n")[0] else answer
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _answer_body() -> bytes:
    answer = Answer(
        id="ans_1",
        mode=Mode.rag,
        question="?",
        answer=_ANSWER,
        sources=[],
        model="stub",
        quantization="none",
        adapter=None,
        usage=Usage(prompt_tokens=1, completion_tokens=1),
        timings_ms=Timings(queue=0, retrieve=0, generate=0, total=0),
    )
    return answer.model_dump_json().encode()


def _completion_body() -> bytes:
    judged = Judged.model_validate(
        {
            "claims_in_reference": [{"text": _REFERENCE, "status": "supported"}],
            "extra_claims": [],
            "abstained": False,
            "verdict": "correct",
            "evidence_quote": _ANSWER,
            "rationale": "",
        }
    )
    message = {"role": "assistant", "content": judged.model_dump_json()}
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    return json.dumps(body).encode()
