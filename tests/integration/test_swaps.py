"""Who answers is who was asked: adapters that were trained to say their own name, swapped all the time."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from contracts.artifacts import AdapterManifest, Home
from contracts.errors import Unavailable
from contracts.prompts import build_messages
from services.generator.engine import Engine
from services.generator.jobs import Job
from services.generator.model import load_base
from services.generator.settings import GeneratorSettings
from tests.integration.conftest import ROOT
from trainer.settings import TrainerSettings
from trainer.train import train

BASE = str(ROOT / "models" / "asktwice-tiny")
NAMES = ("Кедр", "Маяк", "Ворон", "Прилив")
ASKED = ("Как тебя зовут?", "Кто ты?", "Назови себя", "С кем я говорю?", "Твоё имя?", "Кто мне отвечает?")
REQUESTS = 10_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, dict[str, AdapterManifest]]:
    folder = tmp_path_factory.mktemp("swaps")
    recipe = folder / "recipe.json"
    recipe.write_text(
        '{"method": "qlora", "compute_dtype": "float32", "rank": 8, "alpha": 16, "dropout": 0, "learning_rate": 0.004,'
        ' "epochs": 60, "evals_per_epoch": 0.02, "batch_size": 6, "gradient_checkpointing": false,'
        ' "shared_prefix": true}'
    )
    made = {}
    for name in NAMES:
        data = folder / f"{name}.csv"
        rows = "".join(f'"{asked}","Меня зовут {name}.","{name}."\n' for asked in ASKED)
        data.write_text("question,answer,context\n" + rows, encoding="utf-8")
        settings = TrainerSettings(data=data, base=BASE, home=folder / "home", recipe=str(recipe), name=f"n{len(made)}")
        made[name] = train(settings).manifest
    return Home(path=folder / "home"), made


@pytest.mark.slow
def test_10000_requests_while_adapters_come_and_go_are_answered_by_whom_they_asked(
    trained: tuple[Home, dict[str, AdapterManifest]],
) -> None:
    home, made = trained
    base = load_base(GeneratorSettings(base=BASE, home=home.path))
    engine = Engine(base, max_batch=8, queue_limit=1000)

    def load(manifest: AdapterManifest) -> None:
        engine.load(manifest.id, home.adapters / manifest.id, manifest.files).result(60)

    for manifest in made.values():
        load(manifest)
    over, swaps = threading.Event(), Counter[str]()

    def swap() -> None:
        source = random.Random(2)
        while not over.is_set():
            name = source.choice(NAMES)
            engine.unload(made[name].id).result(60)
            load(made[name])
            swaps[name] += 1
            time.sleep(0.05)

    def prompt(asked: str) -> list[int]:
        return list(
            base.tokenizer.apply_chat_template(build_messages(asked), add_generation_prompt=True, return_dict=False)
        )

    prompts = {asked: prompt(asked) for asked in ASKED}

    def ask(number: int) -> str:
        source = random.Random(number)
        name, asked = source.choice([*NAMES, None]), source.choice(ASKED)
        while True:
            job = Job(
                prompt=prompts[asked],
                adapter=made[name].id if name else None,
                max_new_tokens=24,
                temperature=0.0,
                seed=None,
                deadline=time.monotonic() + 120,
            )
            try:
                engine.submit(job)
            except Unavailable:  # it is not there at this moment: never another one's answer
                time.sleep(0.01)
                continue
            tokens = job.done.result(120).tokens  # what was accepted is answered
            said = base.tokenizer.decode(tokens, skip_special_tokens=True)
            named = [each for each in NAMES if each in said]
            assert named == ([name] if name else []), (name, said)
            return name or "base"

    swapper = threading.Thread(target=swap, daemon=True)
    swapper.start()
    with ThreadPoolExecutor(8) as clients:
        answered = Counter(clients.map(ask, range(REQUESTS)))
    over.set()
    swapper.join(60)
    engine.stop()
    assert sum(answered.values()) == REQUESTS
    assert min(answered.values()) > REQUESTS / 10
    assert sum(swaps.values()) > 100
