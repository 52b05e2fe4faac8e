"""The training, from top to bottom: read, look whether it is done already, load, train, publish."""

import logging
import math
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.artifacts import AdapterManifest, DataRecord, read_manifest
from contracts.errors import NotReady
from contracts.generation import Mode
from trainer import checkpoints, publish
from trainer.collate import SharedPrefixCollator
from trainer.data import Examples, make_examples, to_dataset
from trainer.model import limit_gpu_memory, load_model, load_tokenizer, lora_config
from trainer.plan import Plan, make_plan
from trainer.progress import Report
from trainer.quiet import quiet
from trainer.settings import TrainerSettings

log = logging.getLogger("asktwice")


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """``skipped``: the adapter was there already and only became the newest again. ``read`` is the table's summary."""

    manifest: AdapterManifest
    folder: Path
    skipped: bool
    read: str


def train(settings: TrainerSettings, progress: Report | None = None) -> TrainingResult:
    """Train an adapter and publish it, or find that it is published already.

    A training that was interrupted, however it was, goes on from its newest complete checkpoint.

    Args:
        settings: what to train, on which base, how, and where to.
        progress: called after each step and each evaluation.

    Raises:
        InvalidInput: the file, the recipe or the base is wrong, or the training diverged.
        NotReady: another training runs in this home, or the GPU's memory does not suffice.
    """
    plan = make_plan(settings)
    log.info(plan.table.summary())
    with checkpoints.only_training(plan.home), quiet():
        there = None if settings.force else publish.find_published(plan)
        if there:
            log.info("%s is published already for this data, base and recipe. It is the newest again.", there.id)
            folder = plan.home.adapters / there.id
            publish.renew(folder)
        else:
            folder = _train_and_publish(plan, progress)
        shutil.rmtree(plan.run, ignore_errors=True)
        return TrainingResult(read_manifest(folder, AdapterManifest), folder, bool(there), plan.table.summary())


def _train_and_publish(plan: Plan, progress: Report | None) -> Path:
    begun = time.perf_counter()
    recipe, base = plan.recipe, plan.settings.base
    tokenizer = load_tokenizer(base)
    examples = make_examples(
        plan.table,
        tokenizer,
        plan.settings.system_prompt,
        recipe.max_length,
        recipe.dev_fraction,
        recipe.seed,
        recipe.question_variants,
    )
    if examples.too_long:
        numbers = ", ".join(map(str, examples.too_long[:20])) + (" ..." if len(examples.too_long) > 20 else "")
        log.warning("%d rows over %d tokens are left out: %s", len(examples.too_long), recipe.max_length, numbers)
    if plan.settings.force:
        shutil.rmtree(plan.run, ignore_errors=True)
    resume = checkpoints.newest_whole(plan.run)
    if resume:
        log.info("An interrupted training goes on from its %s.", resume.name)
    limit_gpu_memory(plan.settings.gpu_memory_share, plan.placement)
    trainer = make_trainer(plan, load_model(base, recipe.quantization, plan.placement), tokenizer, examples, progress)
    loaded = time.perf_counter()
    _run(trainer, resume)
    trained = time.perf_counter()
    # The time of a resumed training is not known: it began in another process.
    seconds = {"load": loaded - begun} | ({} if resume else {"train": trained - loaded})
    history = publish.log_records(trainer.state.log_history)
    best = trainer.state.best_global_step or trainer.state.global_step
    if recipe.keep == "best" and recipe.best_by == "accuracy" and examples.dev:
        whole = [step for step in _evaluated(history) if checkpoints.is_whole(checkpoints.checkpoint(plan.run, step))]
        kept = [record for record in history if int(record["step"]) in whole]
        best = most_accurate(kept, sum(len(example.answer) for example in examples.dev))
    draft = AdapterManifest(
        id="",
        name=plan.settings.name,
        modes=[Mode.ft],
        base=plan.base,
        data=_data_record(plan, examples),
        recipe=plan.recipe_record,
        seed=recipe.seed,
        system_prompt_sha256=plan.system_prompt_sha256,
        losses=publish.loss_record(history, best, trainer.state.global_step, int(trainer.args.eval_steps)),
        seconds={name: round(value, 1) for name, value in seconds.items()},
        versions=publish.library_versions(),
        files={},
        created=datetime.now(UTC),
        published=datetime.now(UTC),
    )
    return publish.publish(plan.home, checkpoints.checkpoint(plan.run, best), history, draft)


