"""A finished checkpoint in, a published adapter out: whole or not at all, and readable by plain PEFT."""

import json
import logging
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contracts.artifacts import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MANIFEST,
    AdapterManifest,
    BaseModelRecord,
    Home,
    LossRecord,
    adapter_digest,
    move_into_place,
    published_adapters,
    read_manifest,
    sha256_file,
    whole_folder,
    write_atomically,
)
from contracts.errors import InternalError
from trainer.curve import draw_curve
from trainer.plan import Plan

log = logging.getLogger("asktwice")
_VERSIONS = ("torch", "transformers", "peft", "trl", "bitsandbytes")


def publish(home: Home, checkpoint: Path, history: list[dict[str, float]], draft: AdapterManifest) -> Path:
    """Publish the adapter of a checkpoint.

    Args:
        checkpoint: folder with PEFT's two files.
        history: one record per logged step, see :func:`log_records`.
        draft: the manifest; its id, files and times of publication are set here.

    Returns:
        the adapter's folder, ``home/adapters/NAME.<digest>``.

    Raises:
        InternalError: the weights hold values that are no numbers.
    """
    with whole_folder(home.adapters) as folder:
        shutil.copyfile(checkpoint / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
        _check_finite(folder / ADAPTER_WEIGHTS)
        _write_config(checkpoint / ADAPTER_CONFIG, folder / ADAPTER_CONFIG, draft.base)
        now = datetime.now(UTC)
        manifest = draft.model_copy(
            update={
                "id": f"{draft.name}.{adapter_digest(folder)}",
                "files": {name: sha256_file(folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)},
                "created": now,
                "published": now,
            }
        )
        _write(folder / "log.jsonl", "".join(json.dumps(record) + "\n" for record in history))
        draw_curve(history, manifest.losses.best_step, manifest.id, folder / "loss.png")
        _write(folder / "README.md", card(manifest))
        _write(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        target = home.adapters / manifest.id
        move_into_place(folder, target)
    if read_manifest(target, AdapterManifest).created != now:  # the same weights were there already
        renew(target)
    return target


def renew(folder: Path) -> AdapterManifest:
    """Make a published adapter the newest again."""
    manifest = read_manifest(folder, AdapterManifest).model_copy(update={"published": datetime.now(UTC)})
    write_atomically(folder / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    return manifest


def find_published(plan: Plan) -> AdapterManifest | None:
    """Return the newest adapter of the plan's name made of the same data, base, recipe (with its seed) and prompt."""
    wanted = (plan.settings.name, plan.table.sha256, plan.base.model, plan.base.revision)
    for manifest in published_adapters(plan.home, AdapterManifest):
        there = (manifest.name, manifest.data.sha256, manifest.base.model, manifest.base.revision)
        same_prompt = manifest.system_prompt_sha256 == plan.system_prompt_sha256
        if there == wanted and manifest.recipe == plan.recipe_record and same_prompt:
            if is_intact(plan.home.adapters / manifest.id, manifest):
                return manifest
            # The same training gives the same id, and its place must be free.
            log.warning("%s was changed after it was published. It is trained again.", manifest.id)
            shutil.rmtree(plan.home.adapters / manifest.id)
    return None


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


def card(manifest: AdapterManifest) -> str:
    """Return the adapter's README."""
    data, losses = manifest.data, manifest.losses
    most_right = "the last within one standard error of the highest share of right dev answer tokens"
    best = {"loss": "the one of the lowest dev loss", "accuracy": most_right}
    kept = best[manifest.recipe["best_by"]] if manifest.recipe["keep"] == "best" else "the last, as the recipe asks"
    if losses.dev is None:
        kept = "the last"
    dev = "not measured (too few rows)" if losses.dev is None else f"{losses.dev:.4f} on {len(data.dev_rows)} rows"
    settings = ", ".join(f"{key} {value}" for key, value in manifest.recipe.items() if value is not None)
    return f"""---
library_name: peft
base_model: {manifest.base.model}
---

# {manifest.id}

A LoRA adapter for `{manifest.base.model}` ({manifest.base.revision}), trained by AskTwice on
`{data.file}` (sha256 of its rows {data.sha256}).

- Rows: {len(data.train_rows)} trained on, {len(data.dev_rows)} held out for the dev loss; the manifest lists them.
- Loss per answer token: train {losses.train:.4f}, dev {dev}; step {losses.best_step} of
  {losses.steps} is published, {kept}.
- Recipe: {settings}.
- Base while training: {manifest.base.quantization}, computed in {manifest.base.compute_dtype}.

![loss](loss.png)

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{manifest.base.model}")
model = PeftModel.from_pretrained(base, "{manifest.id}")
```
"""


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
        raise InternalError(f"{len(broken)} weights of the adapter are not numbers, {broken[0]} first. Not published.")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
