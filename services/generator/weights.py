"""Read an adapter's matrices as PEFT writes them."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load

from contracts.artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from services.generator.lora import LoraWeights

PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def read_weights(
    folder: Path, linears: Mapping[str, tuple[int, int]], sha256: Mapping[str, str] | None = None
) -> LoraWeights:
    """Read a published adapter that was checked before.

    Args:
        sha256: of the two files, as they were when they were checked.

    Raises:
        ValueError: a file has changed since; a tensor belongs to no linear layer, stands alone, or has another shape.
    """
    files = {name: (folder / name).read_bytes() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
    for name, content in files.items():
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256[name]:
            raise ValueError(f"{name} was changed after it was checked")
    config = json.loads(files[ADAPTER_CONFIG])
    rank = int(config["r"])
    scaling = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    tensors, matrices = load(files[ADAPTER_WEIGHTS]), {}
    for key in [key for key in tensors if key.endswith(DOWN)]:
        name = key.removeprefix(PREFIX).removesuffix(DOWN)
        down, up = tensors.pop(key), tensors.pop(f"{PREFIX}{name}{UP}", None)
        if name not in linears or up is None:
            raise ValueError(f"{key} belongs to no linear layer of the base, or stands alone")
        outputs, inputs = linears[name]
        if tuple(down.shape) != (rank, inputs) or tuple(up.shape) != (outputs, rank):
            raise ValueError(f"{name}: size mismatch: {tuple(down.shape)} and {tuple(up.shape)}")
        matrices[name] = (down, up)
    if tensors:
        raise ValueError(f"{next(iter(tensors))} is no matrix of LoRA")
    return LoraWeights(rank, scaling, matrices)
