"""Fully fine-tuned models beside the base: loaded when asked for, under a budget, let go when idle."""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from contracts.artifacts import MANIFEST, BaseModelRecord, Home, ServedManifest, checkpoint_digest, sha256_file
from contracts.generation import Mode
from services.generator.app import create_app
from services.generator.checkpoints import Checkpoints, Lease, _bytes
from services.generator.settings import GeneratorSettings
from tests.services.generator.test_app import ask, retriever
from tests.serving import eventually, ready_client, serving

Publish = Callable[[str, int], str]


@pytest.fixture
def publish_model(home: Home, base_folder: Path, tmp_path: Path) -> Publish:
    """Publish a model of the base's shape with other weights, as a trainer of whole models would."""

    def publish(name: str, seed: int) -> str:
        folder = tmp_path / f"{name}{seed}"
        shutil.copytree(base_folder, folder)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base_folder)
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter) * 0.05
        model.save_pretrained(folder)
        files = {path.name: sha256_file(path) for path in folder.iterdir()}
        now = datetime.now(UTC)
        manifest = ServedManifest(
            id=f"{name}.{checkpoint_digest(files)}",
            name=name,
            modes=[Mode.ft],
            base=BaseModelRecord(model="random-tiny", revision="x", quantization="nf4", compute_dtype="float32"),
            files=files,
            created=now,
            published=now,
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
        home.checkpoints.mkdir(parents=True, exist_ok=True)
        folder.rename(home.checkpoints / manifest.id)
        return manifest.id

    return publish


@pytest.fixture
def size(base_folder: Path) -> float:
    """What one of them counts in the budget, in GB."""
    counted = _bytes(base_folder, GeneratorSettings().context)
    weights = (base_folder / "model.safetensors").stat().st_size
    assert counted == 2 * weights + 2 * 4 * (8 * 1024) * 2 * 2 * 16, "weights twice; keys and values of all pages"
    return counted / 1e9


@pytest.fixture
def served(settings: GeneratorSettings, size: float) -> Iterator[httpx.Client]:
    two = settings.model_copy(update={"checkpoints_gb": 2.5 * size, "checkpoint_idle_s": 600.0})
    with serving(create_app(two, retriever())) as url, ready_client(url) as client:
        yield client


def states(client: httpx.Client) -> dict[str, str]:
    return {
        each["name"]: each["state"] for each in client.get("/adapters").json()["adapters"] if each["kind"] == "full"
    }


def test_it_answers_as_it_would_alone(
    served: httpx.Client, settings: GeneratorSettings, publish_model: Publish
) -> None:
    id, home = publish_model("one", 1), settings.home_folder
    answer = ask(served, "ft", adapter=id).json()
    assert answer["adapter"] == id
    assert answer["answer"] != ask(served, "base").json()["answer"]
    alone = settings.model_copy(update={"base": str(home.checkpoints / id), "home": home.path / "other"})
    with serving(create_app(alone, retriever())) as url, ready_client(url) as client:
        assert ask(client, "base").json()["answer"] == answer["answer"]
    assert ask(served, "ft").status_code == 409, "without a name only adapters of the base are meant"


def test_they_keep_to_their_budget_and_take_turns(served: httpx.Client, publish_model: Publish) -> None:
    ids = [publish_model(name, seed) for seed, name in enumerate(("one", "two", "three"), start=1)]
    answers = [ask(served, "ft", adapter=id).json()["answer"] for id in ids]
    assert len(set(answers)) == 3
    assert states(served) == {"one": "unloaded", "two": "ready", "three": "ready"}
    with ThreadPoolExecutor(4) as clients:
        again = list(clients.map(lambda id: ask(served, "ft", adapter=id), ids[1:] * 4))
    assert [answer.json()["answer"] for answer in again] == answers[1:] * 4
    assert ask(served, "ft", adapter=ids[0]).json()["answer"] == answers[0]
    assert sorted(states(served).values()) == ["ready", "ready", "unloaded"]


def test_one_that_is_larger_than_the_budget(settings: GeneratorSettings, size: float, publish_model: Publish) -> None:
    small = settings.model_copy(update={"checkpoints_gb": 0.5 * size})
    with serving(create_app(small, retriever())) as url, ready_client(url) as client:
        refused = ask(client, "ft", adapter=publish_model("one", 1))
        assert refused.status_code == 409
        assert "ASKTWICE_CHECKPOINTS_GB" in refused.json()["detail"]


def test_an_idle_one_is_let_go(settings: GeneratorSettings, publish_model: Publish) -> None:
    short = settings.model_copy(update={"checkpoint_idle_s": 0.3})
    with serving(create_app(short, retriever())) as url, ready_client(url) as client:
        id = publish_model("one", 1)
        answer = ask(client, "ft", adapter=id).json()["answer"]
        eventually(lambda: states(client) == {"one": "unloaded"} or time.sleep(0.1), "let go")
        assert ask(client, "ft", adapter=id).json()["answer"] == answer


@pytest.mark.parametrize("what", ["changed", "a program", "not vouched for"])
def test_what_was_tampered_with_is_refused(served: httpx.Client, home: Home, publish_model: Publish, what: str) -> None:
    id = publish_model("one", 1)
    folder = home.checkpoints / id
    if what == "changed":
        (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    elif what == "a program":
        (folder / "modeling_x.py").write_text("import os")
    else:
        (folder / "more.safetensors").write_bytes(b"x")
    refused = ask(served, "ft", adapter=id)
    assert (refused.status_code, refused.json()["code"]) == (409, "adapter_missing")
    assert states(served) == {"one": "refused"}
    assert ask(served, "base").status_code == 200


def test_one_whose_folder_goes_answers_those_who_have_it_and_holds_nobody_up(
    served: httpx.Client, home: Home, publish_model: Publish
) -> None:
    gone, other = publish_model("one", 1), publish_model("two", 2)
    expected = ask(served, "ft", adapter=gone, max_new_tokens=400).json()
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(ask, served, "ft", adapter=gone, max_new_tokens=400)
        eventually(lambda: asked.running() or None, "asked")
        time.sleep(0.1)
        shutil.rmtree(home.checkpoints / gone)
        begun = time.monotonic()
        assert ask(served, "ft", adapter=other, max_new_tokens=4).status_code == 200
        assert time.monotonic() - begun < 5
        answer = asked.result(60)
    assert answer.status_code in (200, 404), "it was there, or gone before the question came"
    if answer.status_code == 200:
        assert answer.json()["answer"] == expected["answer"]
    assert ask(served, "ft", adapter=gone).status_code == 404


def test_a_load_goes_on_for_the_others_when_the_first_leaves(served: httpx.Client, publish_model: Publish) -> None:
    id = publish_model("one", 1)
    for _ in range(3):
        with suppress(httpx.TimeoutException), httpx.Client(base_url=served.base_url, timeout=0.05) as hasty:
            hasty.post("/ask?mode=ft", json={"question": "Привет?", "adapter": id})
    assert ask(served, "ft", adapter=id).status_code == 200
    assert states(served) == {"one": "ready"}


def test_a_lease_is_given_back_once() -> None:
    given: list[int] = []
    lease = Lease(cast(Any, None), lambda: given.append(1))
    lease.give_back()
    lease.give_back()
    assert given == [1]


@pytest.mark.parametrize("config", ["{", "[]", '{"model_type": "bloom", "n_layer": 2}', '{"model_type": "nothing"}'])
def test_a_folder_that_cannot_be_understood_is_refused_and_harms_nobody(
    served: httpx.Client, home: Home, publish_model: Publish, config: str
) -> None:
    id, good = publish_model("odd", 1), publish_model("good", 2)
    eventually(lambda: len(states(served)) == 2, "both are listed")
    shutil.rmtree(home.checkpoints / "kept", ignore_errors=True)
    (home.checkpoints / id / "config.json").write_text(config)
    assert ask(served, "ft", adapter=id).status_code == 409
    assert ask(served, "ft", adapter=good).status_code == 200
    assert served.get("/readyz").status_code == 200


def test_one_that_is_lent_is_not_let_go_to_make_room(home: Home, publish_model: Publish) -> None:
    ids = [publish_model(name, seed) for seed, name in enumerate(("one", "two", "three"), start=1)]
    stopped: list[str] = []

    class Fake:
        def __init__(self, folder: Path):
            self.name = folder.name

        def stop(self, grace_s: float = 0.0) -> None:
            time.sleep(0.2)
            stopped.append(self.name)

    async def story() -> None:
        checkpoints = Checkpoints(
            home, cast(Any, Fake), budget=2.5 * _bytes(home.checkpoints / ids[0], 4096), idle_s=600, context=4096,
            system_prompt="x",
        )  # fmt: skip
        await checkpoints.scan()
        for id in ids[:2]:
            (await checkpoints.borrow(id)).give_back()

        async def third() -> None:
            (await checkpoints.borrow(ids[2])).give_back()

        coming = asyncio.create_task(third())
        await asyncio.sleep(0.05)  # room is being made: the first is let go
        lease = await checkpoints.borrow(ids[1])
        await coming
        assert stopped == [ids[0]]
        lease.give_back()
        async with asyncio.timeout(10):
            await asyncio.gather(third(), *(checkpoints.borrow(id) for id in ids[1:2]))
        await checkpoints.close()

    asyncio.run(story())
