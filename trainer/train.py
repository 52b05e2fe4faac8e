"""The training, from top to bottom: read, look whether it is done already, load, train, publish."""

import logging
import math
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from contracts.artifacts import AdapterManifest, DataRecord, read_manifest
from contracts.errors import InvalidInput, NotReady
from trainer import checkpoints, publish, ranks, samples
from trainer.collate import SharedPrefixCollator
from trainer.data import Examples, encode, make_examples, to_dataset
from trainer.model import choose_placement, limit_gpu_memory, load_model, load_tokenizer, lora_config
from trainer.plan import Plan, make_plan
from trainer.progress import Report
from trainer.quiet import quiet
from trainer.raft import Retrieve
from trainer.recipe import read_recipe
from trainer.settings import TrainerSettings

log = logging.getLogger("asktwice")

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """``skipped``: the same was there already and only became the newest again. ``read`` is the table's summary."""

    manifest: AdapterManifest
    folder: Path
    skipped: bool
    read: str


def train(
    settings: TrainerSettings, progress: Report | None = None, retrieve: Retrieve | None = None
) -> TrainingResult:
    """Train an adapter or a whole model and publish it, or find that it is published already.

    A training that was interrupted, however it was, goes on from its newest complete checkpoint. Under ``torchrun``
    every process calls this; the first one publishes, all return the same.

    Args:
        settings: what to train, on which base, how, and where to.
        progress: called after each step and each evaluation.
        retrieve: searches the index; the method ``raft`` needs it.

    Raises:
        InvalidInput: the file, the recipe or the base is wrong, or the training diverged.
        NotReady: another training runs in this home, or memory, disk or index do not suffice.
    """
    recipe = read_recipe(settings.recipe)
    ranks.check(recipe)
    ranks.join(choose_placement(settings.device, recipe).device)
    plan = ranks.told_by_first(lambda: make_plan(settings, retrieve))
    _optimizer(plan), _tracker(plan)  # what is missing is told before anything is loaded
    with ExitStack() as held:
        held.enter_context(quiet())
        log.info(plan.table.summary())
        there = ranks.told_by_first(lambda: _look(plan, held))
        if there:
            log.info("%s is published already for this data, base and recipe. It is the newest again.", there.id)
            folder = publish.place(plan) / there.id
            if ranks.is_first():
                publish.renew(folder)
        else:
            folder = _train_and_publish(plan, progress)
        if ranks.is_first():
            shutil.rmtree(plan.run, ignore_errors=True)
        ranks.wait_for_all()
        return TrainingResult(read_manifest(folder, AdapterManifest), folder, bool(there), plan.table.summary())


def _look(plan: Plan, held: ExitStack) -> AdapterManifest | None:
    """Keep other trainings out of this home, clean up after killed ones, and return what is published already."""
    held.enter_context(checkpoints.only_training(plan.home))
    publish.sweep(plan)
    return None if plan.settings.force else publish.find_published(plan)


def _train_and_publish(plan: Plan, progress: Report | None) -> Path:
    begun = time.perf_counter()
    recipe, base = plan.recipe, plan.settings.base
    tokenizer = load_tokenizer(base)
    examples = make_examples(plan.asked, tokenizer, plan.settings.system_prompt, recipe)
    if examples.too_long:
        numbers = ", ".join(map(str, examples.too_long[:20])) + (" ..." if len(examples.too_long) > 20 else "")
        log.warning("%d rows over %d tokens are left out: %s", len(examples.too_long), recipe.max_length, numbers)
    resume = ranks.told_by_first(lambda: _where_to_begin(plan))
    limit_gpu_memory(plan.settings.gpu_memory_share, plan.placement)
    model = load_model(base, recipe, plan.placement)
    shown = samples.choose(plan.asked, examples)
    prompts = [encode(each, tokenizer, plan.settings.system_prompt).prompt for each in shown]
    before = samples.answer(model, tokenizer, prompts)
    trainer = make_trainer(plan, model, tokenizer, examples, progress)
    checkpoints.check_room(plan.run, trainer.model, _kept(plan, trainer.args, bool(examples.dev)))
    loaded = time.perf_counter()
    _run(trainer, resume)
    trained = time.perf_counter()
    # The time of a resumed training is not known: it began in another process.
    seconds = {"load": loaded - begun} | ({} if resume else {"train": trained - loaded})
    history = publish.log_records(trainer.state.log_history)
    best = _best_step(plan, trainer.state, history, examples)
    folder = checkpoints.checkpoint(plan.run, best)
    publish.load_weights(trainer.model, folder)
    after = samples.answer(trainer.model, tokenizer, prompts)
    draft = AdapterManifest(
        id="",
        name=plan.settings.name,
        modes=[recipe.mode],
        base=plan.base,
        data=_data_record(plan, examples),
        recipe=plan.recipe_record,
        seed=recipe.seed,
        system_prompt_sha256=plan.system_prompt_sha256,
        losses=publish.loss_record(history, best, trainer.state.global_step, int(trainer.args.eval_steps)),
        samples=samples.compare(shown, examples, before, after),
        seconds={name: round(value, 1) for name, value in seconds.items()},
        versions=publish.library_versions(),
        files={},
        created=datetime.now(UTC),
        published=datetime.now(UTC),
    )
    return ranks.told_by_first(lambda: _publish(plan, trainer.model, folder, history, draft))


