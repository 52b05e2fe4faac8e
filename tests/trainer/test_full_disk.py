"""Trainings on a disk that really fills up: a small one is mounted for each, and another program takes its room."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.artifacts import AdapterManifest, Home, published
from contracts.errors import NotReady
from trainer.publish import is_intact
from trainer.settings import TrainerSettings
from trainer.train import train

RECIPE = {
    "rank": 8,
    "alpha": 16,
    "dropout": 0.1,
    "learning_rate": 0.01,
    "epochs": 4,
    "batch_size": 4,
    "gradient_checkpointing": False,
    "evals_per_epoch": 2,
    "patience": 99,
}
SIZE = 64_000_000

Settings = Callable[[Path, str], TrainerSettings]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def settings(base: Path, csv: Path, tmp_path: Path) -> Settings:
    def make(home: Path, method: str) -> TrainerSettings:
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(RECIPE | {"method": method}))
        return TrainerSettings(data=csv, name="sales", base=str(base), recipe=str(path), home=home)

    return make


def fill(disk: Path, but: int) -> Path:
    """Write a file that leaves so many bytes free, to the last page."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            size = file.tell()
    with ballast.open("r+b") as file:
        file.truncate(max(0, size - but))
    return ballast


def fill_and_compare(
    disk: Path, settings: Settings, tmp_path: Path, method: str, moments: list[tuple[int, int]]
) -> int:
    """Fill the disk after each of these steps but for so many bytes, free it, go on.

    Returns:
        How many trainings the full disk ended.
    """
    undisturbed = train(settings(tmp_path / "undisturbed", method))
    said = 0
    for step, but in moments:
        home = Home(path=disk / "home")
        place = home.checkpoints if method == "full" else home.adapters

        def take(moment: Any, step: int = step, but: int = but) -> None:
            if moment.step == step and not (disk / "ballast").exists():
                fill(disk, but)

        try:
            train(settings(home.path, method), take)
        except NotReady as error:
            said += "The disk is full. Nothing was published" in error.detail
        assert all(is_intact(place / each.id, each) for each in published(place, AdapterManifest))
        (disk / "ballast").unlink()
        result = train(settings(home.path, method))
        assert (result.manifest.id, result.manifest.losses) == (undisturbed.manifest.id, undisturbed.manifest.losses)
        assert (result.folder / "log.jsonl").read_text() == (undisturbed.folder / "log.jsonl").read_text()
        assert not [path for path in result.folder.parent.iterdir() if path != result.folder]
        shutil.rmtree(home.path)
    return said


def test_a_disk_that_fills_up_is_said_to_and_nothing_is_lost(disk: Path, settings: Settings, tmp_path: Path) -> None:
    """At once, within a checkpoint, and within what is published."""
    moments = [(1, 0), (4, 90_000), (12, 30_000)]
    assert fill_and_compare(disk, settings, tmp_path, "qlora", moments) == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["qlora", "full"])
def test_a_disk_that_fills_up_anywhere(disk: Path, settings: Settings, tmp_path: Path, method: str) -> None:
    rng = random.Random(3)
    moments = [(rng.randint(1, 12), int(10 ** rng.uniform(3, 6.6))) for _ in range(20)]
    assert fill_and_compare(disk, settings, tmp_path, method, moments) >= 5
