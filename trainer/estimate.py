"""What a training will take, before it: time, peak memory, cost, and whether it fits.

For the machine at hand a few real steps are run by the real trainer, in a process of its own and a folder that goes
away, and extrapolated to the whole. For cards that are not at hand the formulas of ``trainer.cards`` answer.
"""

import logging
import math
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from contracts.artifacts import Home
from contracts.dataset import read_dataset
from contracts.errors import InvalidInput
from trainer import cards, samples
from trainer.cards import CARDS, GIB, Card, Lengths, ModelShape, Workload
from trainer.collate import shared_length
from trainer.curve import draw_curve
from trainer.data import NO_LOSS, Example, Examples, encode, make_examples
from trainer.model import limit_gpu_memory, load_model, load_tokenizer
from trainer.plan import Plan, make_plan
from trainer.publish import log_records
from trainer.quiet import quiet
from trainer.recipe import Recipe, read_recipe
from trainer.settings import TrainerSettings, share_cores
from trainer.train import make_trainer

log = logging.getLogger("asktwice")

MEASURED_STEPS, MEASURED_SECONDS = 3, 8.0
"""At least so many steps are measured, and more of them until so many seconds are over."""
MOST_STEPS = 200
DEFAULT_CARD = "a100"
ROWS = (1_000, 10_000, 100_000)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured in a few steps; times in seconds.

    ``load``: from the start of the process to the first step. ``first``: the first step, which also allocates.
    ``a_token``: mean over the other steps, a token as the model sees it: where others use
    the machine a few steps take long, and the median would leave them out. ``a_dev_batch`` is None without dev rows.
    ``save``: one checkpoint. ``end``: from the last checkpoint to what is published.
    """

    load: float
    first: float
    a_token: float
    a_dev_batch: float | None
    save: float
    end: float
    steps: int
    peak_bytes: int

    def seconds(self, work: Workload) -> float:
        """Return the time of the whole training."""
        step = self.a_token * work.tokens / work.steps
        evaluated = work.evaluations * work.dev_batches * (self.a_dev_batch or 0)
        saved = max(work.evaluations, 1) * self.save
        return self.load + max(self.first, step) + (work.steps - 1) * step + evaluated + saved + self.end


@dataclass(frozen=True, slots=True)
class Estimate:
    """One training in one place.

    ``seconds`` is None where nothing could be measured or no recipe fits, ``cost`` also where no price was given.
    ``fits_with``: the fields in which the nearest recipe differs whose memory suffices; None where there is none, or
    the recipe itself fits. On a named card the time is that recipe's.
    """

    where: str
    measured: bool
    seconds: float | None
    peak_bytes: int
    memory_bytes: int
    fits: bool
    fits_with: str | None
    cost: float | None


@dataclass(frozen=True, slots=True)
class TableRow:
    """A model size and method on one card: memory, and time and cost by the number of rows."""

    model: str
    method: str
    peak_bytes: int
    fits: bool
    fits_with: str | None
    seconds: dict[int, float]
    cost: dict[int, float] | None


@dataclass(frozen=True, slots=True)
class Report:
    """All that ``--estimate`` prints."""

    base: str
    parameters: int
    method: str
    train_rows: int
    dev_rows: int
    tokens_a_row: float
    work: Workload
    may_stop_early: bool
    calibration: Calibration | None
    here: Estimate
    cards: list[Estimate]
    table_card: str
    table: list[TableRow]
    price_per_hour: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return asdict(self)


def estimate(
    settings: TrainerSettings,
    price_per_hour: float | None = None,
    card: str | None = None,
    say: Callable[[str], None] = log.info,
) -> Report:
    """Estimate a training without doing it; nothing is published and nothing stays.

    Args:
        price_per_hour: of the machine at hand, or of ``card`` where one is named, in any currency.
        card: a name of ``CARDS``: which card the table by rows and model sizes is for.
        say: told what goes on.

    Raises:
        InvalidInput: what a training raises, or the card is not known, or the price no price.
    """
    if price_per_hour is not None and not 0 <= price_per_hour < math.inf:
        raise InvalidInput("A price per hour is a number from 0.")
    if card is not None and card not in CARDS:
        raise InvalidInput(f"No card {card!r}: give one of {', '.join(CARDS)}.")
    with quiet():
        plan = _plan(settings)
        say(plan.table.summary())
        examples = _examples(plan)
        lengths = _lengths(examples)
        shape = _base_shape(plan)
        work = cards.workload(lengths, plan.recipe)
        calibration, here = _here(plan, shape, lengths, work, None if card else price_per_hour, say)
    return Report(
        base=plan.base.model,
        parameters=shape.total,
        method=plan.recipe.method,
        train_rows=len(examples.train),
        dev_rows=len(examples.dev),
        tokens_a_row=sum(lengths.train) / len(lengths.train),
        work=work,
        may_stop_early=bool(examples.dev) and plan.recipe.keep == "best" and plan.recipe.best_by == "loss",
        calibration=calibration,
        here=here,
        cards=[
            _on_card(one, shape, plan.recipe, lengths, price_per_hour if name == card else None)
            for name, one in CARDS.items()
        ],
        table_card=card or DEFAULT_CARD,
        table=_table(CARDS[card or DEFAULT_CARD], lengths, price_per_hour if card else None),
        price_per_hour=price_per_hour,
    )


def render(report: Report) -> str:
    """Return the report as text for a terminal: this machine, the cards, the table by rows and model sizes."""
    work, here = report.work, report.here
    spare = f" It would with {here.fits_with}." if here.fits_with else ""
    verdict = "It fits." if here.fits else f"It does not fit.{spare or ' Choose a smaller base.'}"
    lines = [
        f"Training {report.base} ({_count(report.parameters)} parameters) by {report.method}:"
        f" {report.train_rows:,} rows to train on, {report.dev_rows:,} to measure on,"
        f" {report.tokens_a_row:,.0f} tokens a row, {work.steps:,} steps.",
        "",
        f"This machine ({here.where}): {_time(here.seconds)}{_cost(here.cost)},"
        f" peak memory {_gib(here.peak_bytes)} of {_gib(here.memory_bytes)} GiB. {verdict}",
    ]
    if report.calibration:
        step = report.calibration.a_token * work.tokens / work.steps
        early = "; less if the dev loss ends it early" if report.may_stop_early else ""
        lines.append(f"  Measured: {report.calibration.steps} steps, {step:.2g} s each{early}.")
    else:
        lines.append("  Not measured, as its memory does not suffice; the memory is by formula.")
    lines += ["", "The same training on other cards, in 16 bit and by formula:"]
    lines += _columns(
        [("card", "time", "peak GiB", "fits")]
        + [
            (one.where, f"{_time(one.seconds)}{_cost(one.cost)}", _gib(one.peak_bytes), _fits(one.fits, one.fits_with))
            for one in report.cards
        ]
    )
    lines += ["", f"Rows like these on {CARDS[report.table_card].name}, by the recipes lora and qlora and by formula:"]
    lines += _columns(
        [("model", "method", *(f"{rows:,} rows" for rows in ROWS), "peak GiB", "fits")]
        + [
            (
                row.model,
                row.method,
                *(f"{_time(row.seconds.get(n))}{_cost(row.cost.get(n) if row.cost else None)}" for n in ROWS),
                _gib(row.peak_bytes),
                _fits(row.fits, row.fits_with),
            )
            for row in report.table
        ]
    )
    lines += [
        "",
        "Where a recipe fits only with changes, the time is with them. The formulas: each weight costs 2 operations a",
        "token and pass, at this part of a card's 16-bit peak:",
        *(
            f"  {card.name}: {card.utilization:.0%} of {card.tflops:g} TFLOPS ({card.checked})"
            for card in CARDS.values()
        ),
    ]
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _fits(fits: bool, fits_with: str | None) -> str:
    return "yes" if fits else f"with {fits_with}" if fits_with else "no"


def _count(number: int) -> str:
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"


def _gib(amount: int) -> str:
    return f"{amount / GIB:.1f}"


def _cost(cost: float | None) -> str:
    return "" if cost is None else f" (costs {cost:,.2f})"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _plan(settings: TrainerSettings) -> Plan:
    """Return the plan; the method ``raft`` gets passages as long as the index would give it, without an index."""

    @cache
    def contexts() -> list[str]:
        rows = read_dataset(settings.data, ("question", "answer", "context")).rows
        return sorted({row.context for row in rows})

    def some(question: str, number: int) -> list[str]:
        return random.Random(question).sample(contexts(), min(number, len(contexts())))

    return make_plan(settings, some)


def _examples(plan: Plan) -> Examples:
    recipe = plan.recipe
    return make_examples(plan.asked, load_tokenizer(plan.settings.base), plan.settings.system_prompt, recipe)


def _lengths(examples: Examples) -> Lengths:
    return Lengths(
        train=[len(example) for example in examples.train],
        answers=[len(example.answer) for example in examples.train],
        dev=[len(example) for example in examples.dev],
        prefix=shared_length([_row(example) for example in examples.train[:64]]),
    )


def _row(example: Example) -> dict[str, list[int]]:
    return {
        "input_ids": example.prompt + example.answer,
        "labels": [NO_LOSS] * len(example.prompt) + example.answer,
    }


def _base_shape(plan: Plan) -> ModelShape:
    from transformers import AutoConfig

    return cards.shape_of(AutoConfig.from_pretrained(plan.settings.base), plan.base.model)


def _here(
    plan: Plan,
    shape: ModelShape,
    lengths: Lengths,
    work: Workload,
    price: float | None,
    say: Callable[[str], None],
) -> tuple[Calibration | None, Estimate]:
    on_gpu = plan.placement.device == "cuda"
    where, limit = _machine(plan)
    format_: dict[str, Any] = {"number_bytes": 4 if plan.placement.dtype == "float32" else 2, "on_gpu": on_gpu}
    peak = cards.memory(shape, plan.recipe, work.largest, **format_)
    calibration = None
    if peak <= 1.2 * limit:  # else a few steps would take the machine down to learn what is known
        say(f"Measuring a few steps of the training on this machine ({where}).")
        calibration = calibrate(plan.settings)
    fits = calibration is not None and calibration.peak_bytes <= limit
    # What was measured is the truth; the formula then only tells how much less another recipe takes.
    room = limit * peak / calibration.peak_bytes if calibration else min(limit, 0.9 * peak)
    spare = None if fits else cards.what_fits(shape, plan.recipe, lengths, room, **format_)
    seconds = calibration.seconds(work) if calibration else None
    return calibration, Estimate(
        where=where,
        measured=calibration is not None,
        seconds=seconds,
        peak_bytes=calibration.peak_bytes if calibration else peak,
        memory_bytes=limit,
        fits=fits,
        fits_with=cards.changes(plan.recipe, spare) or None if spare else None,
        cost=None if price is None or seconds is None else price * seconds / 3600,
    )


def _machine(plan: Plan) -> tuple[str, int]:
    """Return what the training would run on, and the bytes of memory that it may take there."""
    import torch

    if plan.placement.device == "cuda":
        found = torch.cuda.get_device_properties(0)
        share = plan.settings.gpu_memory_share or 1.0
        free, _ = torch.cuda.mem_get_info(0)
        return found.name, min(int(found.total_memory * share), free + round(cards.CONTEXT_BYTES))  # ours, which goes
    return f"CPU, {torch.get_num_threads()} threads", _free_memory()


def _free_memory() -> int:
    """Return how many bytes a process may still take: what Linux says is available, else all there is."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _on_card(card: Card, shape: ModelShape, recipe: Recipe, lengths: Lengths, price: float | None) -> Estimate:
    limit, recipe = round(card.memory * GIB), recipe.model_copy(update={"compute_dtype": "auto"})
    asked = cards.memory(shape, recipe, cards.workload(lengths, recipe).largest)
    fitting = cards.what_fits(shape, recipe, lengths, limit)
    # Where the recipe does not fit, the time of the one that would is the useful one.
    seconds = cards.seconds(shape, fitting, cards.workload(lengths, fitting), card) if fitting else None
    return Estimate(
        where=card.name,
        measured=False,
        seconds=seconds,
        peak_bytes=asked,
        memory_bytes=limit,
        fits=asked <= limit,
        fits_with=cards.changes(recipe, fitting) or None if fitting else None,
        cost=None if price is None or seconds is None else price * seconds / 3600,
    )


