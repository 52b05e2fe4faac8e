"""A random tiny Qwen2 with its tokenizer, and adapters with random weights: enough to prove who answered."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from contracts.artifacts import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MANIFEST,
    AdapterManifest,
    BaseModelRecord,
    DataRecord,
    Home,
    LossRecord,
    adapter_digest,
    local_revision,
    move_into_place,
    sha256_file,
    whole_folder,
)
from contracts.generation import Mode
from contracts.prompts import SYSTEM_PROMPT
from services.generator.engine import Engine
from services.generator.model import load_base
from services.generator.settings import GeneratorSettings

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = Path("contracts/prompts.py").read_text(encoding="utf-8")


def _tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXT.splitlines(), trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "random-tiny"
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=704,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
        initializer_range=0.2,  # wide enough that the greedy choice depends on the prompt
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


Publish = Callable[..., AdapterManifest]


def publish(
    home: Home, base_folder: Path, name: str, *, seed: int, quantization: str = "nf4", **changes: Any
) -> AdapterManifest:
    """Publish an adapter with random weights, as the trainer would. ``changes`` go into the manifest."""
    torch.manual_seed(seed)
    model = get_peft_model(
        Qwen2ForCausalLM.from_pretrained(base_folder),
        LoraConfig(
            r=4,
            lora_alpha=32,
            target_modules=["q_proj", "v_proj", "down_proj"],
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        ),
    )
    with whole_folder(home.adapters) as folder:
        model.save_pretrained(folder)
        (folder / "README.md").unlink()
        now = datetime.now(UTC) + timedelta(seconds=seed)
        manifest = AdapterManifest(
            id=f"{name}.{adapter_digest(folder)}",
            name=name,
            modes=[Mode.ft],
            base=BaseModelRecord(
                model=base_folder.name,
                revision=local_revision(base_folder),
                quantization=quantization,
                compute_dtype="float32",
            ),
            data=DataRecord(file="d.csv", sha256="0", rows=1, train_rows=[1], dev_rows=[]),
            recipe={},
            seed=seed,
            system_prompt_sha256=hashlib.sha256(SYSTEM_PROMPT.encode()).hexdigest(),
            losses=LossRecord(train=1.0, dev=None, best_step=1, steps=1),
            seconds={},
            versions={},
            files={name: sha256_file(folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)},
            created=now,
            published=now,
        ).model_copy(update=changes)
        (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
        move_into_place(folder, home.adapters / manifest.id)
    return manifest


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(path=tmp_path / "home")


@pytest.fixture
def settings(home: Home, base_folder: Path) -> GeneratorSettings:
    return GeneratorSettings(home=home.path, base=str(base_folder), watch_s=0.05)


@pytest.fixture
def engine(settings: GeneratorSettings) -> Iterator[Engine]:
    engine = Engine(load_base(settings), max_batch=16, queue_limit=1000)
    yield engine
    engine.stop()
