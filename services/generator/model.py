"""Load the base model once, in 4-bit NF4 with double quantisation (Dettmers et al. 2023, arXiv:2305.14314)."""

import copy
import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_blockwise
from bitsandbytes.nn import Linear4bit
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from contracts.artifacts import BaseModelRecord, local_revision
from contracts.prompts import ensure_chat_template
from services.generator.settings import GeneratorSettings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h

# Below this many parameters a second thread costs more in waiting than it brings.
ONE_THREAD_PARAMETERS = 50_000_000


@dataclass(slots=True)
class Base:
    """A loaded base: the model in eval mode, its tokenizer, and what it is called."""

    model: Any
    tokenizer: Any
    record: BaseModelRecord
    device: str
    linears: dict[str, tuple[int, int]]
    """Name of each linear layer -> (outputs, inputs): what an adapter may attach to."""
    context: int = 0
    """Tokens that prompt and answer may have together where that is less than the model was made for."""
    output_embedding: str = ""
    """The name of the layer that makes logits; of the tokens of a step it sees only those that are continued."""

    @property
    def max_tokens(self) -> int:
        """Tokens that prompt and answer may have together."""
        longest = int(self.model.config.max_position_embeddings)
        return min(longest, self.context) if self.context else longest


def load_base(settings: GeneratorSettings) -> Base:
    """Load the model and its tokenizer; from a folder without any network, else from the hub.

    Raises:
        OSError: the model is not there or its files are damaged.
    """
    _quiet()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(settings.gpu_memory_share)
    dtype = _compute_dtype(settings.compute_dtype, device)
    tokenizer = AutoTokenizer.from_pretrained(settings.base, padding_side="left")
    ensure_chat_template(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(
        settings.base,
        quantization_config=_quantization(settings.quantization, dtype),
        dtype=dtype,
        device_map={"": 0 if device == "cuda" else "cpu"},
        use_safetensors=True,
        trust_remote_code=False,
    ).eval()
    model.requires_grad_(False)
    if device == "cpu":
        keep_freed_memory()
        if dtype == torch.float32:
            compute_in_float32(model)
        torch.set_num_threads(settings.threads or _threads(model))
    head = model.get_output_embeddings()
    last = next((name for name, module in model.named_modules() if module is head), "")
    record = _record(settings, model, dtype)
    return Base(model, tokenizer, record, device, linear_layers(model), settings.context, last)


def load_outline(settings: GeneratorSettings) -> Base:
    """Load the tokenizer and the shapes of a model whose weights a server has.

    Raises:
        OSError: the model is not there or its files are damaged.
    """
    _quiet()
    tokenizer = AutoTokenizer.from_pretrained(settings.base)
    ensure_chat_template(tokenizer)
    config = AutoConfig.from_pretrained(settings.base, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    record = _record(settings, model, model.dtype)
    return Base(model, tokenizer, record, "server", linear_layers(model), settings.context)


def _compute_dtype(name: str, device: str) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)  # type: ignore[no-any-return]
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _quantization(name: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if name == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def compute_in_float32(model: Any) -> None:
    """Make the 4-bit layers of a model on the CPU exact, and quicker.

    Kept off bitsandbytes' AVX512-BF16 kernel, which rounds activations to bfloat16 whatever the compute dtype: in
    float32 a greedy answer does not depend on what else is in the batch, nor on the processor's generation.

    The scales of the blocks are 8-bit themselves (double quantisation) and are computed anew in every forward pass, a
    sixth of its time for one token. Here they are computed once: the same numbers, for 0.4 bits more a weight.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.weight = copy.copy(module.weight)  # its tensor may be another model's too
            state = module.quant_state = module.weight.quant_state = copy.copy(module.weight.quant_state)
            if state.nested:
                state.absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset
                state.nested, state.state2, state.offset = False, None, None


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next forward pass, whichever thread asks for it.

    A layer's weights in float32 are made anew in every pass. By default blocks of that size are handed back to the
    kernel at once and come as fresh pages, which costs up to a fifth of the time. Does nothing with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 1 << 29), (_M_TRIM_THRESHOLD, 1 << 30)):
            mallopt(parameter, value)


def release_freed_memory() -> None:
    """Hand back what :func:`keep_freed_memory` keeps: after a model is gone, nobody asks for so much soon."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def linear_layers(model: Any) -> dict[str, tuple[int, int]]:
    """Name of each linear layer -> (outputs, inputs)."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            found[name] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):  # GPT-2's name for a linear layer
            found[name] = (module.nf, module.nx)
    return found


def _threads(model: Any) -> int:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return 1 if parameters < ONE_THREAD_PARAMETERS else torch.get_num_threads()


def _record(settings: GeneratorSettings, model: Any, dtype: torch.dtype) -> BaseModelRecord:
    folder = Path(settings.base)
    local = folder.is_dir()
    return BaseModelRecord(
        model=folder.resolve().name if local else settings.base,
        revision=local_revision(folder) if local else str(model.config._commit_hash or "unknown"),
        quantization=settings.quantization,
        compute_dtype=str(dtype).removeprefix("torch."),
    )


def _quiet() -> None:
    """Loading bars and advice are not for our users' terminal; errors are."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
