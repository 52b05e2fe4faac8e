"""The ground that paged.py stands on, and what would break silently if it moved."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GenerationConfig

from contracts.errors import Unavailable
from services.generator.engine import Engine
from services.generator.jobs import Job
from services.generator.lora import LoraWeights, NoRoom, SharedLora
from services.generator.model import Base, load_base
from services.generator.paged import Packed, PagedBatch, Request
from services.generator.settings import GeneratorSettings

KINDS: dict[str, dict[str, Any]] = {
    "small": {"r": 2, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "large": {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"]},
    "odd": {"r": 5, "lora_alpha": 7, "target_modules": ["gate_proj", "down_proj"], "use_rslora": True},
    "head": {"r": 3, "lora_alpha": 9, "target_modules": ["v_proj", "lm_head"]},
}
"""Adapters of other ranks, scalings and layers, one of them on the output embedding."""
NEW = 10


@pytest.fixture(scope="module")
def settings_of_module(base_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> GeneratorSettings:
    return GeneratorSettings(home=tmp_path_factory.mktemp("home"), base=str(base_folder))


@pytest.fixture
def base(settings_of_module: GeneratorSettings) -> Base:
    return load_base(settings_of_module)


@pytest.fixture(scope="module")
def tuned(settings_of_module: GeneratorSettings) -> PeftModel:
    """PEFT's own model with all kinds of adapters: what ours has to equal."""
    torch.manual_seed(3)
    model: Any = load_base(settings_of_module).model
    for name, kind in KINDS.items():
        config = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **kind)
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
        else:
            model = get_peft_model(model, config, adapter_name=name)
    return model.eval()


def weights(tuned: PeftModel, adapter: str) -> LoraWeights:
    matrices = {
        name.removeprefix("base_model.model."): (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight)
        for name, layer in tuned.named_modules()
        if hasattr(layer, "lora_A") and adapter in layer.lora_A
    }
    [scaling] = {layer.scaling[adapter] for layer in tuned.modules() if adapter in getattr(layer, "lora_A", {})}
    return LoraWeights(KINDS[adapter]["r"], scaling, {k: (a.detach(), b.detach()) for k, (a, b) in matrices.items()})


def alone(tuned: PeftModel, prompt: list[int], adapter: str | None) -> list[int]:
    """What PEFT and ``generate`` answer, one at a time."""
    given = {
        "input_ids": torch.tensor([prompt]),
        "attention_mask": torch.ones(1, len(prompt), dtype=torch.long),
        "generation_config": GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0),
    }
    with torch.inference_mode():
        if adapter is None:
            with tuned.disable_adapter():
                out = tuned.generate(**given)
        else:
            tuned.set_adapter(adapter)
            out = tuned.generate(**given)
    return [int(token) for token in out[0, len(prompt) :]]


class Ours:
    """The same base with the adapters beside it."""

    def __init__(self, base: Base, requests: int = 8):
        self.whose: dict[str, str | None] = {}
        self.lora = SharedLora(base.model, base.linears, 32, torch.float32, last=base.output_embedding)
        self.steps: list[Packed] = []
        self.batch = PagedBatch(
            base.model, pages=4096, step_tokens=48, requests=requests, before=self._before, choose=self._choose
        )
        self.number = 0

    def _before(self, packed: Packed) -> None:
        self.steps.append(packed)
        self.lora.select(
            [(self.whose[request.id], tokens) for request, tokens in packed.requests],
            [self.whose[request.id] if request else None for request in packed.kept],
        )

    def _choose(self, logits: torch.Tensor, _: list[Request]) -> torch.Tensor:
        return logits.argmax(-1)

    def ask(self, prompt: list[int], adapter: str | None, salt: int | None = None) -> Request:
        self.number += 1
        request = Request(str(self.number), prompt, NEW, [], hash(adapter) % 2**64 if salt is None else salt)
        self.whose[request.id] = adapter
        self.batch.add(request)
        return request

    def run(self) -> None:
        while self.batch.busy:
            self.batch.step()


def prompts(count: int, low: int = 4, high: int = 90) -> list[list[int]]:
    source = random.Random(11)
    return [[source.randrange(3, 700) for _ in range(source.randint(low, high))] for _ in range(count)]


def test_a_mixed_batch_answers_as_peft_does_one_at_a_time(base: Base, tuned: PeftModel) -> None:
    ours = Ours(base)
    for adapter in KINDS:
        ours.lora.place(adapter, weights(tuned, adapter))
    source, asked = random.Random(1), prompts(60)
    whose = [source.choice([None, *KINDS]) for _ in asked]
    requests = [ours.ask(prompt, adapter) for prompt, adapter in zip(asked, whose, strict=True)]
    ours.run()
    assert max(len(packed.requests) for packed in ours.steps) > 5, "they run together"
    assert any(len(packed.continued) < len(packed.requests) for packed in ours.steps), "long prompts are split"
    for request, prompt, adapter in zip(requests, asked, whose, strict=True):
        assert request.over
        assert request.tokens == alone(tuned, prompt, adapter), adapter
    assert len({tuple(alone(tuned, asked[0], adapter)) for adapter in [None, *KINDS]}) == 1 + len(KINDS)


