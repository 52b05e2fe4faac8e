"""How fast and how frugal our training is beside what one would otherwise write, on the same weights, in one run.

The opponent of :func:`run` is everyone's notebook: every row padded to the maximum length, two rows at a time, eight
such batches a step. Both sides are TRL's ``SFTTrainer`` with the same adapter to begin with, the same optimizer, the
same rows in the same order and as many of them in a step; they take turns, round after round, each training in a
process of its own, so that what else the machine does hits both alike and nobody's memory is counted twice. Medians
are told.

Both are credited with the same tokens: those of the rows, prompt and answer, without padding. Of the system prompt,
which every row begins with, ours computes one copy a batch; that, and no padding, is the gain. It grows with the length
of that prompt, and of ``max_length``, and shrinks as questions and answers grow.

:func:`classic` is the table of a published notebook again: full fine-tuning, LoRA and QLoRA, four epochs each, with
nothing that stops them and with what we do.
"""

import csv
import ctypes
import json
import logging
import re
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

import torch

from contracts.errors import InternalError, InvalidInput, NotReady
from trainer.data import NO_LOSS, Example, Examples, make_examples
from trainer.model import choose_placement, identify, load_model, load_tokenizer
from trainer.plan import make_plan
from trainer.quiet import quiet
from trainer.recipe import Recipe, read_recipe
from trainer.settings import TrainerSettings, trainer_settings
from trainer.train import make_trainer, train

log = logging.getLogger("asktwice")

