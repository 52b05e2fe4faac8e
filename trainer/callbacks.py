"""What hangs on transformers' training loop: the dev loss, watching it, and sealing its checkpoints."""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import SFTTrainer

from contracts.errors import InvalidInput
from trainer import ranks
from trainer.checkpoints import checkpoint, rotate, seal
from trainer.data import NO_LOSS
from trainer.progress import Moment, Report


def memory_in_use() -> int | None:
    """Return the most that this process held of the GPU; without one, its resident memory now. None where unknown."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


class TokenMeanTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer, whose dev loss and dev accuracy are means over all answer tokens.

    The libraries' own are means over batches, where a token of a short batch counts more than one of a long batch; so
    they change with the batch size, and with how many processes share it.
    """

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._batches: list[tuple[float, int]] = []
        output = super().evaluation_loop(*args, **kwargs)
        losses, tokens = zip(*self._batches, strict=True)
        accuracies = self._metrics["eval"]["mean_token_accuracy"]
        output.metrics["eval_loss"] = _mean(losses, tokens)
        self._metrics["eval"]["mean_token_accuracy"] = [_mean(accuracies, tokens)]
        return output

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        self._batches.append((float(loss), int((inputs["labels"][..., 1:] != NO_LOSS).sum())))
        return loss, logits, labels


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


class Seal(TrainerCallback):  # type: ignore[misc]
    """Seals each checkpoint once all of it is written, and then removes those that are not needed any more."""

    def __init__(self, keep_all: bool):
        self.keep_all = keep_all

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        ranks.wait_for_all()  # each process writes a part of it
        if not ranks.is_first():
            return
        run = Path(args.output_dir)
        seal(checkpoint(run, state.global_step))
        if not self.keep_all:
            rotate(run)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports each step, and stops a training whose loss is no number any more."""

    def __init__(self, report: Report | None, tokens_per_step: float):
        self.report = report or (lambda _: None)
        self.tokens_per_step = tokens_per_step
        self.loss: float | None = None
        self.dev_loss: float | None = None
        self.begun, self.first_step = time.perf_counter(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begun, self.first_step = time.perf_counter(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        for name in ("loss", "eval_loss"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise InvalidInput(
                    f"The training diverged: its loss is not a number at step {state.global_step}."
                    " Nothing was published. Lower the recipe's learning_rate."
                )
        self.loss = logs.get("loss", self.loss)
        self.dev_loss = logs.get("eval_loss", self.dev_loss)
        if "eval_loss" in logs:
            self.report(self._moment(state))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.report(self._moment(state))

    def _moment(self, state: Any) -> Moment:
        seconds = time.perf_counter() - self.begun
        done = state.global_step - self.first_step
        return Moment(
            step=state.global_step,
            steps=state.max_steps,
            loss=self.loss,
            dev_loss=self.dev_loss,
            tokens_per_second=done * self.tokens_per_step / seconds if done else None,
            memory_bytes=memory_in_use(),
            seconds_left=(state.max_steps - state.global_step) * seconds / done if done else None,
        )
