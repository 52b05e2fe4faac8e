"""What a training takes on a graphics card that is not at hand: cards and models as data, memory and time as formulas.

The formulas count what our trainer does: TRL's eager loop, adapters in float32 under autocast, PyTorch's fused
attention and TRL's loss, which never builds all logits. What they cannot derive is a named constant with its source.
Sources: activations after Korthikanti et al. 2022 (arXiv:2205.05198, part 4.1) for one device and fused attention, with
the tensors that a LoRA layer keeps; 4.127 bits a weight from Dettmers et al. 2023 (arXiv:2305.14314); 6 operations a
weight and token for training from Kaplan et al. 2020 (arXiv:2001.08361), of which LoRA over frozen weights needs 4.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.recipe import Recipe

GIB = 2**30
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""A weight, its share of an 8-bit constant for 64 weights, and of a 32-bit one for 256 of those."""
CONTEXT_BYTES = 0.6 * GIB
"""The CUDA context with cuBLAS's workspace."""
LIBRARY_BYTES = 0.8 * GIB
"""PyTorch and the libraries around it in a process on the CPU."""
HEADROOM = 1.1
"""What PyTorch reserves beyond the tensors that come and go, because their sizes differ."""
LAUNCH_SECONDS = 1.6e-3
"""Shortest time of one pass through one layer with LoRA: Python starts its kernels one by one, however fast the card.
From the Qwen README's profile, where 256 tokens take as long as 512 (1.8B: 125 ms for three passes of 24 layers)."""
DEQUANTIZE_SHARE = 0.7
"""Part of the memory's bandwidth that unpacking NF4 weights reaches."""
START_SECONDS, LOAD_BYTES_A_SECOND = 30, 1e9
"""Libraries, data and publishing; and how fast weights are read from the disk and brought to the card."""
LOGIT_TOKENS, LOGIT_WORDS = 4096, 32768
"""Most logits that TRL's loss has in hand at once, by its own constants."""
LOGIT_COPIES = 4
"""How many of them it holds without Triton, in float32 (on the CPU)."""


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card.

    ``memory`` is what PyTorch finds (GiB), less than what is printed on the box. ``tflops`` is the maker's dense peak
    for 16-bit factors with 32-bit sums, ``bandwidth`` GB/s. ``utilization`` is the part of that peak which the matrix
    products of this trainer reach; ``checked`` says what it was compared with.
    """

    name: str
    memory: float
    tflops: float
    bandwidth: float
    utilization: float
    checked: str


_ASSUMED = "assumed, not compared with a published run"
CARDS: Mapping[str, Card] = {
    # NVIDIA T4 datasheet: 65 TFLOPS, 320 GB/s. No bfloat16: it computes in float16.
    "t4": Card("T4 16 GB", 14.7, 65, 320, 0.30, _ASSUMED),
    # NVIDIA Ada whitepaper: 165.2 TFLOPS with 32-bit sums (330.3 with 16-bit ones), 1008 GB/s.
    "rtx4090": Card("RTX 4090 24 GB", 23.5, 165.2, 1008, 0.50, "torchtune, Llama-3.1-8B"),
    # NVIDIA A100 datasheet: 312 TFLOPS; 1555 GB/s with 40 GB, 2039 GB/s with 80 GB (SXM).
    "a100-40": Card("A100 40 GB", 39.4, 312, 1555, 0.38, "LLaMA-Factory, Llama-2-7B; torchtune, Llama-3.2-3B"),
    "a100": Card("A100 80 GB", 79.2, 312, 2039, 0.38, "Qwen README, Qwen-7B and 1.8B"),
    # NVIDIA H100 and H200 datasheets (SXM): 989 TFLOPS; 3350 and 4800 GB/s.
    "h100": Card("H100 80 GB", 79.1, 989, 3350, 0.28, _ASSUMED),
    "h200": Card("H200 141 GB", 139.7, 989, 4800, 0.28, _ASSUMED),
    # NVIDIA RTX Blackwell PRO whitepaper, Workstation Edition: 503.8 TFLOPS with 32-bit sums, 1792 GB/s.
    "rtx6000": Card("RTX 6000 Blackwell 96 GB", 94.9, 503.8, 1792, 0.35, _ASSUMED),
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides time and memory; counts are of parameters.

    ``linear``: the linear layers' matrices without the output head, which is what NF4 covers; ``largest``: the biggest
    of them. ``active``: the matrices that one token passes through, in a mixture of experts fewer than there are.
    ``query`` and ``key_value``: widths of all heads together. ``adapted``: for each name of a linear layer the sum of
    inputs and outputs over the model, which times the rank is the size of an adapter on it.
    """

    name: str
    total: int
    linear: int
    largest: int
    active: int
    head: int
    layers: int
    hidden: int
    intermediate: int
    query: int
    key_value: int
    adapted: Mapping[str, int] = field(default_factory=dict)

    def adapter(self, recipe: Recipe) -> int:
        """Return the parameters of the recipe's adapter."""
        targets = recipe.target_modules
        chosen = self.adapted if targets == "all-linear" else [name for name in self.adapted if name in targets]
        return recipe.rank * sum(self.adapted[name] for name in chosen)


