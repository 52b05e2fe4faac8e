"""``asktwice bench``: progress on stderr, the figures on stdout."""

import json
import logging
from pathlib import Path
from typing import Any

from asktwice import console
from asktwice.profiles import BUNDLED_MODEL
from contracts.errors import InvalidInput


def bench_generator(
    shape: str,
    clients: int | None,
    rounds: int,
    requests: int | None,
    new_tokens: int,
    seed: int,
    as_json: bool,
) -> None:
    """Measure the generator and print its figures.

    Raises:
        InvalidInput: there is no such shape.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises to install a package that loads code
    import torch

    from services.generator.bench import SHAPES, run

    if shape not in SHAPES:
        raise InvalidInput(f"--shape: there is no {shape}. Choose one of {', '.join(SHAPES)}.")
    clients = clients or (32 if torch.cuda.is_available() else 8)
    with console.step(f"{shape}: {rounds} rounds, {clients} clients") as advance:
        figures = run(
            shape,
            clients=clients,
            rounds=rounds,
            new_tokens=new_tokens,
            requests=requests or 3 * clients,
            seed=seed,
            report=advance,
        )
    _print(figures, as_json)


def bench_trainer(
    data: Path, base: str | None, shape: str | None, steps: int, rounds: int, max_length: int, seed: int, as_json: bool
) -> None:
    """Measure the training beside the classic settings and print the figures.

    Raises:
        InvalidInput: there is no such base or shape, or too few rows.
    """
    import torch

    from trainer.bench import run

    if shape is None and base is None and torch.cuda.is_available():
        shape = "qwen2.5-1.5b"
    base = base or str(BUNDLED_MODEL)
    with console.step(f"{shape or Path(base).name}: {rounds} rounds of {steps} steps, both ways") as advance:
        figures = run(
            base, data=data, shape=shape, steps=steps, rounds=rounds, max_length=max_length, seed=seed, report=advance
        )
    _print(figures, as_json)


def bench_classic(base: str | None, rows: int | None, seed: int, as_json: bool) -> None:
    """Run the published notebook's table again, scaled down where there is no GPU, and print it.

    Raises:
        InvalidInput: there is no such base.
    """
    from trainer.bench import classic, table

    with console.step("Full, LoRA and QLoRA, as the notebook does and as we do") as advance:
        figures = classic(base, bundled=str(BUNDLED_MODEL), rows=rows, seed=seed, report=advance)
    print(json.dumps(figures, ensure_ascii=False) if as_json else table(figures))


def bench_retriever(path: Path, embedding: str | None, reranker: str | None, as_json: bool) -> None:
    """Measure how often the right passage is found, and print it.

    Raises:
        InvalidInput: the file cannot be read, or is refused.
        Unavailable: a model cannot be had.
    """
    from services.retriever.bench import quality

    with console.step(f"Asking the questions of {path.name}") as advance:
        found = quality(path, embedding, reranker, advance)
    if as_json:
        print(json.dumps(found))
        return
    names = list(next(iter(found.values())))
    print(f"{'':<8}" + "".join(f"{name:>12}" for name in names))
    for kind, figures in found.items():
        print(f"{kind:<8}" + "".join(f"{figures[name]:>12.4f}" for name in names))


def bench_retriever_speed(data: Path, embedding: str | None, full: bool, as_json: bool) -> None:
    """Measure the retriever beside the classic loop and qdrant-client's local mode, and print it.

    Raises:
        InvalidInput: the file cannot be read, or is refused.
        Unavailable: the embedding model cannot be had.
    """
    from services.retriever.speed import speed

    with console.step(f"The retriever on {data.name}, beside the classic loop and local mode") as advance:
        found = speed(data, embedding, full, advance)
    _print(found, as_json)


def bench_verdict(runs: int, seed: int, as_json: bool) -> None:
    """Simulate worlds whose truth is known, and print how often the verdict is right about them."""
    from services.evaluator.verdict_bench import bench

    with console.step(f"Simulated worlds, {runs:,} runs each") as advance:
        figures = bench(runs, seed, advance)
    cells = figures.pop("cells")
    if not as_json:
        for name, cell in cells.items():
            named = f"{cell['named']:>9.4f}" if "named" in cell else " " * 9
            print(f"{name:<40}{cell['coverage']:>9.4f}{named}")
    _print(figures, as_json)


def bench_evaluator(data: Path, encoder: str | None, layer: int | None, rounds: int, as_json: bool) -> None:
    """Measure the evaluator beside the classic loops, and print it.

    Raises:
        InvalidInput: the file cannot be read, or the layer is not known.
        Unavailable: the encoder cannot be loaded.
    """
    from services.evaluator.bench import evaluator
    from services.evaluator.concurrency_bench import concurrency_ratio

    with console.step("Asking and grading at once, beside one after the other") as advance:
        ratio = concurrency_ratio(rounds, advance)
    with console.step("BERTScore of four modes, beside bert_score.score for each item and for each mode") as advance:
        found = evaluator(data, encoder, layer, rounds=rounds, report=advance)
    _print(ratio | found, as_json)


def bench_metrics(path: Path, seed: int, as_json: bool) -> None:
    """Grade answers whose grade is known, made from a file's rows, and print how often each kind is graded right.

    Raises:
        InvalidInput: the file cannot be read, or is refused.
    """
    from services.evaluator.planted import figures

    with console.step(f"Grading answers made from {path.name}") as advance:
        found = figures(path, seed, advance)
    if as_json:
        print(json.dumps(found))
        return
    halves = list(found)
    print(f"{'':<26}" + "".join(f"{half:>22}" for half in halves))
    for kind in found[halves[0]]:
        cells = [found[half].get(kind) for half in halves]
        shown = [f"{cell['as_it_should']:.3f} of {cell['answers']:>4}" if cell else "none" for cell in cells]
        print(f"{kind:<26}" + "".join(f"{cell:>22}" for cell in shown))


def _print(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<32} {value}")
