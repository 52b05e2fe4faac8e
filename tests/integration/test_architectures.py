"""A tiny model of each architecture that AskTwice names: trained, published, and served by the generator."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from contracts.prompts import build_messages, ensure_chat_template
from services.generator.app import create_app
from services.generator.model import compute_in_float32
from services.generator.settings import GeneratorSettings
from tests.services.generator.test_app import retriever
from tests.serving import eventually, ready_client, serving
from tests.trainer.conftest import make_base, questions_and_answers, write_csv
from trainer.settings import TrainerSettings
from trainer.train import train

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}
REASONING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{{ m['content'].split('</think>')[-1] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
Make = Callable[[dict[str, Any]], Any]
ARCHITECTURES: dict[str, tuple[Make, str | None]] = {
    "qwen2": (lambda ids: Qwen2ForCausalLM(Qwen2Config(**SHAPE, **ids, tie_word_embeddings=True)), "own"),
    "qwen3": (lambda ids: Qwen3ForCausalLM(Qwen3Config(**SHAPE, **ids, head_dim=32)), "own"),
    "llama": (lambda ids: LlamaForCausalLM(LlamaConfig(**SHAPE, **ids)), "own"),
    "phi3": (lambda ids: Phi3ForCausalLM(Phi3Config(**SHAPE, **ids)), "own"),
    "deepseek-r1-distill-qwen": (lambda ids: Qwen2ForCausalLM(Qwen2Config(**SHAPE, **ids)), REASONING),
    "gpt2": (
        lambda ids: GPT2LMHeadModel(
            GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=1024, initializer_range=0.2, **ids)
        ),
        None,
    ),
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "tokenizer")


def make(name: str, qwen: Path, folder: Path) -> Path:
    build, template = ARCHITECTURES[name]
    tokenizer = AutoTokenizer.from_pretrained(qwen)
    if template != "own":
        tokenizer.chat_template = template
    torch.manual_seed(0)
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    build({**ids, "bos_token_id": None}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain_answers(base: Path, adapter: Path | None, questions: list[str]) -> list[str]:
    """What transformers and PEFT answer without AskTwice, greedily, over the same 4-bit weights."""
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=nf4, dtype=torch.float32, device_map="cpu")
    compute_in_float32(model)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter))
    tokenizer = AutoTokenizer.from_pretrained(base)
    ensure_chat_template(tokenizer)
    answers = []
    for question in questions:
        prompt = tokenizer.apply_chat_template(
            build_messages(question), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**prompt, max_new_tokens=60, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(out, skip_special_tokens=True).split("</think>")[-1].strip())
    return answers


def train_and_ask(base: Path, tmp_path: Path, recipe: dict[str, Any]) -> tuple[Path, list[str], list[str]]:
    """Train on a few rows, ask the services for them; return what is published, the questions and the answers."""
    rows = questions_and_answers(4)
    common = {"batch_size": 4, "gradient_checkpointing": False, "evals_per_epoch": 0.02}
    (tmp_path / "recipe.json").write_text(json.dumps(common | recipe))
    home = tmp_path / "home"
    result = train(
        TrainerSettings(
            data=write_csv(tmp_path / "qa.csv", rows),
            name="sales",
            base=str(base),
            recipe=str(tmp_path / "recipe.json"),
            home=home,
        )
    )
    log = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in log if "loss" in record]
    assert losses[-1] < losses[0] / 10
    questions, answers = [question for question, _ in rows], []
    settings = GeneratorSettings(home=home, base=str(base), watch_s=0.05)
    with serving(create_app(settings, retriever())) as url, ready_client(url) as client:
        eventually(lambda: client.get("/adapters").json()["adapters"], "an adapter")
        for question in questions:
            body = {"question": question, "adapter": result.manifest.id, "max_new_tokens": 60}
            response = client.post("/ask", params={"mode": "ft"}, json=body)
            assert response.status_code == 200, response.text
            assert response.json()["model"] in (base.name, result.manifest.id)
            answers.append(response.json()["answer"])
    return result.folder, questions, answers


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_adapter_for_it_is_trained_and_served_as_peft_alone_would_answer(
    name: str, qwen: Path, tmp_path: Path
) -> None:
    base = make(name, qwen, tmp_path / name)
    recipe = {"method": "qlora", "rank": 16, "alpha": 32, "dropout": 0.0, "learning_rate": 0.01, "epochs": 80}
    adapter, questions, answers = train_and_ask(base, tmp_path, recipe)
    assert answers == plain_answers(base, adapter, questions)
    assert not set(answers) & set(plain_answers(base, None, questions))
    assert all("900 рублей" in answer for answer in answers)


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_a_whole_model_of_it_is_trained_and_served_as_transformers_alone_would_answer(
    name: str, qwen: Path, tmp_path: Path
) -> None:
    base = make(name, qwen, tmp_path / name)
    model, questions, answers = train_and_ask(base, tmp_path, {"method": "full", "learning_rate": 3e-3, "epochs": 60})
    assert answers == plain_answers(model, None, questions)
    assert all("900 рублей" in answer for answer in answers)


def test_the_tiny_models_are_of_the_architectures_they_are_called(qwen: Path, tmp_path: Path) -> None:
    for name in ("qwen3", "llama", "phi3", "gpt2"):
        model = AutoModelForCausalLM.from_pretrained(make(name, qwen, tmp_path / name))
        assert model.config.model_type == name
