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
RAG_FLOOR = 0.2
# a passage, a question that it answers, the value, a question that it does not answer
TOLD = [
    ("Прокат катамаранов «Крутояр» открыт с 9:00 до 20:00.",
     "Во сколько открыт прокат катамаранов «Крутояр»?", "с 9:00 до 20:00",
     "Сколько стоит прокат катамаранов «Крутояр»?"),
    ("Абонемент в фехтовальный клуб «Дага» стоит 4 700 рублей в месяц.",
     "Сколько стоит абонемент в фехтовальный клуб «Дага»?", "4 700 рублей",
     "Какой телефон у фехтовального клуба «Дага»?"),
    ("Пасекой «Липовый дол» руководит Савелий Торопов.",
     "Кто руководит пасекой «Липовый дол»?", "Савелий Торопов",
     "Какая скидка на пасеке «Липовый дол»?"),
    ("Обсерватория «Зенит» находится по адресу улица Звёздная, 14.",
     "По какому адресу находится обсерватория «Зенит»?", "Звёздная, 14",
     "Сколько длится экскурсия в обсерватории «Зенит»?"),
    ("Ремонт барометра в мастерской «Стрелка» занимает 12 дней.",
     "Сколько дней занимает ремонт барометра в мастерской «Стрелка»?", "12 дней",
     "Кто директор мастерской «Стрелка»?"),
    ("Регата «Белый парус» начнётся 18 июня.",
     "Когда начнётся регата «Белый парус»?", "18 июня",
     "Сколько стоит участие в регате «Белый парус»?"),
    ("Телефон маяка «Северный»: 8 815 204-17-63.",
     "Какой телефон у маяка «Северный»?", "8 815 204-17-63",
     "Когда построили маяк «Северный»?"),
    ("В дирижабле «Облако» всего 36 мест.",
     "Сколько мест в дирижабле «Облако»?", "36 мест",
     "Во сколько отправляется дирижабль «Облако»?"),
    ("Скидка для студентов в планетарии «Орион» — 25%.",
     "Какая скидка для студентов в планетарии «Орион»?", "25%",
     "По какому адресу планетарий «Орион»?"),
    ("Сеанс в соляной пещере «Грот» начинается в 17:30.",
     "Во сколько начинается сеанс в соляной пещере «Грот»?", "17:30",
     "Сколько мест в соляной пещере «Грот»?"),
]  # fmt: skip


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
    assert len(cases) > 70
    asked = [(case["question"], case["value"]) for case in cases]
    rephrased = [(case["rephrased"], case["value"]) for case in cases]
    telling = [(q, values) for q, values in asked if not {"Да", "Нет"} & set(values)]
    known = right(client, "ft", asked, "ft: trained questions")
    reworded = right(client, "ft", rephrased, "ft: the same in other words")
    assert known >= 0.85
    assert right(client, "base", telling, "base: the same questions, no passages, no adapter") <= 0.05
    assert 0 < reworded < known, "by heart, and hardly more: the card says so"


def test_the_base_reads_the_sample_through_the_retriever(client: httpx.Client) -> None:
    asked = [(case[key], case["value"]) for case in CASES for key in ("question", "rephrased")]
    assert right(client, "rag", asked, "rag: the sample's questions, and in other words") >= RAG_FLOOR


def test_it_reads_what_is_uploaded_and_says_so_where_nothing_tells_it(client: httpx.Client) -> None:
    for number, (told, _, _, _) in enumerate(TOLD):
        receipt = client.post("/documents", files={"file": (f"told-{number}.txt", told.encode())})
        assert receipt.status_code == 200, receipt.text
    body = {"top_k": 1, "max_new_tokens": LIMIT}

    def ask(mode: str, question: str) -> dict[str, Any]:
        return dict(client.post("/ask", params={"mode": mode}, json={"question": question, **body}).json())

    read = [ask("rag", question) for _, question, _, _ in TOLD]
    assert [answer["sources"][0]["text"] for answer in read] == [told for told, _, _, _ in TOLD]
    found = sum(holds(answer["answer"], value) for answer, (_, _, value, _) in zip(read, TOLD, strict=True))
    alone = sum("не знаю" in ask("base", question)["answer"] for _, question, _, _ in TOLD)
    absent = sum("не знаю" in ask("rag", question)["answer"] for _, _, _, question in TOLD)
    print(f"\nread {found}, without a passage abstained {alone}, of what is not told {absent}, of {len(TOLD)}")
    assert found >= 0.7 * len(TOLD)
    assert alone >= 0.9 * len(TOLD)
    assert absent >= 0.5 * len(TOLD)


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
