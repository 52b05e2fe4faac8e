"""The OpenAI-compatible routes, asked by OpenAI's own client."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI

from contracts.artifacts import Home
from contracts.prompts import SYSTEM_PROMPT
from services.generator.app import create_app
from services.generator.settings import GeneratorSettings
from tests.services.generator.conftest import publish
from tests.services.generator.test_app import ask, retriever
from tests.serving import AWKWARD_BODIES, MALFORMED_BODIES, ready_client, serving

USER = [{"role": "user", "content": "Привет?"}]


@pytest.fixture
def adapter(home: Home, base_folder: Path) -> str:
    return publish(home, base_folder, "sales", seed=1).id


@pytest.fixture
def client(adapter: str, settings: GeneratorSettings) -> Iterator[httpx.Client]:
    with serving(create_app(settings, retriever())) as url, ready_client(url) as client:
        yield client


@pytest.fixture
def ours(client: httpx.Client) -> OpenAI:
    return OpenAI(base_url=str(client.base_url.join("v1")), api_key="none", max_retries=0)


def test_models_are_the_modes_and_the_adapters(ours: OpenAI, adapter: str) -> None:
    assert [model.id for model in ours.models.list()] == ["base", "rag", "ft", f"ft:{adapter}"]


@pytest.mark.parametrize("model", ["base", "rag", "ft"])
def test_a_chat_is_answered_as_ask_answers(ours: OpenAI, client: httpx.Client, model: str) -> None:
    answer = ask(client, model).json()
    completion = ours.chat.completions.create(model=model, messages=USER, max_tokens=8, temperature=0)
    [choice] = completion.choices
    assert choice.message.content == answer["answer"]
    assert choice.message.role == "assistant"
    assert completion.model == model
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == answer["usage"]["prompt_tokens"]
    assert completion.usage.total_tokens == sum(answer["usage"].values())
    assert choice.finish_reason == ("length" if answer["usage"]["completion_tokens"] == 8 else "stop")


def test_a_stream_makes_the_same_answer(ours: OpenAI) -> None:
    given = {"model": "ft", "messages": USER, "max_completion_tokens": 12}
    whole = ours.chat.completions.create(**given)
    chunks = list(ours.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_the_chat_before_the_question_counts(ours: OpenAI) -> None:
    def prompt_tokens(*messages: tuple[str, object]) -> int:
        chat = [{"role": role, "content": content} for role, content in messages]
        made = ours.chat.completions.create(model="base", messages=chat, max_tokens=1)
        assert made.usage is not None
        return made.usage.prompt_tokens

    alone = prompt_tokens(("user", "Привет?"))
    assert prompt_tokens(("system", SYSTEM_PROMPT), ("user", "Привет?")) == alone, "it is ours unless another is given"
    assert prompt_tokens(("system", "Кратко."), ("user", "Привет?")) < alone
    assert prompt_tokens(("user", "Да?"), ("assistant", "Да."), ("user", "Привет?")) > alone
    assert prompt_tokens(("user", [{"type": "text", "text": "Привет?"}])) == alone


def test_sampling_repeats_with_its_seed_and_a_narrow_nucleus_is_greedy(ours: OpenAI) -> None:
    def said(**given: object) -> str | None:
        made = ours.chat.completions.create(model="base", messages=USER, max_tokens=16, **given)
        return str(made.choices[0].message.content)

    assert said(temperature=1.5, seed=1) == said(temperature=1.5, seed=1) != said(temperature=1.5, seed=2)
    assert said(temperature=1.5, seed=1, top_p=0.0001) == said()


def test_an_answer_ends_before_a_stop_sequence(ours: OpenAI) -> None:
    whole = str(ours.chat.completions.create(model="base", messages=USER, max_tokens=16).choices[0].message.content)
    stop = whole[len(whole) // 2 :][:3].strip()
    [choice] = ours.chat.completions.create(model="base", messages=USER, max_tokens=16, stop=[stop]).choices
    assert choice.message.content == whole[: whole.index(stop)].rstrip()
    assert choice.finish_reason == "stop"


def test_what_is_not_there_is_said_in_openais_shape(ours: OpenAI) -> None:
    for model in ("gpt-4o", "rag:x", "ft:", "ft:nobody.000000000000"):
        with pytest.raises(openai.NotFoundError) as missing:
            ours.chat.completions.create(model=model, messages=USER, max_tokens=1)
        assert missing.value.code == "not_found"
    with pytest.raises(openai.ConflictError) as conflict:
        ours.chat.completions.create(model="rag_ft", messages=USER, max_tokens=1)
    assert "asktwice train" in conflict.value.message


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"n": 2}, "n"),
        ({"stop": ["x"] * 9}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "?"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, None),
        ({"messages": [{"role": "user", "content": " "}]}, None),
        ({"messages": [{"role": "assistant", "content": "Да."}]}, None),
        ({"messages": [{"role": "user", "content": "слово " * 2000}]}, None),
        ({"max_tokens": 100_000}, None),
        ({"model": "rag", "messages": [{"role": "user", "content": "а" * 20_001}]}, None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
    ],
)
def test_bad_requests_are_refused_with_the_field(ours: OpenAI, wrong: dict[str, object], param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ours.chat.completions.create(**{"model": "base", "messages": USER} | wrong)
    if param:
        assert refused.value.param == param


@pytest.mark.parametrize(("wrong", "said"), [({"max_tokens": 1020}, "lower"), ({"max_tokens": 2**40}, "Ask for fewer")])
def test_more_tokens_than_there_is_room_for_is_said(ours: OpenAI, wrong: dict[str, int], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        ours.chat.completions.create(**{"model": "base", "messages": USER} | wrong)
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        ours.chat.completions.create(**{"model": "base", "messages": USER} | wrong)


def test_a_model_is_found_by_its_name_and_a_silent_assistant_is_no_error(ours: OpenAI, client: httpx.Client) -> None:
    assert ours.models.retrieve("rag") == next(model for model in ours.models.list() if model.id == "rag")
    with pytest.raises(openai.NotFoundError):
        ours.models.retrieve("gpt-5")
    silent = [*USER, {"role": "assistant", "content": None}, *USER]
    assert ours.chat.completions.create(model="base", messages=silent, max_tokens=1, seed=-1).choices
    half = b'{"model": "base", "messages": [{"role": "user", "content": "a \\ud800"}]}'
    refused = client.post("/v1/chat/completions", content=half, headers={"Content-Type": "application/json"})
    assert refused.status_code == 400


def test_unknown_fields_are_ignored(client: httpx.Client) -> None:
    body = {"model": "base", "messages": USER, "max_tokens": 1, "logit_bias": {}, "user": "u", "tools": []}
    assert client.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize("name", [*AWKWARD_BODIES, *MALFORMED_BODIES])
def test_no_body_breaks_it(client: httpx.Client, name: str) -> None:
    body, kind = (AWKWARD_BODIES | MALFORMED_BODIES)[name]
    answer = client.post("/v1/chat/completions", content=body, headers={"Content-Type": kind})
    assert 400 <= answer.status_code < 500
    assert set(answer.json()) == {"error"}


def test_a_body_that_is_too_large(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", content=b"x" * 1_100_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