def test_a_shared_beginning_is_computed_once_for_each_adapter_and_never_crosses(base: Base, tuned: PeftModel) -> None:
    ours = Ours(base)
    ours.lora.place("small", weights(tuned, "small"))
    ours.lora.place("odd", weights(tuned, "odd"))
    [shared] = prompts(1, 100, 100)
    for _ in range(2):
        for adapter in (None, "small", "odd"):
            request = ours.ask(shared, adapter)
            ours.run()
            assert request.tokens == alone(tuned, shared, adapter)
    pages = (len(shared) - 1) // PagedBatch.PAGE
    assert ours.batch.shared_tokens == 3 * pages * PagedBatch.PAGE, "each found its own pages the second time"
    assert ours.batch.prompt_tokens == 6 * len(shared)


def test_without_the_salt_they_would_cross(base: Base, tuned: PeftModel) -> None:
    """The guard above can fail: with equal salts an adapter reads the base's keys and values."""
    ours = Ours(base)
    ours.lora.place("large", weights(tuned, "large"))
    [shared] = prompts(1, 100, 100)
    ours.ask(shared, None, salt=0)
    ours.run()
    request = ours.ask(shared, "large", salt=0)
    ours.run()
    assert request.tokens != alone(tuned, shared, "large")


def test_the_bases_tokens_pass_through_exactly(base: Base, tuned: PeftModel) -> None:
    bare = Ours(base)
    asked = prompts(6)
    before = [bare.ask(prompt, None) for prompt in asked]
    bare.run()
    ours = Ours(base)
    ours.lora.place("large", weights(tuned, "large"))
    layer = base.model.model.layers[0].mlp.down_proj
    x = torch.randn(1, 7, 128)
    ours.lora.select([(None, 3), ("large", 4)])
    out = layer(x)
    assert torch.equal(out[:, :3], layer.base(x)[:, :3])
    assert not torch.equal(out[:, 3:], layer.base(x)[:, 3:])
    after = [ours.ask(prompt, None) for prompt in asked]
    other = ours.ask(asked[0], "large")
    ours.run()
    assert [request.tokens for request in before] == [request.tokens for request in after]
    assert other.tokens != after[0].tokens


def test_adapters_are_placed_where_others_were(base: Base, tuned: PeftModel) -> None:
    ours = Ours(base)
    for adapter in ("large", "odd"):
        ours.lora.place(adapter, weights(tuned, adapter))
    with pytest.raises(NoRoom):
        ours.lora.place("again", weights(tuned, "large"))
    ours.lora.remove("large")
    assert "large" not in ours.lora
    ours.lora.place("small", weights(tuned, "small"))
    [prompt] = prompts(1)
    requests = {adapter: ours.ask(prompt, adapter) for adapter in ("odd", "small", None)}
    ours.run()
    for adapter, request in requests.items():
        assert request.tokens == alone(tuned, prompt, adapter)


def test_a_cancelled_request_frees_its_place(base: Base) -> None:
    ours = Ours(base, requests=1)
    first, second = (ours.ask(prompt, None) for prompt in prompts(2))
    ours.batch.step()
    ours.batch.cancel(first)
    ours.run()
    assert not first.over
    assert second.over


def failing(model: Any, monkeypatch: pytest.MonkeyPatch, poison: int) -> None:
    """Every forward pass that holds this token fails, as one does that runs out of memory."""
    forward = model.forward

    def maybe(*given: Any, **named: Any) -> Any:
        if bool((named["input_ids"] == poison).any()):
            raise torch.OutOfMemoryError("no")
        return forward(*given, **named)

    monkeypatch.setattr(model, "forward", maybe)


