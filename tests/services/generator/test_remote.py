"""The backend ``openai``, against a server that answers with our own engine, and refuses, hangs and lies if told to."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from contracts.artifacts import Home
from services.generator.app import create_app
from services.generator.engine import Engine
from services.generator.jobs import Job
from services.generator.settings import GeneratorSettings
from tests.services.generator.conftest import publish
from tests.services.generator.test_app import ask, retriever
from tests.serving import ready_client, serving


class Server:
    """Speaks the part of vLLM's API that is used."""

    def __init__(self, engine: Engine):
        self.engine, self.fault, self.loads = engine, "", True
        self.prompts: list[list[int]] = []
        self.models = ["served"]
        self.left = 0
        self.app = FastAPI()
        self.app.post("/v1/completions")(self.completions)
        self.app.get("/v1/models")(self.listing)
        self.app.post("/v1/load_lora_adapter")(self.load)
        self.app.post("/v1/unload_lora_adapter")(self.unload)

    async def listing(self) -> Any:
        return {
            "object": "list",
            "data": [{"id": id, "object": "model", "created": 0, "owned_by": "x"} for id in self.models],
        }

    async def load(self, request: Request) -> Response:
        body = await request.json()
        if not self.loads:
            return JSONResponse({"error": {"message": "not enabled"}}, 404)
        await asyncio.wrap_future(self.engine.load(body["lora_name"], Path(body["lora_path"])))
        self.models.append(body["lora_name"])
        return Response('"Success"', media_type="application/json")

    async def unload(self, request: Request) -> Response:
        self.models.remove((await request.json())["lora_name"])
        return Response('"Success"', media_type="application/json")

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        if self.fault == "hang":
            await asyncio.sleep(30)
        if self.fault.isdigit():
            return JSONResponse({"error": {"message": "no", "type": "x"}}, int(self.fault))
        if self.fault == "garbage":
            return Response("data: <html>\n\n", media_type="text/event-stream")
        if body["model"] not in self.models:
            return JSONResponse({"error": {"message": f"no model {body['model']}"}}, 404)
        self.prompts.append(body["prompt"])
        return StreamingResponse(self.stream(body), media_type="text/event-stream")

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        job = Job(
            prompt=body["prompt"],
            adapter=None if body["model"] == "served" else body["model"],
            max_new_tokens=body["max_tokens"],
            temperature=body["temperature"],
            seed=body["seed"],
            deadline=time.monotonic() + 60,
            top_p=body["top_p"],
        )
        self.engine.submit(job)
        try:
            generated = await asyncio.wrap_future(job.done)
            text = self.engine.base.tokenizer.decode(generated.tokens, skip_special_tokens=True)
            for at, start in enumerate(range(0, len(text), 3)):
                if self.fault == "dies" and at == 2:
                    raise OSError("gone")
                if self.fault == "slow":
                    await asyncio.sleep(0.3)
                yield self.chunk([{"index": 0, "text": text[start : start + 3], "finish_reason": None}])
            yield self.chunk([{"index": 0, "text": "", "finish_reason": "length" if generated.cut else "stop"}])
            counted = {"prompt_tokens": 1, "completion_tokens": generated.count, "total_tokens": 1 + generated.count}
            if self.fault != "uncounted":
                yield self.chunk([], counted)
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left += 1
            raise

    @staticmethod
    def chunk(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> str:
        body = {"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": choices, "usage": usage}
        return f"data: {json.dumps(body)}\n\n"


@pytest.fixture
def server(engine: Engine) -> Iterator[tuple[Server, str]]:
    server = Server(engine)
    with serving(server.app) as url:
        yield server, url


@pytest.fixture
def remote(server: tuple[Server, str], settings: GeneratorSettings) -> Iterator[httpx.Client]:
    given = {"backend": "openai", "backend_url": f"{server[1]}/v1", "backend_model": "served", "deadline_s": 3.0}
    with serving(create_app(settings.model_copy(update=given), retriever())) as url, ready_client(url) as client:
        yield client


@pytest.fixture
def local(settings: GeneratorSettings) -> Iterator[httpx.Client]:
    with serving(create_app(settings, retriever())) as url, ready_client(url) as client:
        yield client


def test_both_backends_answer_alike_from_the_same_prompt(
    server: tuple[Server, str], remote: httpx.Client, local: httpx.Client, home: Home, base_folder: Path
) -> None:
    manifest = publish(home, base_folder, "sales", seed=1)
    for mode in ("base", "rag", "ft"):
        ours, theirs = (ask(client, mode, max_new_tokens=24).json() for client in (local, remote))
        assert ours["answer"] == theirs["answer"].rstrip("\ufffd"), mode  # half a letter at the end
        for name in ("sources", "adapter", "mode"):
            assert ours[name] == theirs[name], mode
        assert ours["usage"]["completion_tokens"] == theirs["usage"]["completion_tokens"]
        assert ours["usage"]["prompt_tokens"] == len(server[0].prompts[-1])
    assert theirs["adapter"] == manifest.id
    assert server[0].models == ["served", manifest.id]
    remote.post(f"/adapters/{manifest.id}/unload")
    assert server[0].models == ["served"]
    assert ask(remote, "ft").status_code == 409


def test_a_stream_and_an_uncounted_answer(server: tuple[Server, str], remote: httpx.Client) -> None:
    whole = ask(remote, "base", max_new_tokens=20).json()
    server[0].fault = "uncounted"
    events = remote.post("/ask?mode=base", json={"question": "Привет?", "max_new_tokens": 20, "stream": True}).text
    said = "".join(json.loads(line[6:])["text"] for line in events.splitlines() if line.startswith('data: {"text"'))
    assert said == whole["answer"]
    assert json.loads(events.split("event: done\ndata: ")[1])["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("fault", "status"),
    [("429", 429), ("500", 503), ("503", 503), ("400", 500), ("hang", 504), ("garbage", 503), ("dies", 503)],
)
def test_a_server_that_fails_is_told_and_does_no_harm(
    server: tuple[Server, str], remote: httpx.Client, fault: str, status: int
) -> None:
    before = ask(remote, "base").json()["answer"]
    server[0].fault = fault
    answer = ask(remote, "base", max_new_tokens=24)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    server[0].fault = ""
    assert ask(remote, "base").json()["answer"] == before


def test_a_server_that_loads_nothing_while_it_runs(
    server: tuple[Server, str], remote: httpx.Client, home: Home, base_folder: Path
) -> None:
    server[0].loads = False
    publish(home, base_folder, "sales", seed=1)
    refused = ask(remote, "ft")
    assert refused.status_code == 409
    assert "--lora-modules" in refused.json()["detail"]


def test_a_server_that_was_started_again_is_given_its_adapters_again(
    server: tuple[Server, str], remote: httpx.Client, home: Home, base_folder: Path
) -> None:
    manifest = publish(home, base_folder, "sales", seed=1)
    before = ask(remote, "ft").json()["answer"]
    server[0].models.remove(manifest.id)
    assert ask(remote, "ft").json()["answer"] == before
    server[0].models.remove(manifest.id)
    server[0].loads = False
    assert ask(remote, "ft").status_code == 503


def test_who_leaves_is_not_answered_any_longer(server: tuple[Server, str], remote: httpx.Client) -> None:
    server[0].fault = "slow"
    with pytest.raises(httpx.TimeoutException), httpx.Client(base_url=remote.base_url, timeout=0.5) as hasty:
        hasty.post("/ask?mode=base", json={"question": "Привет?", "max_new_tokens": 60, "temperature": 1.5, "seed": 1})
    until = time.monotonic() + 5
    while not server[0].left and time.monotonic() < until:
        time.sleep(0.05)
    assert server[0].left == 1
