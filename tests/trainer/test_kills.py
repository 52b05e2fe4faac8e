"""Trainings killed at any moment: what is published is whole, and ends as if nothing had happened."""

import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.artifacts import AdapterManifest, Home, published
from trainer import checkpoints
from trainer.publish import is_intact
from trainer.settings import TrainerSettings
from trainer.train import train

RECIPE = {
    "rank": 8,
    "alpha": 16,
    "dropout": 0.1,
    "learning_rate": 0.01,
    "epochs": 6,
    "batch_size": 4,
    "gradient_checkpointing": False,
    "evals_per_epoch": 3,
    "patience": 99,
}


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that have the libraries loaded when they begin: else most kills would only meet imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.train", "trl", "peft", "bitsandbytes", "transformers.trainer"])
    return context


def in_a_process(settings: TrainerSettings) -> None:
    import torch

    torch.set_num_threads(1)
    train(settings)


Settings = Callable[[Path, str], TrainerSettings]


@pytest.fixture
def settings(base: Path, csv: Path, tmp_path: Path) -> Settings:
    def make(home: Path, method: str = "qlora") -> TrainerSettings:
        path = tmp_path / f"{method}.json"
        path.write_text(json.dumps(RECIPE | {"method": method}))
        return TrainerSettings(data=csv, name="sales", base=str(base), recipe=str(path), home=home)

    return make


def results(home: Path) -> list[tuple[AdapterManifest, Path]]:
    """Everything that a generator would find, of both kinds."""
    at = Home(path=home)
    return [
        (manifest, place / manifest.id)
        for place in (at.adapters, at.checkpoints)
        for manifest in published(place, AdapterManifest)
    ]


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def kill_and_compare(processes: Any, settings: Settings, tmp_path: Path, method: str, kills: int, seed: int) -> int:
    """Train and kill until so many kills have struck; each training that ends is compared. Return how many ended."""
    rng = random.Random(seed)
    begun = time.monotonic()
    whole = processes.Process(target=in_a_process, args=(settings(tmp_path / "undisturbed", method),))
    whole.start()
    whole.join()
    duration = time.monotonic() - begun
    [(expected, folder)] = results(tmp_path / "undisturbed")
    history = log(folder)

    struck = ended = 0
    while struck < kills or not ended:
        home = tmp_path / f"home{ended}"
        process = processes.Process(target=in_a_process, args=(settings(home, method),))
        process.start()
        process.join(timeout=rng.uniform(0, duration) if struck < kills else None)
        if process.exitcode is None:
            process.kill()
            process.join()
            struck += 1
        else:
            assert process.exitcode == 0
        found = results(home)
        assert all(is_intact(folder, manifest) for manifest, folder in found)
        if process.exitcode == 0:
            [(manifest, folder)] = found
            assert (manifest.id, manifest.losses, log(folder)) == (expected.id, expected.losses, history)
            assert not [path for path in folder.parent.iterdir() if path.name != manifest.id]
            ended += 1
    return ended


@pytest.mark.parametrize("method", ["qlora"])
def test_five_kills_lose_nothing(processes: Any, settings: Settings, tmp_path: Path, method: str) -> None:
    assert kill_and_compare(processes, settings, tmp_path, method, kills=5, seed=1) >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kills"), [("qlora", 60), ("full", 40)])
def test_a_hundred_kills_lose_nothing(
    processes: Any, settings: Settings, tmp_path: Path, method: str, kills: int
) -> None:
    assert kill_and_compare(processes, settings, tmp_path, method, kills=kills, seed=2) >= 3


@pytest.mark.parametrize(
    "recipe",
    [{"patience": 1, "learning_rate": 0.05, "epochs": 30}, {"max_steps": 7, "keep": "last"}],
    ids=["stopped early", "ended within an epoch"],
)
def test_what_had_ended_before_it_was_published_is_published_and_not_trained_on(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    monkeypatch.setitem(globals(), "RECIPE", RECIPE | recipe)
    undisturbed = train(settings(tmp_path / "undisturbed", "qlora"))

    def killed(*_: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("trainer.publish.draw_curve", killed)
        with pytest.raises(Stopped):
            train(settings(tmp_path / "home", "qlora"))
    moments: list[Any] = []
    resumed = train(settings(tmp_path / "home", "qlora"), moments.append)
    assert not moments
    assert (resumed.manifest.id, resumed.manifest.losses) == (undisturbed.manifest.id, undisturbed.manifest.losses)
    assert log(resumed.folder) == log(undisturbed.folder)


def test_where_the_newest_and_best_is_damaged_the_one_before_it_still_has_its_own_best(tmp_path: Path) -> None:
    for step, best in ((5, 5), (8, 5), (9, 5), (10, 10)):
        folder = checkpoints.checkpoint(tmp_path, step)
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": best}))
        checkpoints.seal(folder)
        checkpoints.rotate(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5", "checkpoint-9"]
    damage("flipped", checkpoints.checkpoint(tmp_path, 10) / "trainer_state.json")
    assert checkpoints.newest_whole(tmp_path) == checkpoints.checkpoint(tmp_path, 9)


def damage(how: str, path: Path) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def test_a_checkpoint_with_any_file_damaged_is_passed_over(settings: Settings, tmp_path: Path) -> None:
    given = settings(tmp_path / "home", "qlora")

    def stop(moment: Any) -> None:
        if moment.step == 7:
            raise Stopped

    with pytest.raises(Stopped):
        train(given, stop)
    [run] = [path for path in (tmp_path / "home" / "training").iterdir() if path.is_dir()]
    assert checkpoints.newest_whole(run) == run / "checkpoint-6"
    files = sorted(path.relative_to(run) for path in (run / "checkpoint-6").rglob("*") if path.is_file())
    assert len(files) > 8
    for file in files:
        for how in ("deleted", "cut", "flipped"):
            copy = tmp_path / "copy"
            shutil.copytree(run, copy)
            damage(how, copy / file)
            assert checkpoints.newest_whole(copy) == copy / "checkpoint-5", (file, how)
            shutil.rmtree(copy)

    damage("cut", run / "checkpoint-6" / "optimizer.pt")
    resumed = train(given)
    undisturbed = train(settings(tmp_path / "undisturbed", "qlora"))
    assert (resumed.manifest.id, resumed.manifest.losses) == (undisturbed.manifest.id, undisturbed.manifest.losses)
    assert log(resumed.folder) == log(undisturbed.folder)
