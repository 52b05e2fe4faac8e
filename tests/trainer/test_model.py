from pathlib import Path
from typing import Any

import pytest
import torch

from contracts.errors import InvalidInput
from trainer.model import Placement, choose_placement, identify, load_model
from trainer.recipe import Recipe

CPU = Placement("cpu", "float32")
QLORA = Recipe(method="qlora")


def gradients_after_an_evaluation(model: Any) -> dict[str, bool]:
    """Train a step, evaluate, and tell per LoRA layer whether the next step gives it a gradient."""
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:  # zero at the start, and then no gradient reaches lora_A
            torch.nn.init.normal_(parameter)
    tokens = torch.arange(20)[None]
    tuned.eval()
    with torch.no_grad():
        tuned(input_ids=tokens)
    tuned.train()
    tuned(input_ids=tokens, labels=tokens).loss.backward()
    return {
        name: parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        for name, parameter in tuned.named_parameters()
        if parameter.requires_grad
    }


def test_every_lora_layer_still_learns_after_an_evaluation(base: Path) -> None:
    reached = gradients_after_an_evaluation(load_model(str(base), QLORA, CPU))
    assert len(reached) == 2 * 2 * 7  # A and B of seven linear layers in two blocks
    assert all(reached.values())


def test_without_the_workaround_bitsandbytes_loses_gradients_on_such_a_cpu(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16, so bitsandbytes does not repack")
    monkeypatch.setattr("trainer.model.keep_gradients_after_evaluation", lambda model: None)
    try:
        learns = all(gradients_after_an_evaluation(load_model(str(base), QLORA, CPU)).values())
    except RuntimeError:  # layers with a bias do not even run
        learns = False
    assert not learns, "bitsandbytes has mended it: the workaround can go"


def test_the_base_is_in_nf4_with_double_quantisation_and_computes_in_float32(base: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    layers = [m for m in load_model(str(base), QLORA, CPU).modules() if isinstance(m, Linear4bit)]
    assert len(layers) == 14
    for layer in layers:
        assert layer.weight.quant_state.quant_type == "nf4"
        assert layer.weight.quant_state.nested
        assert layer.compute_dtype == torch.float32


def test_a_local_base_is_known_by_its_folder_and_content(base: Path) -> None:
    record = identify(str(base), QLORA, "float32")
    assert (record.model, record.quantization) == ("tiny-random", "nf4")
    assert record.revision.startswith("sha256:")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no config\.json"):
        identify(str(tmp_path), QLORA, "float32")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InvalidInput, match="no usable GPU"):
        choose_placement("cuda", QLORA)
    assert choose_placement("auto", QLORA) == CPU