SHAPES: dict[str, dict[str, int]] = {
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
                     "num_key_value_heads": 2, "vocab_size": 151_936},
    "qwen2.5-1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
                     "num_key_value_heads": 2, "vocab_size": 151_936},
}  # fmt: skip
"""The configurations of Qwen2.5 (Yang et al. 2024, arXiv:2412.15115, table 1)."""
ROWS_PER_STEP = 16
BATCHES = {"ours": (8, 2), "classic": (2, 8)}
"""Rows in a batch, and batches in a step."""
NOTEBOOK_BASE = "Qwen/Qwen3-0.6B"
NOTEBOOK_ROWS = {"train": 679, "dev": 145, "test": 146}
CPU_ROWS = 300
"""With the bundled model on two cores: some minutes."""
PUBLISHED: dict[str, Any] = {
    "model": NOTEBOOK_BASE,
    "card": "16 GB",
    "rows": NOTEBOOK_ROWS,
    "epochs": 4,
    "full": {"minutes": 28.1, "peak_mb": 9662},
    "lora": {"minutes": 26.3},
    "qlora": {"minutes": 40.4, "peak_mb": 4469, "lowest_dev_loss": 1.95, "final_dev_loss": 2.51},
}
"""What the notebook's author printed. Another model, card and data than a run here: to be read beside it, not against
it. What was not printed is not here."""
METHODS: tuple[Literal["full", "lora", "qlora"], ...] = ("full", "lora", "qlora")
Report = Callable[[int, int, str], None]
Told = Callable[[float], None]
"""Called with the share of a work that is done, 0 to 1."""
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Run:
    """One side's training: its recipe, and whether rows are padded to the recipe's maximum length."""

    base: str
    data: Path
    home: Path
    recipe: Recipe
    padded: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What one training gave. ``rows`` are the numbers of the table's rows in the order they were trained in.

    ``peak_bytes`` is the most memory that the steps held above what was held before the first one (weights and
    adapter); None where the system does not tell. Losses in nats per answer token of the dev rows.
    """

    tokens_per_s: float
    peak_bytes: int | None
    eval_loss_before: float
    eval_loss: float
    rows: list[int]


def run(
    base: str,
    *,
    data: Path,
    shape: str | None = None,
    steps: int = 8,
    rounds: int = 3,
    max_length: int = 512,
    seed: int = 1,
    report: Report,
) -> dict[str, Any]:
    """Train by both ways in turn; return the figures that ``asktwice bench trainer`` prints.

    Time is taken from the end of the first step to the end of the last: what is set up once counts for neither. The
    dev loss is computed alike for both, row by row.

    Args:
        base: model to train; with ``shape`` its tokenizer alone is used.
        data: table with the columns question and answer.
        shape: one of ``SHAPES``: random weights of that shape, to measure speed and memory.
        steps: optimizer steps, of ``ROWS_PER_STEP`` rows each; at least 2, at most an epoch.
        max_length: tokens of a row at most, and what the opponent pads to.
        report: told how many hundredths of the trainings are done.

    Raises:
        InvalidInput: the data has too few rows for so many steps, or base or shape are not there.
        NotReady: the memory does not suffice.
    """
    if shape is not None and shape not in SHAPES:
        raise InvalidInput(f"There is no shape {shape}. Choose one of {', '.join(SHAPES)}.")
    measured: dict[str, list[Measured]] = {side: [] for side in BATCHES}
    with TemporaryDirectory() as folder:
        if shape:
            report(0, 1, "building the model")
            tokenizer, base = base, str(Path(folder) / shape)
            in_new_process(_write_random, (shape, tokenizer, base), _ignore)
        for turn in range(rounds):
            for place, side in enumerate(BATCHES):
                recipe = _recipe(side, steps, max_length, seed)
                job = Run(base, data, Path(folder) / side, recipe, padded=side == "classic")
                told = _part(report, len(BATCHES) * turn + place, len(BATCHES) * rounds, side)
                measured[side].append(in_new_process(measure, job, told))
    ours, theirs = measured["ours"], measured["classic"]
    if any(each.rows != ours[0].rows for each in ours + theirs):
        raise InternalError("The two ways were given different rows: their figures cannot be compared.")
    loss, their_loss = (statistics.median(each.eval_loss for each in side) for side in (ours, theirs))
    return {
        "tokens_per_s_ratio": round(_ratio([m.tokens_per_s for m in ours], [m.tokens_per_s for m in theirs]), 3),
        "peak_memory_ratio": _memory_ratio(ours, theirs),
        "eval_loss_delta": round((loss - their_loss) / their_loss, 6) + 0.0,  # never -0.0
        "eval_loss_before": round(ours[0].eval_loss_before, 4),
        **{side: _absolute(side, measured[side]) for side in BATCHES},
        "shape": shape or Path(base).name,
        "device": _device(),
        "rows": len(ours[0].rows),
        "max_length": max_length,
        "steps": steps,
        "rounds": rounds,
        "seed": seed,
        "threads": torch.get_num_threads(),
    }


def measure(job: Run, told: Told) -> Measured:
    """Train once and measure.

    Raises:
        InvalidInput: an epoch of the data has fewer steps.
    """
    with quiet():
        trainer, examples = prepare(job)
        steps = int(trainer.args.max_steps)
        if not examples.dev or steps * ROWS_PER_STEP > len(examples.train):
            raise InvalidInput(
                f"{job.data.name} gives {len(examples.train)} rows to train on and {len(examples.dev)} for the dev"
                f" loss; {steps} steps need {steps * ROWS_PER_STEP}. Take fewer steps or a longer table."
            )
        rows = _Rows(trainer.data_collator)
        trainer.data_collator = rows
        clock = _clock(told)
        trainer.add_callback(clock)
        before = dev_loss(trainer.model, examples.dev)
        trainer.train()
        by_ids = {tuple(example.prompt + example.answer): example for example in examples.train}
        seen = [by_ids[ids] for ids in rows.seen[: steps * ROWS_PER_STEP]]  # a loader reads a batch ahead
        return Measured(
            tokens_per_s=sum(map(len, seen[ROWS_PER_STEP:])) / (clock.ended - clock.begun),
            peak_bytes=clock.peak,
            eval_loss_before=before,
            eval_loss=dev_loss(trainer.model, examples.dev),
            rows=[example.row for example in seen],
        )


def prepare(job: Run) -> tuple[Any, Examples]:
    """Return TRL's trainer as the job wants it, and its rows."""
    plan = make_plan(_settings(job))
    tokenizer = load_tokenizer(job.base)
    examples = make_examples(plan.asked, tokenizer, plan.settings.system_prompt, job.recipe)
    trainer = make_trainer(plan, load_model(job.base, job.recipe, plan.placement), tokenizer, examples, None)
    if job.padded:
        trainer.data_collator.pad_to_multiple_of = job.recipe.max_length  # no row is longer
    return trainer, examples


