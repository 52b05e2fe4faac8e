"""The same few questions before and after a training: what a loss does not show."""

from collections.abc import Sequence
from typing import Any

from contracts.artifacts import AnswerSample
from trainer.data import Asked, Examples

SHOWN = 3
MAX_NEW_TOKENS = 64


def choose(asked: Sequence[Asked], examples: Examples) -> list[Asked]:
    """Return rows to show, spread over the dev rows; over the trained ones where there are too few of them."""
    by_row = {each.row.number: each for each in asked}
    dev = sorted(example.row for example in examples.dev)
    trained = sorted({example.row for example in examples.train})
    rows = dev if len(dev) >= SHOWN else trained
    return [by_row[rows[n * len(rows) // SHOWN]] for n in range(min(SHOWN, len(rows)))]


def answer(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Return greedy answers of at most ``MAX_NEW_TOKENS`` tokens; the model is left as it was."""
    import torch

    was_training = model.training
    model.eval()
    longest = max(map(len, prompts))
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    padding = [longest - len(prompt) for prompt in prompts]
    ids = torch.tensor([[filler] * short + list(prompt) for short, prompt in zip(padding, prompts, strict=True)])
    mask = torch.tensor([[0] * short + [1] * (longest - short) for short in padding])
    try:
        with torch.no_grad():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                use_cache=True,
                pad_token_id=filler,
            )
    finally:
        model.train(was_training)
    return [tokenizer.decode(line[longest:], skip_special_tokens=True).strip() for line in out]


def compare(
    shown: Sequence[Asked], examples: Examples, before: Sequence[str], after: Sequence[str]
) -> list[AnswerSample]:
    """Return what the card shows."""
    dev = {example.row for example in examples.dev}
    return [
        AnswerSample(
            row=each.row.number,
            trained=each.row.number not in dev,
            question=each.row.question,
            expected=each.answer,
            before=earlier,
            after=later,
        )
        for each, earlier, later in zip(shown, before, after, strict=True)
    ]
