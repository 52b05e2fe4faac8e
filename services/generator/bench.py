"""How fast the engine is beside what one would otherwise write, on the same weights, in one run.

The opponents are those of everyone's notebook: a lock, PEFT's ``set_adapter`` and ``generate``, one request at a time;
and PEFT's mixed batches (``adapter_names``). All run in turn, round after round, so that what else the machine does
hits them alike; medians are told. Weights are random, of a known model's shape: speed does not depend on what they say.
Answers end after different numbers of tokens, as real ones do, drawn once by the seed and the same for all.
"""

import copy
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from contracts.artifacts import BaseModelRecord, sha256_file
from services.generator.engine import Engine
from services.generator.jobs import Job
from services.generator.lora import LoraWeights
from services.generator.model import Base, compute_in_float32, keep_freed_memory, linear_layers
from services.generator.weights import read_weights

SHAPES: dict[str, dict[str, int]] = {
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
                     "num_key_value_heads": 2, "vocab_size": 151_936},
    "qwen2.5-1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
                     "num_key_value_heads": 2, "vocab_size": 151_936},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 512},
}  # fmt: skip
"""The configurations of Qwen2.5 (Yang et al. 2024, arXiv:2412.15115, table 1), and one for tests."""
ADAPTERS = 4
RANK = 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Report = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked in a round: unique prompts, whose they are (None: the base's), how long the answers get."""

    prompts: list[list[int]]
    adapters: list[str | None]
    lengths: list[int]

    def __iter__(self) -> Iterator[tuple[list[int], str | None, int]]:
        return zip(self.prompts, self.adapters, self.lengths, strict=True)


class Bench:
    """The same random model three times over the same tensors: ours, PEFT's, and bare."""

    def __init__(self, shape: str, clients: int, new_tokens: int, requests: int, seed: int, dtype: torch.dtype):
        torch.manual_seed(seed)
        self.device, self.dtype = _device(), dtype
        self.clients, self.requests, self.seed, self.shape = clients, requests, seed, shape
        self.new_tokens = new_tokens
        self.bare = _random_model(SHAPES[shape], self.dtype, self.device)
        self.tuned = _with_adapters(_twin(self.bare))
        ours = _twin(self.bare)
        if self.device == "cpu":
            keep_freed_memory()
            compute_in_float32(ours)
        linears = linear_layers(ours)
        record = BaseModelRecord(model=shape, revision="random", quantization="nf4", compute_dtype=str(self.dtype))
        base = Base(ours, _NoTokenizer(), record, self.device, linears, output_embedding="lm_head")
        self.engine = Engine(base, max_batch=max(clients, 2), queue_limit=10_000, columns=ADAPTERS * RANK)
        for adapter in map(str, range(ADAPTERS)):
            self.engine.load_weights(adapter, _weights(self.tuned, adapter)).result()
        self._lock = threading.Lock()

    def workload(self, number: int, adapters: bool, warm_up: bool = False) -> Workload:
        """Half base and half spread over the adapters, or base alone.

        The lengths are those of every round, the prompts are new in each: nothing of them is cached.
        """
        size, shortest = SHAPES[self.shape]["vocab_size"], max(1, self.new_tokens // 8)
        lengths = torch.Generator().manual_seed(self.seed)
        asked = torch.randint(24, 41, (self.requests,), generator=lengths).tolist()
        answered = torch.randint(shortest, self.new_tokens + 1, (self.requests,), generator=lengths).tolist()
        words = torch.Generator().manual_seed(self.seed + 1000 + number)
        prompts = [torch.randint(3, size, (length,), generator=words).tolist() for length in asked]
        whose = [str(n // 2 % ADAPTERS) if adapters and n % 2 else None for n in range(self.requests)]
        return Workload(prompts, whose, [2] * self.requests if warm_up else answered)

    def ours(self, work: Workload, clients: int) -> list[list[int]]:
        """Closed loop: each client asks again as soon as it has its answer."""

        def ask(item: tuple[list[int], str | None, int]) -> list[int]:
            prompt, adapter, new_tokens = item
            job = Job(
                prompt=prompt,
                adapter=adapter,
                max_new_tokens=new_tokens,
                temperature=0.0,
                seed=None,
                deadline=time.monotonic() + 3600,
            )
            self.engine.submit(job)
            return job.done.result().tokens

        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(ask, work))

    @torch.inference_mode()
    def one_at_a_time(self, work: Workload) -> list[list[int]]:
        """A lock, the adapter switched, ``generate``."""
        answers = []
        for prompt, adapter, new_tokens in work:
            with self._lock:
                if adapter is None:
                    with self.tuned.disable_adapter():
                        answers += self._generate(self.tuned, [prompt], new_tokens)
                else:
                    self.tuned.set_adapter(adapter)
                    answers += self._generate(self.tuned, [prompt], new_tokens)
        return answers

    @torch.inference_mode()
    def adapter_names(self, work: Workload) -> list[list[int]]:
        """PEFT's mixed batches, as many requests at once as there are clients; each batch ends with its longest."""
        answers = []
        for start in range(0, len(work.prompts), self.clients):
            part = slice(start, start + self.clients)
            names, lengths = [adapter or "__base__" for adapter in work.adapters[part]], work.lengths[part]
            batch = self._generate(self.tuned, work.prompts[part], max(lengths), adapter_names=names)
            answers += [answer[:length] for answer, length in zip(batch, lengths, strict=True)]
        return answers

    @torch.inference_mode()
    def generate(self, work: Workload) -> list[list[int]]:
        """The bare model, one at a time."""
        return [self._generate(self.bare, [prompt], new_tokens)[0] for prompt, _, new_tokens in work]

    def _generate(self, model: Any, prompts: list[list[int]], new_tokens: int, **more: Any) -> list[list[int]]:
        longest = max(map(len, prompts))
        rows = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
        out = model.generate(
            input_ids=torch.tensor(rows, device=self.device),
            attention_mask=torch.tensor(mask, device=self.device),
            generation_config=config,
            **more,
        )
        return [[int(token) for token in row[longest:]] for row in out]


def run(
    shape: str, *, clients: int, rounds: int, new_tokens: int, requests: int, seed: int, report: Report
) -> dict[str, Any]:
    """Run all rounds; return the figures that ``asktwice bench generator`` prints.

    Args:
        shape: one of ``SHAPES``.
        clients: how many ask at once.
        requests: how many requests each way answers in a round.
        report: told how many of the rounds' parts are done.
    """
    report(0, 1, "building the model")
    dtype = torch.bfloat16 if _device() == "cuda" else torch.float32
    bench = Bench(shape, clients, new_tokens, requests, seed, dtype)
    seconds: dict[str, list[float]] = {}
    tokens: dict[str, list[int]] = {}
    identical = True
    for _, call in _parts(bench, -1, warm_up=True):
        call()
    for number in range(rounds):
        parts = _parts(bench, number)
        answers = {}
        for at, (name, call) in enumerate(parts):
            begun = time.perf_counter()
            answers[name] = call()
            _wait(bench.device)
            seconds.setdefault(name, []).append(time.perf_counter() - begun)
            tokens.setdefault(name, []).append(sum(map(len, answers[name])))
            report(number * len(parts) + at + 1, rounds * len(parts), name)
        identical = identical and _alike(answers)
    per_second = {
        name: statistics.median(n / s for n, s in zip(tokens[name], spent, strict=True))
        for name, spent in seconds.items()
    }
    figures = {
        "vs_switch": _ratio(seconds, "switch", "ours"),
        "vs_adapter_names": _ratio(seconds, "adapter_names", "ours"),
        "vs_adapter_names_of_one_length": _ratio(seconds, "adapter_names, one length", "ours, one length"),
        "mixed_over_base": _ratio(seconds, "base", "ours"),
        "single_vs_generate": _ratio(seconds, "generate", "single"),
        "tokens_per_s": per_second["ours"],
        "single_tokens_per_s": per_second["single"],
        "roofline_fraction": per_second["single"] * _bytes_of_a_token(bench.bare) / _bandwidth(bench.device),
        "prefix_cache": _prefix_cache(bench),
        "adapter_back_ms": 1000 * _adapter_back(bench, from_files=False),
        "adapter_from_files_ms": 1000 * _adapter_back(bench, from_files=True),
    }
    bench.engine.stop()
    if dtype != torch.float32:  # rounded, answers depend on what else is in the batch, whoever computes them
        exact = Bench(shape, clients, new_tokens, requests, seed, torch.float32)
        identical = _alike({name: call() for name, call in _parts(exact, 0)})
        exact.engine.stop()
    about = {
        "shape": shape, "device": bench.device, "clients": clients, "rounds": rounds, "requests": requests,
        "new_tokens": new_tokens, "seed": seed, "threads": torch.get_num_threads(),
        "dtype": str(bench.dtype).removeprefix("torch."), "adapters": ADAPTERS, "rank": RANK,
    }  # fmt: skip
    return {**{name: round(value, 3) for name, value in figures.items()}, "identical": identical, **about}


def _parts(bench: Bench, number: int, warm_up: bool = False) -> list[tuple[str, Callable[[], list[list[int]]]]]:
    """What is measured in a round, in its order: opponents beside each other."""
    mixed = bench.workload(number, adapters=True, warm_up=warm_up)
    base = bench.workload(number + 500, adapters=False, warm_up=warm_up)
    longest, batch = max(mixed.lengths), bench.clients
    few = Workload([prompt[::-1] for prompt in base.prompts[:2]], [None] * 2, [longest] * 2)
    one_length = [prompt[::-1] for prompt in mixed.prompts[:batch]]
    equal = Workload(one_length, mixed.adapters[:batch], [longest] * len(one_length))
    return [
        ("switch", partial(bench.one_at_a_time, mixed)),
        ("ours", partial(bench.ours, mixed, bench.clients)),
        ("adapter_names", partial(bench.adapter_names, mixed)),
        ("base", partial(bench.ours, base, bench.clients)),
        ("generate", partial(bench.generate, few)),
        ("single", partial(bench.ours, few, 1)),
        ("adapter_names, one length", partial(bench.adapter_names, equal)),
        ("ours, one length", partial(bench.ours, equal, bench.clients)),
    ]


def _alike(answers: dict[str, list[list[int]]]) -> bool:
    """Whether ours said what the same requests one at a time said, token by token."""
    return answers["ours"] == answers["switch"] and answers["single"] == answers["generate"]


def _ratio(seconds: dict[str, list[float]], theirs: str, ours: str) -> float:
    """The median over the rounds: both ran in the same minute of each."""
    return statistics.median(t / o for t, o in zip(seconds[theirs], seconds[ours], strict=True))


def _prefix_cache(bench: Bench) -> float:
    """How many times faster a prompt is answered whose beginning (256 tokens) was there before."""
    source = torch.Generator().manual_seed(bench.seed)
    size = SHAPES[bench.shape]["vocab_size"]

    def prompt(length: int) -> list[int]:
        return [int(token) for token in torch.randint(3, size, (length,), generator=source)]

    ratios = []
    for _ in range(3):
        shared = prompt(256)
        spent = []
        for _ in range(2):
            begun = time.perf_counter()
            bench.ours(Workload([shared + prompt(8)], [None], [2]), 1)  # pages of one that ends at once are not kept
            spent.append(time.perf_counter() - begun)
        ratios.append(spent[0] / spent[1])
    return statistics.median(ratios)


def _adapter_back(bench: Bench, from_files: bool) -> float:
    """Seconds to bring an adapter back that had to make room: from beside the model, or from its files."""
    engine, adapter = bench.engine, "0"
    known = engine._known[adapter]
    weights = known.weights
    assert weights is not None

    with TemporaryDirectory() as folder:
        bench.tuned.save_pretrained(folder, selected_adapters=[adapter])
        files = Path(folder) / adapter
        digests = {path.name: sha256_file(path) for path in files.iterdir()}

        def back() -> float:
            engine._adapters.remove(adapter)
            begun = time.perf_counter()
            read = read_weights(files, engine.base.linears, digests) if from_files else weights
            engine._place(known, read)
            _wait(bench.device)
            return time.perf_counter() - begun

        spent: list[float] = []
        for _ in range(5):
            engine._command(lambda: spent.append(back())).result()
    return statistics.median(spent)


def _random_model(shape: dict[str, int], dtype: torch.dtype, device: str) -> Any:
    config = Qwen2Config(**shape, tie_word_embeddings=True, max_position_embeddings=4096, bos_token_id=None,
                         eos_token_id=None)  # fmt: skip
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    model = model.to_empty(device="cpu").to(dtype)
    for name, parameter in model.named_parameters():
        scale = 0.0 if name.endswith("bias") else 0.05
        parameter.data = torch.ones_like(parameter) if "norm" in name else torch.randn_like(parameter) * scale
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are computed, not loaded
    model.tie_weights()
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _quantized(module, dtype, device))
    return model.to(device).eval().requires_grad_(False)


def _quantized(linear: torch.nn.Linear, dtype: torch.dtype, device: str) -> Linear4bit:
    made = Linear4bit(
        linear.in_features, linear.out_features, bias=linear.bias is not None, compute_dtype=dtype,
        compress_statistics=True, quant_type="nf4",
    )  # fmt: skip
    made.load_state_dict(linear.state_dict(), strict=False)
    made.support_avx512bf16_for_cpu = False  # it rounds to bfloat16: not the same answers
    return made.to(device).requires_grad_(False)


def _twin(model: Any) -> Any:
    """The same modules anew over the same tensors."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared)


def _with_adapters(model: Any) -> PeftModel:
    tuned: Any = model
    for adapter in map(str, range(ADAPTERS)):
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, init_lora_weights=False)
        if isinstance(tuned, PeftModel):
            tuned.add_adapter(adapter, config)
        else:
            tuned = get_peft_model(tuned, config, adapter_name=adapter)
    return tuned.eval().requires_grad_(False)


def _weights(tuned: PeftModel, adapter: str) -> LoraWeights:
    matrices = {
        name.removeprefix("base_model.model."): (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight)
        for name, layer in tuned.named_modules()
        if adapter in getattr(layer, "lora_A", {})
    }
    return LoraWeights(RANK, 2.0, matrices)


def _bytes_of_a_token(model: Any) -> int:
    """What has to be read for one token: every weight once, the embedding as the output's matrix."""
    seen = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in model.parameters()}
    return sum(seen.values())


def _bandwidth(device: str) -> float:
    """Bytes a second that this machine reads, the best of a few tries."""
    tensor = torch.ones(1 << 28 if device == "cuda" else 1 << 26, device=device)
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        tensor.sum()
        _wait(device)
        best = max(best, tensor.numel() * tensor.element_size() / (time.perf_counter() - begun))
    return best


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class _NoTokenizer:
    eos_token_id = None