@torch.no_grad()
def dev_loss(model: Any, examples: Sequence[Example]) -> float:
    """Return the mean loss of the answers' tokens in nats; each row alone, so that no batch makes a difference."""
    was_training, total = model.training, 0.0
    model.eval()
    for example in examples:
        ids = torch.tensor([example.prompt + example.answer], device=model.device)
        labels = torch.tensor([[NO_LOSS] * len(example.prompt) + example.answer], device=model.device)
        total += float(model(input_ids=ids, labels=labels).loss) * len(example.answer)
    model.train(was_training)
    return total / sum(len(example.answer) for example in examples)


def classic(
    base: str | None, *, bundled: str, rows: int | None = None, seed: int = 1, report: Report
) -> dict[str, Any]:
    """Train full, by LoRA and by QLoRA, as the notebook does and as we do; return the table.

    The notebook's way: four epochs, nothing stops them, the last step is kept, two rows at a time. Ours: the step of
    the lowest dev loss is kept, training ends once it has not fallen for the recipe's ``patience``, and rows share
    their prompt's beginning. Learning rate, adapter and rows are the same for both.

    The notebook's rows are not public. Rows of that kind are drawn from :mod:`trainer.pretrain.corpus`: questions with
    a context and an answer that only the context tells, which is not shown; so what is learnt by heart helps no dev
    row, and the dev loss rises as theirs did.

    Args:
        base: model to train; None: the notebook's on a GPU, where it can be had, else ``bundled``.
        bundled: the model for a CPU; its recipes are the demo's, whose steps are larger.
        rows: how many; None: the notebook's, on a CPU ``CPU_ROWS``.
        report: told how many hundredths of the trainings are done.

    Raises:
        InvalidInput: there is no such base.
        NotReady: the memory does not suffice.
    """
    base = base or _notebook_base() or bundled
    rows = rows or (CPU_ROWS if _device() == "cpu" else sum(NOTEBOOK_ROWS.values()))
    runs: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        data = Path(folder) / "rows.csv"
        write_rows(data, rows, seed)
        jobs = [(method, way) for method in METHODS for way in ("notebook", "ours")]
        for place, (method, way) in enumerate(jobs):
            recipe = _classic_recipe(method, way, demo=base == bundled)
            job = Run(base, data, Path(folder) / f"{method}-{way}", recipe, padded=False)
            result = in_new_process(train_whole, job, _part(report, place, len(jobs), f"{method}, {way}"))
            runs.append({"method": method, "way": way, **result})
    return {
        "published": PUBLISHED,
        "model": Path(base).name if Path(base).is_dir() else base,
        "device": _device(),
        "scaled_down": base == bundled or _device() == "cpu" or rows != sum(NOTEBOOK_ROWS.values()),
        "data": f"{rows} rows drawn by trainer.pretrain.corpus with seed {seed}",
        "epochs": PUBLISHED["epochs"],
        "runs": runs,
        "threads": torch.get_num_threads(),
    }


