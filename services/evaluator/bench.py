"""How fast the evaluator is beside what people write without it: ``asktwice bench evaluator``."""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contracts.table import parse_table, read_bytes
from services.evaluator.bertscore import BertScore, Encoder, bertscore, classic_f1, load_encoder, random_encoder

Report = Callable[[int, int, str], None]

MODES = ("base", "rag", "ft", "rag_ft")
QUESTIONS = 24
ROUNDS = 3
RANDOM_LAYERS = 6
SAME = 1e-5
"""How far scores may be from those of ``bert_score.score``."""


def evaluator(
    data: Path,
    encoder: str | None = None,
    layer: int | None = None,
    questions: int = QUESTIONS,
    rounds: int = ROUNDS,
    report: Report = lambda done, total, note: None,
) -> dict[str, Any]:
    """Measure BERTScore of four modes beside ``bert_score.score`` called for each item, and once for each mode.

    All get the same texts and the same encoder in one run, by turns, and load the encoder as they do: ours once, the
    package's function at each call. The answers are the references with some words left out and others repeated, so
    that they are of their length.

    Args:
        data: a CSV with the column ``answer``.
        encoder: hub id or folder. Default: a BERT with random weights; see ``random_encoder``.
        layer: of the encoder; see :func:`services.evaluator.bertscore.load_encoder`.
        questions: how many, so that four times as many answers are scored in a round.
        rounds: the median is told.
        report: told how many of the steps are done, of how many, and which is under way.

    Returns:
        ``bertscore_vs_per_item`` and ``bertscore_vs_per_mode``: the package's seconds over ours;
        ``bertscore_difference``: the largest difference of a score; ``answers``: how many a round scores.

    Raises:
        InvalidInput: the file cannot be read, or the layer is not known.
        Unavailable: the encoder cannot be loaded.
        RuntimeError: a score is not that of ``bert_score.score``.
    """
    rows = parse_table(read_bytes(data), data.name, ("answer",)).rows
    texts = list(dict.fromkeys(row.answer for row in rows))
    references = random.Random(1).sample(texts, min(questions, len(texts)))
    answers = {mode: [_varied(text, seed) for text in references] for seed, mode in enumerate(MODES, 1)}
    took: dict[str, list[float]] = {"ours": [], "per mode": [], "per item": []}
    difference = 0.0
    with tempfile.TemporaryDirectory(prefix="asktwice-bench-") as folder:
        if encoder is None:
            encoder, layer = random_encoder(Path(folder) / "encoder", texts, layers=RANDOM_LAYERS), RANDOM_LAYERS
        loaded = load_encoder(encoder, layer)  # the first reading of the file is slower than all others
        for number in range(rounds):
            found: dict[str, dict[str, list[float]]] = {}
            for step, (way, run) in enumerate((("ours", _ours), ("per mode", _per_mode), ("per item", _per_item))):
                report(3 * number + step, 3 * rounds, way)
                begun = time.perf_counter()
                found[way] = run(loaded, references, answers)
                took[way].append(time.perf_counter() - begun)
            difference = max(difference, *(_difference(found["ours"], found[way]) for way in ("per mode", "per item")))
    report(3 * rounds, 3 * rounds, "")
    if difference > SAME:
        raise RuntimeError(f"a score differs from bert_score.score by {difference}")
    return {
        "bertscore_vs_per_item": _ratio(took["per item"], took["ours"]),
        "bertscore_vs_per_mode": _ratio(took["per mode"], took["ours"]),
        "bertscore_difference": difference,
        "answers": len(MODES) * len(references),
    }


def _ours(encoder: Encoder, references: Sequence[str], answers: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    loaded = load_encoder(encoder.name, encoder.layer, encoder.device)
    found = bertscore(loaded, references, answers)
    return {mode: [_f1(score) for score in scores] for mode, scores in found.items()}


def _per_mode(
    encoder: Encoder, references: Sequence[str], answers: Mapping[str, Sequence[str]]
) -> dict[str, list[float]]:
    return {mode: classic_f1(encoder, given, references) for mode, given in answers.items()}


def _per_item(
    encoder: Encoder, references: Sequence[str], answers: Mapping[str, Sequence[str]]
) -> dict[str, list[float]]:
    return {
        mode: [
            classic_f1(encoder, [answer], [reference])[0] for answer, reference in zip(given, references, strict=True)
        ]
        for mode, given in answers.items()
    }


def _varied(text: str, seed: int) -> str:
    """Return a text of about the same length in which every ``seed + 2``-nd word is another one of it."""
    parts = text.split()
    return " ".join(parts[-1 - place] if place % (seed + 2) == 0 else part for place, part in enumerate(parts))


def _f1(score: BertScore | None) -> float:
    if score is None:
        raise RuntimeError("an answer of the bench was not scored")
    return score.f1


def _difference(one: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]) -> float:
    return max(abs(a - b) for mode in one for a, b in zip(one[mode], other[mode], strict=True))


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Return the median of the rounds' ratios: both sides of a round had the same machine."""
    return round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 2)
