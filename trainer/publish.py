"""A finished checkpoint in, a published adapter or model out: whole or not at all, and readable without AskTwice."""

import json
import logging
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from contracts.artifacts import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MANIFEST,
    AdapterManifest,
    BaseModelRecord,
    LossRecord,
    adapter_digest,
    checkpoint_digest,
    move_into_place,
    published,
    read_manifest,
    sha256_file,
    sweep_unfinished,
    whole_folder,
    write_atomically,
)
from contracts.errors import InternalError
from trainer.checkpoints import SEAL
from trainer.curve import curve_page, draw_curve
from trainer.model_card import card
from trainer.plan import Plan
from trainer.recipe import Recipe

log = logging.getLogger("asktwice")
_OWNER = "training-"
_OF_THE_RUN = (SEAL, "trainer_state.json")
_VERSIONS = ("torch", "transformers", "peft", "trl", "bitsandbytes")


def place(plan: Plan) -> Path:
    """Return the folder that the plan's result is published in: adapters and whole models live apart."""
    return plan.home.adapters if plan.recipe.makes_adapter else plan.home.checkpoints


def publish(plan: Plan, checkpoint: Path, history: list[dict[str, float]], draft: AdapterManifest) -> Path:
    """Publish what a checkpoint holds.

    Args:
        checkpoint: folder as transformers' trainer writes it.
        history: one record per logged step, see :func:`log_records`.
        draft: the manifest; its id, files and times of publication are set here.

    Returns:
        the published folder, ``home/adapters/NAME.<digest>`` or ``home/checkpoints/NAME.<digest>``.

    Raises:
        InternalError: the weights hold values that are no numbers.
    """
    with whole_folder(place(plan), _OWNER) as folder:
        if plan.recipe.makes_adapter:
            _copy_adapter(checkpoint, folder, draft.base)
        else:
            _copy_model(checkpoint, folder, plan.settings.base)
        files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
        digest = adapter_digest(folder) if plan.recipe.makes_adapter else checkpoint_digest(files)
        now = datetime.now(UTC)
        manifest = draft.model_copy(
            update={"id": f"{draft.name}.{digest}", "files": files, "created": now, "published": now}
        )
        _write(folder / "log.jsonl", "".join(json.dumps(record) + "\n" for record in history))
        draw_curve(history, manifest.losses.best_step, manifest.id, folder / "loss.png")
        _write(folder / "loss.html", curve_page(history, manifest.losses.best_step, manifest.id))
        _write(folder / "README.md", card(manifest))
        _write(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        target = place(plan) / manifest.id
        if target.is_dir() and not _is_good(target):
            shutil.rmtree(target)  # the same training, damaged since
        move_into_place(folder, target)
    if read_manifest(target, AdapterManifest).created != now:  # the same weights were there already
        renew(target)
    return target


def sweep(plan: Plan) -> None:
    """Remove what a training that was killed while it published left behind; only one trains in a home at a time."""
    sweep_unfinished(place(plan), _OWNER)


def load_weights(model: Any, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into the model that they were saved from."""
    from peft import PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file

    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_file(checkpoint / ADAPTER_WEIGHTS))
        return
    for shard in checkpoint.glob("*.safetensors"):
        model.load_state_dict(load_file(shard), strict=False)
    model.tie_weights()


def renew(folder: Path) -> AdapterManifest:
    """Make a published adapter the newest again."""
    manifest = read_manifest(folder, AdapterManifest).model_copy(update={"published": datetime.now(UTC)})
    write_atomically(folder / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    return manifest


def find_published(plan: Plan) -> AdapterManifest | None:
    """Return the newest of the plan's name made of the same data, passages, base, recipe (with its seed) and prompt."""
    wanted = (plan.settings.name, plan.table.sha256, plan.passages_sha256, plan.base.model, plan.base.revision)
    for manifest in published(place(plan), AdapterManifest):
        data, base = manifest.data, manifest.base
        there = (manifest.name, data.sha256, data.passages_sha256, base.model, base.revision)
        same_prompt = manifest.system_prompt_sha256 == plan.system_prompt_sha256
        if there == wanted and _is_recipe(manifest.recipe, plan.recipe) and same_prompt:
            if is_intact(place(plan) / manifest.id, manifest):
                return manifest
            # The same training gives the same id, and its place must be free.
            log.warning("%s was changed after it was published. It is trained again.", manifest.id)
            shutil.rmtree(place(plan) / manifest.id)
    return None


def _is_recipe(recorded: dict[str, Any], recipe: Recipe) -> bool:
    """Tell whether a manifest's recipe is this one; fields that came later had their defaults then."""
    try:
        return Recipe.model_validate(recorded) == recipe
    except ValidationError:
        return False


def _is_good(folder: Path) -> bool:
    try:
        return is_intact(folder, read_manifest(folder, AdapterManifest))
    except ValueError:
        return False


def is_intact(folder: Path, manifest: AdapterManifest) -> bool:
    """Tell whether the files are those that were published."""
    try:
        return all(sha256_file(folder / name) == digest for name, digest in manifest.files.items())
    except OSError:
        return False


def log_records(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return the steps of a trainer's log: ``step, epoch, loss | dev_loss, dev_accuracy, ...``."""
    names = {
        "step": "step",
        "epoch": "epoch",
        "loss": "loss",
        "eval_loss": "dev_loss",
        "eval_mean_token_accuracy": "dev_accuracy",
        "learning_rate": "learning_rate",
        "grad_norm": "grad_norm",
    }
    steps = [record for record in history if "loss" in record or "eval_loss" in record]
    return [{ours: record[theirs] for theirs, ours in names.items() if theirs in record} for record in steps]


def loss_record(history: list[dict[str, float]], best_step: int, steps: int, eval_steps: int) -> LossRecord:
    """Return the losses of the published step; the train loss is the mean since the evaluation before it."""
    train = [r["loss"] for r in history if "loss" in r and best_step - eval_steps < r["step"] <= best_step]
    dev = [r["dev_loss"] for r in history if "dev_loss" in r and r["step"] == best_step]
    return LossRecord(train=sum(train) / len(train), dev=dev[-1] if dev else None, best_step=best_step, steps=steps)


def library_versions() -> dict[str, str]:
    return {name: version(name) for name in _VERSIONS}


def _copy_adapter(checkpoint: Path, folder: Path, base: BaseModelRecord) -> None:
    shutil.copyfile(checkpoint / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    _check_finite(folder / ADAPTER_WEIGHTS)
    _write_config(checkpoint / ADAPTER_CONFIG, folder / ADAPTER_CONFIG, base)


def _copy_model(checkpoint: Path, folder: Path, base: str) -> None:
    """Copy a model as transformers reads it, its weights in the number format that the base is stored in."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(base).dtype or torch.float32
    for source in sorted(checkpoint.iterdir()):
        if source.suffix == ".safetensors":
            weights = {name: tensor.to(dtype) for name, tensor in load_file(source).items()}
            save_file(weights, folder / source.name, metadata={"format": "pt"})
            _check_finite(folder / source.name)
        elif source.suffix in (".json", ".jinja", ".txt", ".model") and source.name not in _OF_THE_RUN:
            shutil.copyfile(source, folder / source.name)
    config = json.loads((folder / "config.json").read_bytes()) | {"dtype": str(dtype).removeprefix("torch.")}
    config.pop("_name_or_path", None)  # a path of this machine
    _write(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def _write_config(source: Path, target: Path, base: BaseModelRecord) -> None:
    """Copy PEFT's configuration: no path of this machine in it, and lists in an order that does not change by run."""
    config = json.loads(source.read_bytes())
    config["base_model_name_or_path"] = base.model
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    _write(target, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _check_finite(weights: Path) -> None:
    from safetensors.torch import load_file

    broken = [name for name, tensor in load_file(weights).items() if not tensor.isfinite().all()]
    if broken:
        raise InternalError(f"{len(broken)} trained weights are not numbers, {broken[0]} first. Not published.")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
