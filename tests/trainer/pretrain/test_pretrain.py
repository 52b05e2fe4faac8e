"""The recipe of the bundled model at the size of a test: it learns, goes on after a stop, ends as a model to load."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from contracts.prompts import SYSTEM_PROMPT, build_messages
from trainer.pretrain.__main__ import (
    Batches,
    Recipe,
    Row,
    Run,
    build_model,
    build_optimizers,
    build_tokenizer,
    grow,
    losses,
    parse_args,
    round_to_nf4,
    schedule,
    train_step,
)

SMALL = Recipe(vocabulary=700, hidden=64, intermediate=64, layers=2, heads=2, kv_heads=2, batch_tokens=1024)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(700, seed=1)


def run(folder: Path, tokens: int, *more: str, recipe: Recipe = SMALL) -> Run:
    arguments = ["--out", f"{folder}/out", "--work", f"{folder}/work", "--tokens", str(tokens), "--no-bf16"]
    made = Run(parse_args([*arguments, *more]), recipe)
    made.train()
    return made


def test_a_run_goes_on_where_it_was_stopped_and_publishes_a_qwen2_model(tmp_path: Path) -> None:
    first = run(tmp_path, 100_000)
    second = run(tmp_path, 300_000)
    assert second.progress.step > first.progress.step > 0
    records = [json.loads(line) for line in (tmp_path / "work" / "loss.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == sorted(r["step"] for r in records)
    assert records[-1]["answer_loss"] < records[0]["answer_loss"]
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors"), "it is the embedding"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert (tmp_path / "out" / "loss.png").stat().st_size > 1000
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved.eos_token == "<|im_end|>"
    text = saved.apply_chat_template(build_messages("Вопрос?", ["Текст."]), tokenize=False, add_generation_prompt=True)
    assert text == (
        f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"
        "<|im_start|>user\nКонтекст:\n[1] Текст.\n\nВопрос: Вопрос?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_run_can_begin_with_the_weights_of_another(tmp_path: Path) -> None:
    first = run(tmp_path / "first", 1)
    start = ("--start", str(tmp_path / "first" / "out"))
    other = replace(SMALL, seed=8)
    begun = Run(parse_args(["--out", f"{tmp_path}/o", "--work", f"{tmp_path}/w", *start]), other)
    for name, weight in first.model.state_dict().items():
        assert torch.allclose(begun.model.state_dict()[name], weight, atol=0.01), name
    assert begun.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    gone_on = run(tmp_path / "second", 1, *start, recipe=other)
    again = Run(parse_args(["--out", f"{tmp_path}/o", "--work", f"{tmp_path}/second/work", *start]), other)
    for name, weight in gone_on.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), "the checkpoint counts, not where it began"
    with pytest.raises(SystemExit, match="began otherwise"):
        run(tmp_path / "second", 1)
    run(tmp_path / "third", 1, recipe=replace(SMALL, seed=9))
    with pytest.raises(SystemExit, match="began otherwise"):
        run(tmp_path / "second", 1, "--start", str(tmp_path / "third" / "out"), recipe=other)
    with pytest.raises(SystemExit):
        parse_args(["--out", str(tmp_path), "--start", str(tmp_path)])


def test_a_grown_model_says_what_the_shallower_one_said_and_every_new_layer_learns(tokenizer: Any) -> None:
    start = build_model(replace(SMALL, layers=3), tokenizer).eval()
    for layer in start.model.layers:  # as after training: random ones add next to nothing, wherever they stand
        for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.normal_(matrix.weight, std=0.3)
    model = build_model(replace(SMALL, layers=5, seed=8), tokenizer).eval()
    grow(model, start)
    ids = torch.randint(3, 700, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, start(ids).logits, atol=1e-5)
    batch = next(Batches(SMALL, tokenizer).pool(0, 0.9))
    optimizers = build_optimizers(model, SMALL)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for _ in range(2):  # in the first step the zero matrices hide the rest of their layer
        train_step(model, optimizers, batch, SMALL, bf16=False, nf4=False)
    for name, weight in model.state_dict().items():
        assert not torch.equal(weight, before[name]), name
    for depth in (2, 7):
        with pytest.raises(ValueError, match="give 3 to 6"):
            grow(build_model(replace(SMALL, layers=depth), tokenizer), start)


def test_digits_are_tokens_of_their_own_and_any_text_survives(tokenizer: Any) -> None:
    assert tokenizer.tokenize("2027") == list("2027")
    for text in ("Ёлка «Ёж-2», 12 500 ₽", "naïve 日本 🙂", "a\tb\n\nc"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_rounding_is_that_of_bitsandbytes() -> None:
    weight = torch.randn(128, 192, generator=torch.Generator().manual_seed(3)) * 0.05
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
    assert torch.allclose(round_to_nf4(weight), bnb.dequantize_4bit(packed, state), atol=1e-5)


def test_the_shared_system_prompt_changes_no_loss(tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = build_model(SMALL, tokenizer).eval()
    batches = Batches(SMALL, tokenizer)
    prefix = batches.encode([f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"])[0].ids
    rows = [Row([5, 6, 7, 8, 9], [0, 0, 1, 1, 1], [2], [], []), Row([9, 8, 7], [0, 1, 1], [1], [], [])]
    batch = next(batches.pool(0, 0.9))
    made = batches._batch(rows, random.Random(0), done=0.9)
    shared = losses(model, replace(made, prefix=prefix), SMALL, bf16=False).total
    total, weight = torch.zeros(()), 0.0
    for index, row in enumerate(rows):
        ids = torch.tensor([prefix + row.ids])
        logits = model(input_ids=ids).logits[0, len(prefix) : -1]
        each = torch.nn.functional.cross_entropy(logits, ids[0, len(prefix) + 1 :], reduction="none")
        weights = made.weights[index, 1 : len(row.ids)]
        total, weight = total + (each * weights).sum(), weight + float(weights.sum())
    assert shared.item() == pytest.approx((total / weight).item(), rel=1e-4)
    assert batch.weights.max() == SMALL.start_weight
    assert batch.weights.min() == 0
    kept = [
        (each.weights == SMALL.language_weight).any(1) for each, _ in zip(batches.pool(1, 0.9), range(20), strict=False)
    ]
    assert 0 < torch.cat(kept).float().mean() < 0.6, "some chats keep the language"


def test_the_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    assert schedule(0.01) == 0.5
    assert schedule(0.2) == 1.0
    assert schedule(0.6) == pytest.approx(0.5**1.5)
    assert schedule(1.0) == 0.0


def test_heads_are_told_the_value_while_it_is_copied_and_before(tokenizer: Any) -> None:
    batches = Batches(SMALL, tokenizer)
    mark, kinds = tokenizer.convert_tokens_to_ids("<|im_start|>"), Counter[str]()
    for _, batch in zip(range(20), batches.pool(0, 0.5), strict=False):
        places = [*batch.choices, *batch.copies]
        assert len({(row, token) for row, token, _ in places}) == len(places), "a token is told two places"
        for row, token, target in batch.copies:
            assert target < token
            assert batch.ids[row, token + 1] == batch.ids[row, target]
        decided: dict[tuple[int, int], list[int]] = {}
        for row, token, target in batch.choices:
            decided.setdefault((row, target), []).append(token)
        for (row, target), tokens in decided.items():
            said = tokenizer.decode(batch.ids[row, min(tokens) + 1 : max(tokens) + 2])
            if batch.ids[row, target] == mark:
                assert said.startswith(("К сожалению", "Sorry")), "the opening mark is for what nothing tells"
                kinds["nothing"] += 1
            elif batch.ids[row, max(tokens) + 1] == batch.ids[row, target]:
                kinds["value"] += 1
            else:  # the same word can be other tokens in another place; a yes or no stands in no passage
                agreed = said.endswith(("Да", "Нет", "Yes", "No", "Д", "Н", "Не", "Y", "N"))
                kinds["yes or no" if agreed else "other tokens"] += 1
    assert kinds["value"] > 100
    assert kinds["nothing"] > 50
    assert kinds["yes or no"] > 2
    assert kinds["other tokens"] < 0.25 * kinds["value"]


def test_pointing_teaches_where_to_look(tokenizer: Any) -> None:
    torch.manual_seed(0)
    recipe = replace(SMALL, pointing_heads=1)
    model = build_model(recipe, tokenizer)
    batch = next(Batches(recipe, tokenizer).pool(0, 0.9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = losses(model, batch, recipe, bf16=False).pointed
    for _ in range(60):
        losses(model, batch, recipe, bf16=False).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = losses(model, batch, recipe, bf16=False).pointed
    assert before is not None
    assert after is not None
    assert after > before + 0.3