def train_whole(job: Run, told: Told) -> dict[str, Any]:
    """Train and publish into the job's home; return minutes of the training, memory, and the dev losses by epoch.

    ``peak_bytes`` counts the model as well: on a GPU all that torch held, on a CPU all that the process held beyond the
    libraries.

    Raises:
        InternalError: our way did not end at its lowest dev loss.
    """
    with quiet():
        for library in ("bitsandbytes", "peft", "trl.trainer.sft_trainer"):  # what they hold is not the training's
            import_module(library)
    memory, peak = Memory(), None

    def report(moment: Any) -> None:
        nonlocal peak
        peak = memory.peak()
        told(moment.step / moment.steps)

    result = train(_settings(job), report)
    lines = (result.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    dev = [record for record in map(json.loads, lines) if "dev_loss" in record]
    lowest, kept = min(record["dev_loss"] for record in dev), result.manifest.losses.dev
    if job.recipe.keep == "best" and kept != lowest:
        raise InternalError(f"The training published a dev loss of {kept}, and its lowest was {lowest}.")
    data = result.manifest.data
    return {
        "minutes": round(result.manifest.seconds["train"] / 60, 2),
        "peak_bytes": peak,
        "epochs": round(dev[-1]["epoch"], 2),
        "dev_losses": [[round(record["epoch"], 2), round(record["dev_loss"], 4)] for record in dev],
        "best_dev_loss": lowest,
        "final_dev_loss": kept,
        "rows": {"train": len(data.train_rows), "dev": len(data.dev_rows), "test": len(data.test_rows)},
    }


def table(figures: dict[str, Any]) -> str:
    """Return what :func:`classic` found, for reading, with the published figures below."""
    lines = [
        f"{figures['model']} on {figures['device']}, {figures['data']}"
        + (", SCALED DOWN: not the notebook's model, card or number of rows" if figures["scaled_down"] else ""),
        f"{'':<16}{'minutes':>9}{'peak, MB':>10}{'epochs':>8}{'lowest dev':>12}{'kept dev':>10}   dev loss by epoch",
    ]
    for each in figures["runs"]:
        by_epoch = " ".join(f"{epoch:g}: {loss:.3f}" for epoch, loss in each["dev_losses"])
        lines.append(
            f"{each['method'] + ', ' + each['way']:<16}{each['minutes']:>9.2f}{_megabytes(each['peak_bytes']):>10}"
            f"{each['epochs']:>8g}{each['best_dev_loss']:>12.3f}{each['final_dev_loss']:>10.3f}   {by_epoch}"
        )
    published = figures["published"]
    split = "/".join(map(str, published["rows"].values()))
    lines.append(f"Published by the notebook ({published['model']}, a card of {published['card']}, {split} rows):")
    for method in METHODS:
        told = published[method]
        loss = f"{told['lowest_dev_loss']:>20.3f}{told['final_dev_loss']:>10.3f}" if "final_dev_loss" in told else ""
        lines.append(f"{method:<16}{told['minutes']:>9.2f}{told.get('peak_mb', ''):>10}{loss}".rstrip())
    return "\n".join(lines)


def write_rows(path: Path, rows: int, seed: int) -> None:
    """Write that many different rows, question, answer and context, as a CSV."""
    from trainer.pretrain.corpus import Corpus

    corpus, drawn = Corpus(seed), dict[tuple[str, str, str], None]()
    while len(drawn) < rows:
        example = corpus.question(1)
        drawn[example.question, example.answer, example.passages[0]] = None
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("question", "answer", "context"))
        writer.writerows(drawn)


class Memory:
    """The most memory that was held since this was made, above what was held then."""

    def __init__(self) -> None:
        self._on_gpu = torch.cuda.is_available()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self._held: int | None = torch.cuda.memory_allocated()
            return
        with suppress(AttributeError, OSError):  # what was freed before is not to hide what is taken now
            ctypes.CDLL(None).malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
            self._held = _of_process("VmRSS")
        except OSError:
            self._held = None

    def peak(self) -> int | None:
        """Return bytes; None where the system does not tell."""
        highest = torch.cuda.max_memory_allocated() if self._on_gpu else _of_process("VmHWM")
        return None if self._held is None or highest is None else highest - self._held


def _of_process(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


class _Rows:
    """A collator that remembers which rows it was given."""

    def __init__(self, collate: Callable[[Sequence[dict[str, list[int]]]], Any]):
        self._collate = collate
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> Any:
        self.seen += [tuple(row["input_ids"]) for row in rows]
        return self._collate(rows)


def _clock(told: Told) -> Any:
    """Return a callback that takes the time of all steps but the first, and the memory of all."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        begun = ended = 0.0
        peak: int | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._memory = Memory()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (1, state.max_steps) and torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ended = time.perf_counter()
            if state.global_step == 1:
                self.begun = self.ended
            self.peak = self._memory.peak()
            told(state.global_step / state.max_steps)

    return Clock()


def in_new_process(work: Callable[[Job, Told], Result], job: Job, told: Told) -> Result:
    """Return ``work(job, told)``, called in a process of its own; all memory that it took is given back.

    Raises:
        NotReady: the process was killed.
        Exception: what the work raises.
    """
    context = get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, job, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        while isinstance(said := mine.recv(), float):
            told(said)
    except EOFError as error:
        process.join()
        raise NotReady(
            f"A training died (exit code {process.exitcode}): most often the memory does not suffice. Take a smaller"
            " model, or end what else runs."
        ) from error
    finally:
        process.terminate()
        process.join()
    if isinstance(said, Exception):
        raise said
    result: Result = said
    return result


def _work(work: Callable[[Job, Told], Result], job: Job, pipe: Connection) -> None:
    try:
        pipe.send(work(job, pipe.send))
    except Exception as error:
        pipe.send(error)


def _write_random(job: tuple[str, str, str], told: Told) -> None:
    """Write a model of a shape with random weights, and a tokenizer beside it."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    shape, tokenizer, folder = job
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=4096)
    config.dtype = torch.bfloat16
    with torch.device(_device()):
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def _recipe(side: str, steps: int, max_length: int, seed: int) -> Recipe:
    batch, accumulation = BATCHES[side]
    return Recipe(
        method="qlora",
        dropout=0.0,  # drawn by the shape of a batch, it would be the one difference of the two
        epochs=1,
        max_steps=steps,
        batch_size=batch,
        gradient_accumulation=accumulation,
        shared_prefix=side == "ours",
        max_length=max_length,
        evals_per_epoch=1e-3,  # none on the way
        keep="last",
        seed=seed,
    )