def _publish(plan: Plan, model: Any, folder: Path, history: list[dict[str, float]], draft: AdapterManifest) -> Path:
    try:
        return publish.publish(plan, folder, history, draft)
    except Exception as error:  # safetensors' own is no OSError
        checkpoints.explain_full_disk(plan.run, model, error)
        raise


def _where_to_begin(plan: Plan) -> Path | None:
    if plan.settings.force:
        shutil.rmtree(plan.run, ignore_errors=True)
    resume = checkpoints.newest_whole(plan.run)
    if resume:
        log.info("An interrupted training goes on from its %s.", resume.name)
    return resume


def _best_step(plan: Plan, state: Any, history: list[dict[str, float]], examples: Examples) -> int:
    """Return the step to publish, as the recipe wants it."""
    if plan.recipe.keep == "best" and plan.recipe.best_by == "accuracy" and examples.dev:
        whole = [step for step in _evaluated(history) if checkpoints.is_whole(checkpoints.checkpoint(plan.run, step))]
        kept = [record for record in history if int(record["step"]) in whole]
        return most_accurate(kept, sum(len(example.answer) for example in examples.dev))
    return int(state.best_global_step or state.global_step)


def make_trainer(plan: Plan, model: Any, tokenizer: Any, examples: Examples, progress: Report | None) -> Any:
    """Return TRL's trainer over the base, with a fresh adapter where the method makes one.

    Its checkpoints go to ``plan.run``.
    """
    from torch.utils.data import DataLoader
    from transformers import EarlyStoppingCallback, PrinterCallback

    from trainer.callbacks import Seal, TokenMeanTrainer, Watch

    recipe = plan.recipe
    rows = recipe.batch_size * recipe.gradient_accumulation
    blanks = ranks.blanks(len(examples.train), recipe.batch_size)
    tokens_per_step = rows * sum(map(len, examples.train)) / len(examples.train)
    stop = [EarlyStoppingCallback(recipe.patience)] if _keeps_lowest_loss(plan, bool(examples.dev)) else []
    trainer = TokenMeanTrainer(
        model=model,
        args=_arguments(plan, len(examples.train), bool(examples.dev)),
        train_dataset=to_dataset(examples.train, blanks),
        eval_dataset=to_dataset(examples.dev) if examples.dev else None,
        processing_class=tokenizer,
        peft_config=lora_config(recipe) if recipe.makes_adapter else None,
        callbacks=[
            Seal(_keeps_all(plan, bool(examples.dev))),
            Watch(progress if ranks.is_first() else None, tokens_per_step),
            *stop,
        ],
    )
    if ranks.world() > 1:
        sampler = ranks.as_one_draws(len(examples.train), blanks, lambda: int(trainer.state.epoch or 0))
        trainer._get_train_sampler = lambda _=None: sampler
    if ranks.world() > 1 and examples.dev:
        # Every process evaluates every row: rows that fill up a share would count twice.
        trainer.get_eval_dataloader = lambda _=None: DataLoader(
            trainer.eval_dataset, recipe.batch_size, collate_fn=trainer.data_collator
        )
    if recipe.shared_prefix and _attends_to_rows_alone(model, recipe.max_length):
        trainer.data_collator = SharedPrefixCollator(pad=trainer.data_collator)
    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if hasattr(callback, "logging_dir"):  # TensorBoard's would go with the checkpoints
            callback.logging_dir = str(plan.home.path / "tensorboard" / f"{plan.settings.name}-{plan.run.name}")
    for parameter in trainer.model.parameters():
        # TRL makes adapters over a 4-bit base bfloat16: small updates get lost in it, and float16 cards refuse it.
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