def _table(card: Card, lengths: Lengths, price: float | None) -> list[TableRow]:
    rows = []
    for size in cards.PUBLISHED_SHAPES:
        shape = cards.published_shape(size)
        for method in ("lora", "qlora"):
            recipe = read_recipe(method)
            one = _on_card(card, shape, recipe, lengths, None)
            fitting = _same_method(shape, recipe, lengths, card)
            times = {}
            if fitting:
                times = {n: cards.seconds(shape, fitting, cards.workload(lengths, fitting, n), card) for n in ROWS}
            rows.append(
                TableRow(
                    model=f"{shape.name} ({shape.total / 1e9:.1f}B)",
                    method=method,
                    peak_bytes=one.peak_bytes,
                    fits=one.fits,
                    fits_with=cards.changes(recipe, fitting) or None if fitting else None,
                    seconds=times,
                    cost=None if price is None else {n: price * taken / 3600 for n, taken in times.items()},
                )
            )
    return rows


def _same_method(shape: ModelShape, recipe: Recipe, lengths: Lengths, card: Card) -> Recipe | None:
    fitting = cards.what_fits(shape, recipe, lengths, card.memory * GIB)
    return fitting if fitting and fitting.method == recipe.method else None


def calibrate(settings: TrainerSettings) -> Calibration | None:
    """Run a few real steps in a process of their own; None where the memory did not suffice for them."""
    share_cores()  # of the new process: as a training's own does
    training = Home(path=settings.home.resolve()).training  # the disk that checkpoints will be written to
    training.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="estimate-", dir=training))
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as alone:
            return alone.submit(_calibrate, settings, folder, time.time()).result()
    except BrokenProcessPool:  # the system ended it for its memory
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _calibrate(settings: TrainerSettings, folder: Path, begun: float) -> Calibration | None:
    import torch

    plan = _plan(settings)
    examples = _examples(plan)
    steps = min(plan.recipe.steps(len(examples.train)), MOST_STEPS)
    short = replace(plan, recipe=plan.recipe.model_copy(update={"max_steps": steps}), home=Home(path=folder.resolve()))
    some_dev = examples.dev[: 4 * plan.recipe.batch_size]
    limit_gpu_memory(settings.gpu_memory_share, plan.placement)
    try:
        with quiet():
            tokenizer = load_tokenizer(settings.base)
            model = load_model(settings.base, plan.recipe, plan.placement)
            shown = samples.choose(plan.asked, examples)
            prompts = [encode(each, tokenizer, settings.system_prompt).prompt for each in shown]
            samples.answer(model, tokenizer, prompts)
            trainer = make_trainer(short, model, tokenizer, replace(examples, dev=some_dev), None)
            return _measure(trainer, short, examples.train, begun, lambda: samples.answer(model, tokenizer, prompts))
    except torch.OutOfMemoryError:
        return None


