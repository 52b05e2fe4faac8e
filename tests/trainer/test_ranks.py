"""Several processes of one training, as ``torchrun`` starts them, on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from contracts.artifacts import AdapterManifest, Home, published
from contracts.errors import InvalidInput
from tests.trainer.conftest import write_csv
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


TWO = ["torch.distributed.run", "--nproc-per-node", "2", "-m"]


def start(launcher: list[str], folder: Path, base: Path, csv: Path, recipe: dict[str, Any]) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(RECIPE | recipe))
    command = [sys.executable, "-m", *launcher, "trainer", "--data", str(csv), "--name", "sales", "--base", str(base)]
    command += ["--recipe", str(folder / "recipe.json"), "--home", str(folder / "home")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)


def with_argument(argument: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(argument).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue  # it has just ended
    return found


def run(launcher: list[str], folder: Path, base: Path, csv: Path, recipe: dict[str, Any]) -> AdapterManifest:
    process = start(launcher, folder, base, csv, recipe)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    home = Home(path=folder / "home")
    place = home.checkpoints if recipe["method"] == "full" else home.adapters
    [manifest] = published(place, AdapterManifest)
    assert stdout.strip() == str((place / manifest.id).resolve())
    assert stderr.count("rows read") == 1  # one of them speaks
    return manifest


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param({"method": "qlora", "dev_fraction": 0.42}, id="qlora"),
        pytest.param({"method": "full", "batch_size": 2}, id="full: a blank alone", marks=pytest.mark.slow),
        pytest.param({"method": "lora", "shared_prefix": False}, id="lora, padded", marks=pytest.mark.slow),
    ],
)
def test_two_processes_come_to_the_losses_of_one(recipe: dict[str, Any], base: Path, csv: Path, tmp_path: Path) -> None:
    """The last batch of an epoch is not full, nor is the last one of the dev rows where there are five."""
    method = recipe["method"]
    one = run([], tmp_path / "one", base, csv, recipe)
    two = run(TWO, tmp_path / "two", base, csv, recipe)
    logs = []
    for name, manifest in (("one", one), ("two", two)):
        kind = "checkpoints" if method == "full" else "adapters"
        lines = (tmp_path / name / "home" / kind / manifest.id / "log.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
    assert len(two.data.train_rows) % 4 == 3
    assert len(logs[0]) == len(logs[1]) > 6
    for alone, together in zip(*logs, strict=True):
        for key in ("loss", "dev_loss"):
            if key in alone:
                assert together[key] == pytest.approx(alone[key], abs=1e-4)
    assert one.losses.best_step == two.losses.best_step


@pytest.mark.slow
def test_two_processes_killed_go_on_together_and_come_to_the_same(base: Path, csv: Path, tmp_path: Path) -> None:
    recipe = {"method": "lora", "dropout": 0.1, "evals_per_epoch": 3, "epochs": 12, "patience": 99}
    undisturbed = run(TWO, tmp_path / "undisturbed", base, csv, recipe)
    killed = start(TWO, tmp_path / "home", base, csv, recipe)
    training, deadline = tmp_path / "home" / "home" / "training", time.monotonic() + 200
    while not list(training.glob("*/checkpoint-1[0-9]/complete.json")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for process in with_argument(tmp_path / "home" / "home"):  # torchrun's workers do not go with it
        os.kill(process, signal.SIGKILL)
    killed.communicate()
    resumed = run(TWO, tmp_path / "home", base, csv, recipe)
    assert "train" not in resumed.seconds  # it did go on
    assert (resumed.id, resumed.losses) == (undisturbed.id, undisturbed.losses)


def test_what_the_first_process_finds_wrong_ends_all_of_them_with_its_message(base: Path, tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "short.csv", [("Сколько стоит?", "90 рублей.")])
    process = start(TWO, tmp_path / "run", base, csv, {"method": "lora"})
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert stderr.count("error: short.csv: 1 rows read") == 2
    assert "Connection" not in stderr


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