def _attends_to_rows_alone(model: Any, longest: int) -> bool:
    """Tell whether a mask and positions are all that rows of one sequence need to be strangers to each other.

    Not so where a state runs along the sequence (Mamba, linear attention), where positions cannot be given (ALiBi),
    where the attention takes no mask of ours (FlashAttention), or where it looks back no further than a window that a
    row of ``longest`` tokens outgrows: the mask would take the window's place.
    """
    config = model.config.get_text_config()
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return (
        not getattr(model, "_is_stateful", False)
        and set(getattr(config, "layer_types", None) or []) <= _ATTENTION
        and "position_ids" in signature(model.forward).parameters
        and config._attn_implementation in ("sdpa", "eager")
        and longest <= min(filter(None, windows), default=math.inf)
    )


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


def _keeps_all(plan: Plan, has_dev: bool) -> bool:
    """Which one is best by the accuracy is known at the end."""
    return plan.recipe.keep == "best" and plan.recipe.best_by == "accuracy" and has_dev


def _arguments(plan: Plan, rows: int, has_dev: bool) -> Any:
    from trl import SFTConfig

    recipe, on_gpu = plan.recipe, plan.placement.device == "cuda"
    keep_best = _keeps_lowest_loss(plan, has_dev)
    steps, eval_steps = recipe.steps(rows), recipe.eval_steps(rows)
    arguments = SFTConfig(
        output_dir=str(plan.run),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size // ranks.world(),
        per_device_eval_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        activation_checkpointing=recipe.gradient_checkpointing,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=int(steps * recipe.warmup),
        weight_decay=recipe.weight_decay,
        **_optimizer(plan),
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
        save_total_limit=None,  # ours to remove, see Seal
        load_best_model_at_end=keep_best,
        metric_for_best_model="eval_loss" if keep_best else None,
        greater_is_better=False if keep_best else None,
        restore_callback_states_from_checkpoint=True,
        logging_steps=min(eval_steps, max(1, steps // 200)),
        logging_nan_inf_filter=False,
        report_to=_tracker(plan),
        project="asktwice",
        run_name=plan.settings.name,
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # the model is on one device, however many there are
    return arguments


def _tracker(plan: Plan) -> str:
    """Return which tracker is told besides; only the first process tells it.

    Raises:
        InvalidInput: it is not installed.
    """
    name = plan.settings.report_to
    if name != "none" and find_spec(name) is None:
        raise InvalidInput(f"--report-to {name}: it is not installed here. Install it: .venv/bin/pip install {name}")
    return name


def _optimizer(plan: Plan) -> dict[str, str]:
    """Return the argument that names the optimizer; none is the library's AdamW."""
    wanted = plan.recipe.optimizer
    if wanted == "auto":
        wanted = "paged_adamw_8bit" if plan.recipe.method == "full" and plan.placement.device == "cuda" else "adamw"
    if wanted == "adamw":
        return {}
    if plan.placement.device == "cpu":
        raise InvalidInput(f"The optimizer {wanted} needs a GPU; leave the recipe's optimizer on auto.")
    return {"optim": wanted}


def _kept(plan: Plan, arguments: Any, has_dev: bool) -> int:
    """Return how many checkpoints are there at once: the two newest, their best, and the one being written."""
    return math.ceil(arguments.max_steps / arguments.save_steps) if _keeps_all(plan, has_dev) else 4


def _run(trainer: Any, resume: Path | None) -> None:
    import torch
    from transformers import TrainerState

    if resume and checkpoints.is_finished(resume):  # transformers would go on to the end of the epoch
        trainer.state = TrainerState.load_from_json(str(resume / "trainer_state.json"))
        return
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except torch.OutOfMemoryError as error:
        raise NotReady(
            "The GPU's memory does not suffice for this training. Lower batch_size (and raise gradient_accumulation)"
            " in the recipe, or raise ASKTWICE_GPU_MEMORY_SHARE."
        ) from error
    except Exception as error:  # torch's and safetensors' own of a full disk are no OSError
        checkpoints.explain_full_disk(Path(trainer.args.output_dir), trainer.model, error)
        raise


def _data_record(plan: Plan, examples: Examples) -> DataRecord:
    return DataRecord(
        file=plan.table.name,
        sha256=plan.table.sha256,
        rows=len(plan.table.rows),
        train_rows=sorted({example.row for example in examples.train}),
        dev_rows=[example.row for example in examples.dev],
        test_rows=examples.test,
        passages_sha256=plan.passages_sha256,
        too_long_rows=examples.too_long,
    )