def _measure(
    trainer: Any, plan: Plan, train: list[Example], begun: float, answer_again: Callable[[], Any]
) -> Calibration:
    from transformers import TrainerCallback

    size, accumulation = plan.recipe.batch_size, plan.recipe.gradient_accumulation
    collate, seen = trainer.data_collator, []

    def counting(rows: Any) -> Any:
        batch = collate(rows)
        seen.append(batch["input_ids"].numel())
        return batch

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes the time of each step, evaluates and saves after the last of them, and stops there."""

        def __init__(self) -> None:
            self.begun = self.evaluated = self.saved = 0.0
            self.steps: list[float] = []

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.time()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.steps.append(time.time())
            enough = len(self.steps) > MEASURED_STEPS and self.steps[-1] - self.steps[0] > MEASURED_SECONDS
            done = enough or state.global_step >= state.max_steps
            control.should_evaluate = done and trainer.eval_dataset is not None
            control.should_save = control.should_training_stop = done

        def on_evaluate(self, *_: Any, **__: Any) -> None:
            self.evaluated = time.time()

        def on_save(self, *_: Any, **__: Any) -> None:
            self.saved = time.time()

    clock = Clock()
    trainer.data_collator = counting
    trainer.add_callback(clock)
    trainer.train()
    answer_again()
    draw_curve(
        log_records(trainer.state.log_history), 1, "", plan.home.path / "loss.png"
    )  # most of what publishing takes
    ended = time.time()
    longest = sorted(range(len(train)), key=lambda number: len(train[number]))[-size:]
    batch = collate([trainer.train_dataset[number] for number in longest])
    trainer.training_step(trainer.model_wrapped, trainer._prepare_inputs(batch))  # for the memory alone
    tokens = [sum(seen[at : at + accumulation]) for at in range(0, len(seen), accumulation)]
    times = [after - before for before, after in zip([clock.begun, *clock.steps], clock.steps, strict=False)]
    others = slice(1 if len(times) > 1 else 0, None)
    dev_batches = math.ceil(len(trainer.eval_dataset) / size) if trainer.eval_dataset is not None else 0
    return Calibration(
        load=clock.begun - begun,
        first=times[0],
        a_token=sum(times[others]) / sum(tokens[: len(times)][others]),
        a_dev_batch=(clock.evaluated - clock.steps[-1]) / dev_batches if dev_batches else None,
        save=clock.saved - (clock.evaluated or clock.steps[-1]),
        end=ended - clock.saved,
        steps=len(times) - 1,
        peak_bytes=_peak_bytes(plan),
    )


def _peak_bytes(plan: Plan) -> int:
    """Return the most memory that this process has held: reserved on the GPU, else resident."""
    import torch

    if plan.placement.device == "cuda":
        return int(torch.cuda.max_memory_reserved()) + round(cards.CONTEXT_BYTES)
    try:  # the figure of getrusage is inherited from the process that started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
