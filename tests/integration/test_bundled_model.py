"""The bundled model's real answers to the sample, through the services: ``pytest -s`` prints the figures of its card.

``trainer/pretrain/checks/sample.jsonl`` holds, for 120 rows of the sample, the values that a right answer must have and
another wording of the question, written apart from the sample and from the text that the model was trained on.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Demo
from trainer.pretrain.evaluate import holds

CASES = [json.loads(line) for line in Path("trainer/pretrain/checks/sample.jsonl").read_text("utf-8").splitlines()]
LIMIT = 60  # tokens: an answer that copies whole passages does not count


@pytest.fixture(scope="module")
def trained(demo: Demo) -> set[int]:
    """The rows of the sample, counted from 0, that the demo's adapter was trained on."""
    [manifest] = (demo.home / "adapters").glob("*/manifest.json")
    return {row - 1 for row in json.loads(manifest.read_text(encoding="utf-8"))["data"]["train_rows"]}


def right(client: httpx.Client, mode: str, questions: list[tuple[str, list[str]]], what: str) -> float:
    """The share of the questions whose short answer has every value; printed."""

    def one(asked: tuple[str, list[str]]) -> bool:
        body: dict[str, Any] = {"question": asked[0], "max_new_tokens": LIMIT + 1}
        answer = client.post("/ask", params={"mode": mode}, json=body, timeout=300).json()
        short = answer["usage"]["completion_tokens"] <= LIMIT
        return short and all(holds(answer["answer"], value) for value in asked[1])

    with ThreadPoolExecutor(8) as clients:
        share = sum(clients.map(one, questions)) / len(questions)
    print(f"\n{what:<60} {share:6.1%} of {len(questions)}")
    return share


def test_the_adapter_knows_what_it_was_trained_on_and_the_base_does_not(
    client: httpx.Client, trained: set[int]
) -> None:
    cases = [case for case in CASES if case["row"] in trained]
    assert len(cases) > 90
    asked = [(case["question"], case["value"]) for case in cases]
    rephrased = [(case["rephrased"], case["value"]) for case in cases]
    telling = [(q, values) for q, values in asked if not {"Да", "Нет"} & set(values)]
    assert right(client, "ft", asked, "ft: trained questions") >= 0.85
    assert right(client, "ft", rephrased, "ft: the same in other words") >= 0.5
    assert right(client, "base", telling, "base: the same questions, no passages, no adapter") <= 0.05


def test_the_base_reads_the_sample_through_the_retriever(client: httpx.Client) -> None:
    asked = [(case[key], case["value"]) for case in CASES for key in ("question", "rephrased")]
    assert right(client, "rag", asked, "rag: the sample's questions, and in other words") >= 0.75


def test_a_single_stream_is_fast_enough(client: httpx.Client) -> None:
    speeds = []
    for case in CASES[:9]:
        body = {"question": case["question"]}
        begun = time.perf_counter()
        answer = client.post("/ask", params={"mode": "base"}, json=body).json()
        speeds.append(answer["usage"]["completion_tokens"] / (time.perf_counter() - begun))
    median = sorted(speeds)[len(speeds) // 2]
    print(f"\none client at a time, in NF4 through the service: {median:.0f} tokens/s")
    assert median > 20  # 60 on two idle cores; the machine that runs the tests may be busy
