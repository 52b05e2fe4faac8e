"""The bench prints honest figures: all ways answer the same requests, and ours answer them alike."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from typer.testing import CliRunner

from asktwice.cli import cli
from services.generator.bench import Bench, _alike
from services.generator.model import compute_in_float32

ASKED_FOR = {
    "vs_switch", "vs_adapter_names", "mixed_over_base", "single_vs_generate", "identical", "tokens_per_s",
    "roofline_fraction", "shape", "device",
}  # fmt: skip


def test_the_last_line_is_one_json_object_with_every_figure() -> None:
    asked = ["bench", "generator", "--shape", "tiny", "--rounds", "1", "--clients", "3", "--new-tokens", "8", "--json"]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures.keys() >= ASKED_FOR
    assert figures["identical"] is True
    assert (figures["shape"], figures["clients"], figures["requests"]) == ("tiny", 3, 9)
    assert all(figures[name] > 0 for name in ("vs_switch", "vs_adapter_names", "mixed_over_base", "tokens_per_s"))


def test_an_answer_that_differs_is_seen() -> None:
    same = {"ours": [[1, 2]], "switch": [[1, 2]], "single": [[3]], "generate": [[3]]}
    assert _alike(same)
    assert not _alike({**same, "ours": [[1, 3]]})
    assert not _alike({**same, "single": [[4]]})


def test_the_rounds_differ_in_their_prompts_alone() -> None:
    bench = Bench("tiny", clients=2, new_tokens=8, requests=6, seed=3, dtype=torch.float32)
    try:
        first, second, base = bench.workload(0, True), bench.workload(1, True), bench.workload(0, False)
        assert first.lengths == second.lengths == base.lengths
        assert len(set(first.lengths)) > 1, "answers end when they end, not all at once"
        assert list(map(len, first.prompts)) == list(map(len, second.prompts))
        assert not {*map(tuple, first.prompts)} & {*map(tuple, second.prompts)}
        assert [whose is None for whose in first.adapters] == [True, False] * 3
        assert base.adapters == [None] * 6
        assert [list(map(len, way(first))) for way in (bench.one_at_a_time, bench.adapter_names)] == [
            [*first.lengths]
        ] * 2
        assert list(map(len, bench.ours(first, 2))) == first.lengths
    finally:
        bench.engine.stop()


def test_scales_computed_once_change_no_bit(base_folder: str) -> None:
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(
            base_folder, quantization_config=config, dtype=torch.float32
        ).eval()
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        stock = model(ids).logits
        weight = model.model.layers[0].mlp.up_proj.weight
        assert weight.quant_state.nested
        compute_in_float32(model)
        assert weight.quant_state.nested, "a model that shares the tensor keeps its own scales"
        assert not model.model.layers[0].mlp.up_proj.weight.quant_state.nested
        assert model.model.layers[0].mlp.up_proj.weight.data_ptr() == weight.data_ptr()
        assert torch.equal(model(ids).logits, stock)


@pytest.mark.parametrize("shape", ["gpt-5", ""])
def test_a_shape_that_is_not_known_is_an_error_that_names_those_that_are(shape: str) -> None:
    result = CliRunner().invoke(cli, ["bench", "generator", "--shape", shape])
    assert result.exit_code != 0