def test_a_step_that_fails_takes_the_request_it_failed_for_and_no_others(
    base: Base, tuned: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = 701
    ours = Ours(base)
    ours.lora.place("odd", weights(tuned, "odd"))
    asked = prompts(5, 10, 40)
    failing(base.model, monkeypatch, poison)
    requests = [ours.ask(prompt, adapter) for prompt, adapter in zip(asked[:3], (None, "odd", None), strict=True)]
    for _ in range(3):
        ours.batch.step()
    bad = ours.ask([*asked[3], poison], None)
    late, failed = ours.ask(asked[4], "odd"), []
    while ours.batch.busy:
        try:
            ours.batch.step()
        except torch.OutOfMemoryError:
            failed += ours.batch.drop()
    assert failed == [bad]
    assert not bad.over
    monkeypatch.undo()
    for request, adapter in zip((*requests, late), (None, "odd", None, "odd"), strict=True):
        assert request.tokens == alone(tuned, request.prompt, adapter)


def test_a_later_part_of_a_prompt_that_fails_is_not_laid_at_the_youngests_door(
    base: Base, tuned: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = 701
    ours = Ours(base)
    failing(base.model, monkeypatch, poison)
    asked = prompts(4, 10, 30)
    long = [3 + n % 600 for n in range(100)]  # a step holds 48 tokens
    first = ours.ask(asked[0], None)
    bad = ours.ask([*long, poison], None)
    others = [ours.ask(prompt, None) for prompt in asked[1:]]
    failed = []
    while ours.batch.busy:
        try:
            ours.batch.step()
        except torch.OutOfMemoryError:
            failed += ours.batch.drop()
    assert failed == [bad]
    monkeypatch.undo()
    for request in (first, *others):
        assert request.tokens == alone(tuned, request.prompt, None)


def test_more_than_the_pages_hold_is_answered_all_the_same(base: Base, tuned: PeftModel) -> None:
    ours = Ours(base, requests=8)
    ours.batch = PagedBatch(base.model, pages=320, step_tokens=48, requests=8, before=ours._before, choose=ours._choose)
    asked = prompts(12, 60, 90)
    requests = [ours.ask(prompt, None) for prompt in asked]
    ours.run()
    for request, prompt in zip(requests, asked, strict=True):
        assert request.tokens == alone(tuned, prompt, None)


def test_500_requests_while_adapters_come_and_go_answer_as_peft_does_one_at_a_time(
    base: Base, tuned: PeftModel
) -> None:
    engine = Engine(base, max_batch=12, queue_limit=1000, columns=32)
    for adapter in KINDS:
        engine.load_weights(adapter, weights(tuned, adapter)).result(60)
    source, asked = random.Random(9), prompts(30)
    keys = [(source.randrange(len(asked)), source.choice([None, *KINDS])) for _ in range(500)]
    alone_answers = {key: alone(tuned, asked[key[0]], key[1]) for key in sorted(set(keys), key=str)}
    over, swaps = threading.Event(), 0

    def swap() -> None:
        nonlocal swaps
        while not over.is_set():
            adapter = random.choice([*KINDS])
            engine.unload(adapter).result(60)
            engine.load_weights(adapter, weights(tuned, adapter)).result(60)
            swaps += 1
            time.sleep(0.05)

    def ask(key: tuple[int, str | None]) -> list[int]:
        while True:
            job = Job(asked[key[0]], key[1], NEW, temperature=0.0, seed=None, deadline=time.monotonic() + 120)
            try:
                engine.submit(job)
            except Unavailable:  # it is not there at this moment
                time.sleep(0.005)
            else:
                return job.done.result(120).tokens  # what was accepted is answered

    swapper = threading.Thread(target=swap, daemon=True)
    swapper.start()
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(ask, keys))
    over.set()
    swapper.join(60)
    engine.stop()
    end = set(engine._end)
    for key, tokens in zip(keys, answers, strict=True):
        wanted = alone_answers[key]
        assert tokens == (wanted[:-1] if wanted[-1] in end else wanted), key
    assert swaps > 5


def test_requests_that_wait_for_pages_go_on_when_those_that_hold_them_leave(base: Base) -> None:
    ours = Ours(base, requests=8)
    ours.batch = PagedBatch(base.model, pages=192, step_tokens=48, requests=8, before=ours._before, choose=ours._choose)
    requests = [ours.ask(prompt, None) for prompt in prompts(6, 60, 80)]
    for _ in range(6):
        ours.batch.step()
    begun = [request for request in requests if request.tokens and not request.over]
    assert begun
    for request in begun:
        ours.batch.cancel(request)
    for _ in range(500):
        if not ours.batch.busy:
            break
        ours.batch.step()
    assert all(request.over for request in requests if request not in begun)


def test_each_thread_hashes_with_its_own_salt(base: Base) -> None:
    from transformers.generation.continuous_batching.cache_allocators import cache_allocator

    from services.generator import paged

    def hashed(salt: int) -> set[int]:
        found = set()
        for _ in range(2000):
            paged._salt.value = salt
            found.add(cache_allocator.compute_block_hash(None, [1, 2, 3]))
        return found

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(hashed, range(4)))
    assert all(len(each) == 1 for each in found)
    assert len(set.union(*found)) == 4


def test_an_adapter_that_cannot_be_placed_leaves_nothing_behind(base: Base, tuned: PeftModel) -> None:
    ours = Ours(base)
    whole = weights(tuned, "large")
    names = list(whole.matrices)
    broken = {**whole.matrices, names[-1]: (torch.ones(3, 3), torch.ones(3, 3))}
    with pytest.raises(RuntimeError):
        ours.lora.place("broken", LoraWeights(whole.rank, whole.scaling, broken))
    assert all(not layer.down.any() and not layer.up.any() for layer in ours.lora._layers.values())
    ours.lora.place("small", weights(tuned, "small"))
    [prompt] = prompts(1)
    request = ours.ask(prompt, "small")
    ours.run()
    assert request.tokens == alone(tuned, prompt, "small")
