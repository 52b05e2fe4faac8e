import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from contracts.artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterManifest, Home, adapter_digest, sha256_file
from contracts.generation import Mode
from contracts.prompts import SYSTEM_PROMPT
from services.generator.adapters import Adapters, check
from services.generator.engine import Engine
from tests.services.generator.conftest import publish


def tampered(home: Home, base_folder: Path, change: Callable[[Path], None]) -> tuple[Path, AdapterManifest]:
    """Publish an adapter that was changed before its manifest was written: the digests all fit."""
    manifest = publish(home, base_folder, "odd", seed=1)
    folder = home.adapters / manifest.id
    change(folder)
    files = {name: sha256_file(folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
    return folder, manifest.model_copy(update={"files": files, "id": f"odd.{adapter_digest(folder)}"})


def with_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        (folder / ADAPTER_CONFIG).write_text(json.dumps({**config, **values}), encoding="utf-8")

    return change


def with_tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        save_file(change(load_file(folder / ADAPTER_WEIGHTS)), folder / ADAPTER_WEIGHTS)

    return rewrite


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_config(peft_type="PROMPT_TUNING"), "only LORA"),
        (with_config(r=0), "rank"),
        (with_config(r=5_000_000), "rank"),
        (with_config(r="4"), "rank"),
        (with_config(lora_alpha=1e30), "lora_alpha"),
        (with_config(lora_alpha=float("nan")), "lora_alpha"),
        (with_config(target_modules="all-linear"), "target_modules"),
        (with_config(target_modules=["q_proj"]), "not those of this base"),
        (with_config(bias="all"), "biases"),
        (with_config(rank_pattern={"q_proj": 100_000}), "rank_pattern"),
        (with_config(alpha_pattern={"q_proj": 1e30}), "alpha_pattern"),
        (with_config(modules_to_save=["lm_head"]), "modules_to_save"),
        (with_config(use_dora=True), "use_dora"),
        (with_tensors(lambda t: {f"x.{name}": value for name, value in t.items()}), "not those of this base"),
        (with_tensors(lambda t: dict(list(t.items())[1:])), "not those of this base"),
        (with_tensors(lambda t: {name: value[:, :-1].contiguous() for name, value in t.items()}), "has the shape"),
        (with_tensors(lambda t: {name: value * float("nan") for name, value in t.items()}), "not finite"),
        (with_tensors(lambda t: {name: value.long() for name, value in t.items()}), "not finite"),
    ],
)
def test_what_would_not_compute_is_refused(
    engine: Engine, home: Home, base_folder: Path, change: Callable[[Path], None], says: str
) -> None:
    folder, manifest = tampered(home, base_folder, change)
    with pytest.raises(ValueError, match=says):
        check(folder, manifest, engine.base, SYSTEM_PROMPT)


def test_what_the_trainer_publishes_is_accepted_under_its_own_prompt_only(
    engine: Engine, home: Home, base_folder: Path
) -> None:
    manifest = publish(home, base_folder, "good", seed=1)
    check(home.adapters / manifest.id, manifest, engine.base, SYSTEM_PROMPT)
    with pytest.raises(ValueError, match="system prompt"):
        check(home.adapters / manifest.id, manifest, engine.base, "Отвечайте кратко.")


def test_who_leaves_while_an_adapter_loads_takes_it_from_nobody(engine: Engine, home: Home, base_folder: Path) -> None:
    manifest = publish(home, base_folder, "one", seed=1)

    async def story() -> str:
        adapters = Adapters(home, engine, SYSTEM_PROMPT)
        impatient = asyncio.create_task(adapters.resolve(Mode.ft, None))
        for _ in range(100_000):  # until the first look has found it
            if adapters.listing():
                break
            await asyncio.sleep(0)
        assert [info.state for info in adapters.listing()] == ["loading"]
        impatient.cancel()
        found = await adapters.resolve(Mode.ft, None)
        assert found is not None
        return found.state

    assert asyncio.run(story()) == "ready"
    assert manifest.id
