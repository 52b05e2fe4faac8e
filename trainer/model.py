"""The base model to train on: which one it is, and how it is loaded. Sources: QLoRA, arXiv:2305.14314."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from contracts.artifacts import BaseModelRecord, local_revision
from contracts.errors import InvalidInput
from contracts.prompts import ensure_chat_template
from trainer import ranks
from trainer.recipe import Recipe

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and in which number format the model computes."""

    device: Device
    dtype: Literal["float32", "bfloat16", "float16"]


def choose_placement(device: Literal["auto", "cpu", "cuda"], recipe: Recipe) -> Placement:
    """Return the device that is there and the number format that it computes well in.

    Raises:
        InvalidInput: a GPU is asked for and there is none.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise InvalidInput("There is no usable GPU here; leave the device on auto or set it to cpu.")
    chosen: Device = "cuda" if has_gpu and device != "cpu" else "cpu"
    if recipe.compute_dtype != "auto":
        return Placement(chosen, recipe.compute_dtype)
    if chosen == "cpu":
        return Placement(chosen, "float32")
    return Placement(chosen, "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16")


def identify(base: str, recipe: Recipe, dtype: str) -> BaseModelRecord:
    """Return which base this is, without loading its weights.

    Raises:
        InvalidInput: neither a folder with a model nor a model that the hub or its cache has.
    """
    folder = Path(base)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InvalidInput(f"{base} is a folder without a model (no config.json).")
        model, revision = folder.resolve().name, local_revision(folder)
    else:
        model, revision = base, _hub_commit(base)
    return BaseModelRecord(model=model, revision=revision, quantization=recipe.quantization, compute_dtype=dtype)


def _hub_commit(base: str) -> str:
    from transformers import AutoConfig

    try:
        return str(AutoConfig.from_pretrained(base)._commit_hash)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(f"The base model {base} is neither a folder nor to be had from the hub: {reason}") from error


def load_tokenizer(base: str) -> Any:
    """Return the tokenizer with a chat template, its own or the plain one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ensure_chat_template(tokenizer)
    return tokenizer


def load_model(base: str, recipe: Recipe, placement: Placement) -> Any:
    """Return the base, its linear layers in NF4 with double quantisation where the recipe says so.

    What is trained whole is float32: an update is often smaller than what bfloat16 can tell apart.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, placement.dtype)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=dtype if recipe.makes_adapter else torch.float32,
        device_map={"": ranks.local() if placement.device == "cuda" else "cpu"},
        quantization_config=nf4 if recipe.quantization == "nf4" else None,
    )
    keep_gradients_after_evaluation(model)
    return model


def keep_gradients_after_evaluation(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in evaluation.

    On CPUs with AVX512-BF16 a forward pass without gradients repacks a layer for a kernel that has no backward pass:
    every later training step then gives the layers before it no gradient, without an error (bitsandbytes 0.50).
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def lora_config(recipe: Recipe) -> Any:
    """Return PEFT's configuration of the adapter."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=recipe.target_modules,
    )


def limit_gpu_memory(share: float | None, placement: Placement) -> None:
    """Bound what this process takes of the GPU: the generator needs the rest."""
    import torch

    if share is not None and placement.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, ranks.local())