def make_trainer(plan: Plan, model: Any, tokenizer: Any, examples: Examples, progress: Report | None) -> Any:
    """Return TRL's trainer over the base with a fresh adapter, its checkpoints going to ``plan.run``."""
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl import SFTTrainer

    from trainer.callbacks import Seal, Watch

    rows = plan.recipe.batch_size * plan.recipe.gradient_accumulation
    tokens_per_step = rows * sum(map(len, examples.train)) / len(examples.train)
    stop = [EarlyStoppingCallback(plan.recipe.patience)] if _keeps_lowest_loss(plan, bool(examples.dev)) else []
    trainer = SFTTrainer(
        model=model,
        data_collator=SharedPrefixCollator() if plan.recipe.shared_prefix else None,
        args=_arguments(plan, len(examples.train), bool(examples.dev)),
        train_dataset=to_dataset(examples.train),
        eval_dataset=to_dataset(examples.dev) if examples.dev else None,
        processing_class=tokenizer,
        peft_config=lora_config(plan.recipe),
        callbacks=[Seal(), Watch(progress, tokens_per_step), *stop],
    )
    trainer.remove_callback(PrinterCallback)
    for parameter in trainer.model.parameters():
        # TRL makes adapters over a 4-bit base bfloat16: small updates get lost in it, and float16 cards refuse it.
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


def most_accurate(history: list[dict[str, float]], dev_tokens: int) -> int:
    """Return the last step whose dev accuracy is within one standard error of the highest.

    Args:
        history: the log's records; those of an evaluation have ``dev_accuracy``, the share of right answer tokens.
        dev_tokens: how many tokens that share is of.
    """
    evaluated = [(record["dev_accuracy"], int(record["step"])) for record in history if "dev_accuracy" in record]
    highest = max(accuracy for accuracy, _ in evaluated)
    error = math.sqrt(highest * (1 - highest) / dev_tokens)
    return max(step for accuracy, step in evaluated if accuracy >= highest - error)


def _evaluated(history: list[dict[str, float]]) -> list[int]:
    return [int(record["step"]) for record in history if "dev_accuracy" in record]


def _keeps_lowest_loss(plan: Plan, has_dev: bool) -> bool:
    return plan.recipe.keep == "best" and plan.recipe.best_by == "loss" and has_dev


def _arguments(plan: Plan, rows: int, has_dev: bool) -> Any:
    from trl import SFTConfig

    recipe, on_gpu = plan.recipe, plan.placement.device == "cuda"
    keep_best = _keeps_lowest_loss(plan, has_dev)
    keep_all = recipe.keep == "best" and not keep_best  # which one is best is known at the end
    steps, eval_steps = recipe.steps(rows), recipe.eval_steps(rows)
    arguments = SFTConfig(
        output_dir=str(plan.run),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        gradient_checkpointing=recipe.gradient_checkpointing,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=int(steps * recipe.warmup),
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        max_length=None,  # what is too long was left out before: nothing is cut
        bf16=on_gpu and plan.placement.dtype == "bfloat16",
        fp16=on_gpu and plan.placement.dtype == "float16",
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        eval_strategy="steps" if has_dev else "no",
        eval_steps=eval_steps,
        save_strategy="steps",
        save_steps=eval_steps,
        save_total_limit=None if keep_all else 2,
        load_best_model_at_end=keep_best,
        metric_for_best_model="eval_loss" if keep_best else None,
        greater_is_better=False if keep_best else None,
        restore_callback_states_from_checkpoint=True,
        logging_steps=min(eval_steps, max(1, steps // 200)),
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # the model is on one device, however many there are
    return arguments


def _run(trainer: Any, resume: Path | None) -> None:
    import torch

    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except torch.OutOfMemoryError as error:
        raise NotReady(
            "The GPU's memory does not suffice for this training. Lower batch_size (and raise gradient_accumulation)"
            " in the recipe, or raise ASKTWICE_GPU_MEMORY_SHARE."
        ) from error


def _data_record(plan: Plan, examples: Examples) -> DataRecord:
    return DataRecord(
        file=plan.table.name,
        sha256=plan.table.sha256,
        rows=len(plan.table.rows),
        train_rows=sorted({example.row for example in examples.train}),
        dev_rows=[example.row for example in examples.dev],
        too_long_rows=examples.too_long,
    )