def _classic_recipe(method: Literal["full", "lora", "qlora"], way: str, demo: bool) -> Recipe:
    known = {"qlora": "demo"}.get(method, f"demo_{method}") if demo else method
    rows = sum(NOTEBOOK_ROWS.values())
    alike = {
        "epochs": PUBLISHED["epochs"],
        "max_steps": None,
        "dev_fraction": NOTEBOOK_ROWS["dev"] / rows,
        "test_fraction": NOTEBOOK_ROWS["test"] / rows,
        "best_by": "loss",
    }
    ways: dict[str, dict[str, Any]] = {
        "notebook": {"shared_prefix": False, "optimizer": "adamw", "keep": "last", "evals_per_epoch": 1},
        "ours": {"keep": "best", "evals_per_epoch": 2},
    }
    batch, accumulation = BATCHES["ours" if way == "ours" else "classic"]
    sizes = {"batch_size": batch, "gradient_accumulation": accumulation}
    return read_recipe(known).model_copy(update=alike | ways[way] | sizes)


def _settings(job: Run) -> TrainerSettings:
    job.home.mkdir(exist_ok=True)
    recipe = job.home / "recipe.json"
    recipe.write_text(job.recipe.model_dump_json(), encoding="utf-8")
    return trainer_settings(
        data=job.data, name="bench", base=job.base, recipe=str(recipe), home=job.home, report_to="none"
    )


def _notebook_base() -> str | None:
    if not torch.cuda.is_available():
        return None
    recipe = read_recipe("qlora")
    try:
        identify(NOTEBOOK_BASE, recipe, choose_placement("auto", recipe).dtype)
    except InvalidInput as error:
        log.warning("%s The bundled model stands in for it; give a folder as --base.", error.detail)
        return None
    return NOTEBOOK_BASE


def _part(report: Report, place: int, parts: int, name: str) -> Told:
    return lambda share: report(100 * place + round(100 * share), 100 * parts, name)


def _ignore(share: float) -> None:
    pass


def _ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median over the rounds: both ran in the same minutes of each."""
    return statistics.median(o / u for o, u in zip(over, under, strict=True))


def _memory_ratio(ours: Sequence[Measured], theirs: Sequence[Measured]) -> float | None:
    over = [each.peak_bytes for each in ours if each.peak_bytes]
    under = [each.peak_bytes for each in theirs if each.peak_bytes]
    return round(_ratio(over, under), 3) if len(over) == len(under) == len(ours) else None


def _absolute(side: str, measured: Sequence[Measured]) -> dict[str, Any]:
    peaks = [each.peak_bytes for each in measured if each.peak_bytes is not None]
    batch, accumulation = BATCHES[side]
    return {
        "tokens_per_s": round(statistics.median(each.tokens_per_s for each in measured), 1),
        "peak_bytes": round(statistics.median(peaks)) if peaks else None,
        "eval_loss": round(statistics.median(each.eval_loss for each in measured), 6),
        "batch_size": batch,
        "gradient_accumulation": accumulation,
    }


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:,.0f}"


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
