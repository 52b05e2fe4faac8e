"""Several processes of one training, as ``torchrun`` starts them, on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contracts.artifacts import AdapterManifest, Home, published
from contracts.errors import InvalidInput
from trainer import ranks
from trainer.recipe import Recipe

RECIPE = {
    "rank": 8,
    "alpha": 16,
    "dropout": 0.0,
    "learning_rate": 0.01,
    "epochs": 3,
    "batch_size": 4,
    "gradient_checkpointing": False,
    "evals_per_epoch": 1,
}


def run(launcher: list[str], folder: Path, base: Path, csv: Path, recipe: dict[str, Any]) -> AdapterManifest:
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(RECIPE | recipe))
    command = [sys.executable, "-m", *launcher, "trainer", "--data", str(csv), "--name", "sales", "--base", str(base)]
    command += ["--recipe", str(folder / "recipe.json"), "--home", str(folder / "home")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    home = Home(path=folder / "home")
    place = home.checkpoints if recipe["method"] == "full" else home.adapters
    [manifest] = published(place, AdapterManifest)
    assert done.stdout.strip() == str((place / manifest.id).resolve())
    assert done.stderr.count("rows read") == 1  # one of them speaks
    return manifest


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param({"method": "qlora"}, id="qlora"),
        pytest.param({"method": "full", "batch_size": 2}, id="full: a blank alone", marks=pytest.mark.slow),
        pytest.param({"method": "lora", "shared_prefix": False}, id="lora, padded", marks=pytest.mark.slow),
    ],
)
def test_two_processes_come_to_the_losses_of_one(recipe: dict[str, Any], base: Path, csv: Path, tmp_path: Path) -> None:
    """Eleven rows: the last batch of an epoch is not full."""
    method = recipe["method"]
    one = run([], tmp_path / "one", base, csv, recipe)
    two = run(["torch.distributed.run", "--nproc-per-node", "2", "-m"], tmp_path / "two", base, csv, recipe)
    logs = []
    for name, manifest in (("one", one), ("two", two)):
        kind = "checkpoints" if method == "full" else "adapters"
        lines = (tmp_path / name / "home" / kind / manifest.id / "log.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
    assert len(two.data.train_rows) % 4 == 3
    assert len(logs[0]) == len(logs[1]) > 9
    for alone, together in zip(*logs, strict=True):
        for key in ("loss", "dev_loss"):
            if key in alone:
                assert together[key] == pytest.approx(alone[key], abs=1e-4)
    assert one.losses.best_step == two.losses.best_step


@pytest.mark.parametrize("method", ["qlora", "raft", "full"])
def test_fsdp_is_refused_with_the_reason(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    why = "sharded" if method == "full" else "packed 4-bit weights"
    with pytest.raises(InvalidInput, match=f"{why}.*torchrun"):
        ranks.check(Recipe(method=method))


def test_a_batch_that_cannot_be_shared_evenly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InvalidInput, match="8 cannot be shared evenly by 3"):
        ranks.check(Recipe(method="lora", batch_size=8))