PUBLISHED_SHAPES: Mapping[str, Mapping[str, Any]] = {
    # config.json of Qwen/Qwen2.5-7B-Instruct, -14B-Instruct and -32B-Instruct
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "14B": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40}
    | {"num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False},
    "32B": {"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40}
    | {"num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False},
}


def published_shape(size: str) -> ModelShape:
    """Return the shape of Qwen2.5 in a size of ``PUBLISHED_SHAPES``."""
    from transformers import AutoConfig

    return shape_of(AutoConfig.for_model("qwen2", **PUBLISHED_SHAPES[size]), f"Qwen2.5-{size}")


def shape_of(config: Any, name: str) -> ModelShape:
    """Count a transformers configuration's parameters, without weights."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linears = [
        (path, module.weight)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]
    adapted: dict[str, int] = {}
    for path, weight in linears:
        leaf = path.rpartition(".")[2]
        adapted[leaf] = adapted.get(leaf, 0) + sum(weight.shape)
    linear = sum(weight.numel() for _, weight in linears)
    # Experts are parameters of their own, not linear layers: they stay in 16 bit, and a token passes few of them.
    text = config.get_text_config()
    experts = sum(weight.numel() for path, weight in model.named_parameters() if ".experts." in path)
    used = getattr(text, "num_experts_per_tok", 1) / max(getattr(text, "num_experts", 0) or 1, 1)
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelShape(
        name=name,
        total=sum(weight.numel() for weight in model.parameters()),
        linear=linear,
        largest=max(weight.numel() for _, weight in linears),
        active=round(linear + experts * used),
        head=head.weight.numel(),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        query=heads * head_width,
        key_value=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
        adapted=adapted,
    )


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the rows: of prompt and answer together, and of the answer alone; ``prefix`` begins every prompt."""

    train: Sequence[int]
    answers: Sequence[int]
    dev: Sequence[int]
    prefix: int


@dataclass(frozen=True, slots=True)
class Workload:
    """What a training computes, in tokens as the model sees them: with padding, a shared beginning once a batch.

    ``answers`` are those with a loss. ``length`` is how many tokens one attends over. ``largest`` is the batch that
    takes most. ``dev_tokens`` and ``dev_batches`` are those of one of the ``evaluations``.
    """

    steps: int
    batches: int
    tokens: float
    answers: float
    length: float
    largest: int
    evaluations: int
    dev_tokens: float
    dev_batches: int


def workload(lengths: Lengths, recipe: Recipe, rows: int | None = None) -> Workload:
    """Return what training on such rows computes.

    Args:
        rows: how many of them to train on; by default as many as there are.
    """
    there = len(lengths.train)
    rows = rows or there
    steps, size = recipe.steps(rows), recipe.batch_size
    mixed = random.Random(recipe.seed).sample(lengths.train, there)  # as the training mixes them, though not the same
    epochs = min(steps * size * recipe.gradient_accumulation / rows, recipe.epochs)
    tokens = _tokens(mixed, lengths.prefix, recipe)
    largest = sorted(lengths.train, reverse=True)[:size]
    dev = _tokens(lengths.dev, lengths.prefix, recipe)
    evaluations = math.ceil(steps / recipe.eval_steps(rows)) if lengths.dev else 0
    return Workload(
        steps=steps,
        batches=max(1, round(math.ceil(rows / size) * epochs)),
        tokens=tokens / there * rows * epochs,
        answers=sum(lengths.answers) / there * rows * epochs,
        length=tokens / there * (min(size, there) if recipe.shared_prefix else 1),
        largest=_tokens(largest, lengths.prefix, recipe),
        evaluations=evaluations,
        dev_tokens=dev * rows / there,
        dev_batches=round(math.ceil(len(lengths.dev) / size) * rows / there),
    )


def _tokens(lengths: Sequence[int], prefix: int, recipe: Recipe) -> int:
    """Return the tokens of these rows, batch after batch."""
    batches = [lengths[i : i + recipe.batch_size] for i in range(0, len(lengths), recipe.batch_size)]
    if recipe.shared_prefix:
        return sum(sum(batch) - (len(batch) - 1) * prefix for batch in batches)
    return sum(len(batch) * max(batch) for batch in batches)


def trains_all(recipe: Recipe) -> bool:
    """Tell whether every weight is trained, not an adapter."""
    return not recipe.makes_adapter


def memory(shape: ModelShape, recipe: Recipe, tokens: int, number_bytes: int = 2, on_gpu: bool = True) -> int:
    """Return the peak memory of a training in bytes.

    Args:
        tokens: of the largest batch.
        number_bytes: of the format that is computed in, 4 on a CPU.
    """
    kept = shape.total - shape.linear
    paged = recipe.optimizer == "auto" and trains_all(recipe) and on_gpu
    states = 2 if paged or recipe.optimizer.endswith("8bit") else 8
    autocast = number_bytes if number_bytes < 4 else 0  # a copy of each trained weight in the format of the products
    trained_bytes = 4 + 4 + states + autocast
    if trains_all(recipe):
        weights = shape.total * trained_bytes
    else:
        base = shape.linear * NF4_BITS / 8 if recipe.quantization == "nf4" else shape.linear * number_bytes
        weights = round(base) + kept * number_bytes + shape.adapter(recipe) * trained_bytes
    logits = min(tokens, LOGIT_TOKENS) * min(shape.head // shape.hidden, LOGIT_WORDS)
    work = activations(shape, recipe, number_bytes) * tokens
    work += logits * (number_bytes if on_gpu else 4 * LOGIT_COPIES)
    work += shape.largest * number_bytes if recipe.quantization == "nf4" else 0
    return round(weights + work * HEADROOM + (CONTEXT_BYTES if on_gpu else LIBRARY_BYTES))


def activations(shape: ModelShape, recipe: Recipe, number_bytes: int) -> int:
    """Return the bytes for one token that the forward pass keeps for the backward pass, with the latter's own work.

    A layer keeps two norms' inputs in float32; queries, keys, values and the attention's output; what the activation
    function and the products after it need; and the inputs of its seven adapters, with dropout each a copy and a mask
    of its own. With checkpointing one layer keeps that at a time, and each of them only its input.
    """
    c, hidden, inner, query = number_bytes, shape.hidden, shape.intermediate, shape.query
    lora = not trains_all(recipe)
    copies = (c + 1) if lora and recipe.dropout else 0
    norms = 2 * 4 * hidden + 2 * hidden * c
    attention = (2 * query + 2 * shape.key_value) * c + copies * (3 * hidden + query)
    feed_forward = 4 * inner * c + copies * (2 * hidden + inner)
    layer = norms + attention + feed_forward
    backward = 3 * inner * c
    if recipe.gradient_checkpointing:
        return shape.layers * hidden * c + layer + backward
    return shape.layers * layer + backward


def seconds(shape: ModelShape, recipe: Recipe, work: Workload, card: Card) -> float:
    """Return how long a training takes on a card, from its start to what it publishes.

    Products run at the card's peak times its utilization, NF4 weights are unpacked once a pass at the memory's speed,
    and no pass is faster than its kernels can be started.
    """
    forward = 2 if recipe.gradient_checkpointing else 1
    backward = 2 if trains_all(recipe) else 1
    adapter = 0 if trains_all(recipe) else shape.adapter(recipe)
    seen = 2 if recipe.shared_prefix else 1  # a mask over all pairs spares no half of them
    attention = seen * 2 * work.length * shape.query * shape.layers
    a_token = 2 * shape.active * (forward + backward) + (2 * adapter + attention) * (forward + 2)
    operations = work.tokens * a_token + work.answers * 6 * shape.head
    trained = _computed(operations, work.batches * (forward + 1), shape, recipe, card)
    a_dev_token = 2 * (shape.active + adapter) + attention
    evaluated = _computed(work.dev_tokens * a_dev_token, work.dev_batches, shape, recipe, card)
    updates = 0.0
    if trains_all(recipe):  # weight, gradient and two states are read, all but the gradient written
        updates = work.steps * shape.total * 7 * 4 / (card.bandwidth * 1e9)
    loading = START_SECONDS + 2 * shape.total / LOAD_BYTES_A_SECOND
    return loading + trained + updates + work.evaluations * evaluated


def _computed(operations: float, passes: int, shape: ModelShape, recipe: Recipe, card: Card) -> float:
    products = operations / (card.tflops * 1e12 * card.utilization)
    if recipe.quantization == "nf4":
        products += passes * shape.linear * (NF4_BITS / 8 + 2) / (card.bandwidth * 1e9 * DEQUANTIZE_SHARE)
    return max(products, passes * shape.layers * LAUNCH_SECONDS)


def what_fits(shape: ModelShape, recipe: Recipe, lengths: Lengths, limit: float, **where: Any) -> Recipe | None:
    """Return the recipe, or the one nearest to it whose memory stays within ``limit`` bytes; None where there is none.

    First smaller batches with as much more accumulation, which change no result; then checkpointing, which costs time;
    then adapters instead of all weights, and a base in 4 bit.
    """
    ways: list[dict[str, Any]] = [{}]
    ways += [] if recipe.gradient_checkpointing else [{"gradient_checkpointing": True}]
    ways += [{"method": "lora", "gradient_checkpointing": True}] if trains_all(recipe) else []
    ways += [{"method": "qlora", "gradient_checkpointing": True}] if recipe.quantization == "none" else []
    for way in ways:
        size = recipe.batch_size
        while size:
            accumulation = math.ceil(recipe.batch_size * recipe.gradient_accumulation / size)
            tried = recipe.model_copy(update={**way, "batch_size": size, "gradient_accumulation": accumulation})
            if memory(shape, tried, workload(lengths, tried).largest, **where) <= limit:
                return tried
            size //= 2
    return None


def changes(recipe: Recipe, other: Recipe) -> str:
    """Return in words in which fields another recipe differs, as ``batch_size 2, gradient_accumulation 8``."""
    mine, theirs = recipe.model_dump(), other.model_dump()
    return ", ".join(
        f"{name} {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in theirs.items()
        if mine[name] != value
    )
