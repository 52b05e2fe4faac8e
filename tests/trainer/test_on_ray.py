"""Ray Train's workers run the same training: slow, since Ray starts a cluster of its own."""

import json
from pathlib import Path

import pytest

from contracts.artifacts import AdapterManifest, Home, published_adapters
from contracts.errors import InvalidInput
from trainer.on_ray import train_on_ray
from trainer.settings import TrainerSettings
from trainer.train import train


def settings(home: Path, base: Path, csv: Path) -> TrainerSettings:
    home.mkdir()
    recipe = {"method": "qlora", "rank": 8, "dropout": 0.0, "learning_rate": 0.01, "epochs": 2, "batch_size": 4}
    (home / "recipe.json").write_text(json.dumps(recipe | {"gradient_checkpointing": False, "evals_per_epoch": 1}))
    return TrainerSettings(
        data=csv, name="sales", base=str(base), recipe=str(home / "recipe.json"), home=home, device="cpu"
    )


@pytest.mark.slow
def test_two_workers_come_to_the_losses_of_one_process(
    base: Path, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
    ray.init(num_cpus=3, include_dashboard=False, address="local")
    try:
        id = train_on_ray(settings(tmp_path / "two", base, csv), workers=2, gpu=False)
    finally:
        ray.shutdown()
    [together] = published_adapters(Home(path=tmp_path / "two"), AdapterManifest)
    alone = train(settings(tmp_path / "one", base, csv)).manifest
    assert together.id == id
    assert together.losses.train == pytest.approx(alone.losses.train, abs=1e-4)
    assert together.losses.dev == pytest.approx(alone.losses.dev, abs=1e-4)


def test_without_ray_it_says_what_to_install(
    base: Path, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray.train", None)
    with pytest.raises(InvalidInput, match=r"pip install \"ray\[train\]\""):
        train_on_ray(settings(tmp_path / "home", base, csv), workers=2, gpu=False)
