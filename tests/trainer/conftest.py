"""A random tiny Qwen2 with a tokenizer of its own, and a CSV that it can learn by heart."""

from pathlib import Path

import pytest

QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COURSES = ("Python", "ChatGPT", "зрение", "данные", "тексты", "речь")


def make_base(folder: Path, hidden: int = 64, layers: int = 2, vocabulary: int = 600, seed: int = 0) -> Path:
    """Write a model with random weights: Qwen2 architecture, byte-level BPE, ChatML template."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    from contracts.prompts import SYSTEM_PROMPT

    texts = [SYSTEM_PROMPT, *(f"{question} {answer}" for question, answer in questions_and_answers(12))]
    bpe = ByteLevelBPETokenizer()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(texts, vocab_size=vocabulary, min_frequency=1, special_tokens=special, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
        chat_template=QWEN_TEMPLATE,
    )
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.2,  # at the usual 0.02 no adapter could make this model sure of anything
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def questions_and_answers(rows: int) -> list[tuple[str, str]]:
    return [
        (f"Сколько стоит курс {COURSES[n % 6]} {n}?", f"Курс {COURSES[n % 6]} {n} стоит {n + 1}0 900 рублей.")
        for n in range(rows)
    ]


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = [f'"{question}","{answer}","Прайс-лист."' for question, answer in rows]
    path.write_text("question,answer,context\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "tiny-random")


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "qa.csv", questions_and_answers(12))
