"""The bench is fair: both ways train the same rows in the same steps, and come to the same losses."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from asktwice.profiles import BUNDLED_MODEL, SAMPLE_DATA
from contracts.dataset import read_dataset
from contracts.errors import InternalError, InvalidInput, NotReady
from tests.trainer.conftest import questions_and_answers, write_csv
from trainer import bench
from trainer.bench import Memory, Run, in_new_process, measure, prepare
from trainer.data import NO_LOSS

ASKED_FOR = {"tokens_per_s_ratio", "peak_memory_ratio", "eval_loss_delta", "shape", "device", "rows", "max_length",
             "steps", "rounds", "ours", "classic"}  # fmt: skip
LONGEST = 384


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "qa.csv", questions_and_answers(60))


def job(side: str, base: Path, data: Path, steps: int = 2) -> Run:
    recipe = bench._recipe(side, steps, LONGEST, seed=1)
    return Run(str(base), data, data.parent / side, recipe, padded=side == "classic")


def here(work: Callable[[Any, Any], Any], job: Any, told: Any) -> Any:
    """No process of its own: seconds of imports saved."""
    return work(job, told)


def answer_tokens(batches: list[dict[str, torch.Tensor]]) -> list[int]:
    """All that carries a loss, in its order."""
    return torch.cat([batch["labels"][batch["labels"] != NO_LOSS] for batch in batches]).tolist()


def quietly(done: int, total: int, note: str) -> None:
    assert 0 <= done <= total


def test_the_figures_are_one_json_object_and_the_losses_agree(base: Path, data: Path) -> None:
    figures = bench.run(str(base), data=data, steps=2, rounds=1, max_length=LONGEST, report=quietly)
    assert json.loads(json.dumps(figures)) == figures
    assert figures.keys() >= ASKED_FOR
    assert abs(figures["eval_loss_delta"]) <= 0.01
    assert (figures["rows"], figures["steps"], figures["shape"]) == (32, 2, "tiny-random")
    for side in ("ours", "classic"):
        assert figures[side].keys() >= {"tokens_per_s", "peak_bytes", "eval_loss"}
        assert figures[side]["tokens_per_s"] > 0
        assert figures[side]["eval_loss"] < figures["eval_loss_before"], "nothing was learnt: nothing is compared"


def test_both_sides_train_the_same_rows_in_the_same_steps(base: Path, data: Path) -> None:
    ours_told: list[float] = []
    classic_told: list[float] = []
    ours = measure(job("ours", base, data, steps=3), ours_told.append)
    classic = measure(job("classic", base, data, steps=3), classic_told.append)
    assert ours.rows == classic.rows
    assert len(set(ours.rows)) == 48
    assert ours.rows != sorted(ours.rows)
    assert ours_told == classic_told == [1 / 3, 2 / 3, 1.0]
    assert ours.eval_loss_before == classic.eval_loss_before
    assert ours.eval_loss == pytest.approx(classic.eval_loss, rel=1e-3)


def test_other_rows_on_one_side_are_no_figures_but_an_error(
    base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_order(work: Callable[[Any, Any], Any], job: Run, told: Any) -> Any:
        measured = here(work, job, told)
        return replace(measured, rows=measured.rows[::-1]) if job.padded else measured

    monkeypatch.setattr(bench, "in_new_process", other_order)
    with pytest.raises(InternalError, match="different rows"):
        bench.run(str(base), data=data, steps=2, rounds=1, max_length=LONGEST, report=quietly)


def test_the_classic_batch_is_padded_to_the_maximum_and_ours_holds_the_prompt_once(base: Path, data: Path) -> None:
    classic, examples = prepare(job("classic", base, data))
    assert max(map(len, examples.train)) < LONGEST
    batches = list(classic.get_train_dataloader())
    assert {tuple(batch["input_ids"].shape) for batch in batches} == {(2, LONGEST)}
    own = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert own == sum(map(len, examples.train))
    assert classic.args.gradient_accumulation_steps == 8

    ours, _ = prepare(job("ours", base, data))
    together = list(ours.get_train_dataloader())
    assert answer_tokens(together) == answer_tokens(batches)
    assert {batch["input_ids"].shape[0] for batch in together} == {1}
    assert sum(batch["input_ids"].numel() for batch in together) < own


def test_more_steps_than_rows_are_refused_with_the_numbers(base: Path, data: Path) -> None:
    with pytest.raises(InvalidInput, match="4 steps need 64"):
        measure(job("ours", base, data, steps=4), lambda share: None)


def test_a_shape_that_is_not_known_is_an_error_that_names_those_that_are(base: Path, data: Path) -> None:
    with pytest.raises(InvalidInput, match=r"qwen2\.5-0\.5b, qwen2\.5-1\.5b"):
        bench.run(str(base), data=data, shape="gpt-5", report=quietly)


def test_a_shape_is_trained_with_random_weights_and_the_given_tokenizer(
    base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 1, "vocab_size": 1000}  # fmt: skip
    monkeypatch.setitem(bench.SHAPES, "small", small)
    monkeypatch.setattr(bench, "in_new_process", here)
    figures = bench.run(str(base), data=data, shape="small", steps=2, rounds=1, max_length=LONGEST, report=quietly)
    assert figures["shape"] == "small"
    assert abs(figures["eval_loss_delta"]) <= 0.01


@pytest.mark.skipif(torch.cuda.is_available() or Memory().peak() is None, reason="the system does not tell")
def test_memory_counts_what_was_taken_since_and_keeps_the_most() -> None:
    before = torch.ones(25_000_000)
    memory = Memory()
    assert memory.peak() < 50_000_000
    torch.ones(50_000_000).sum()  # freed at once
    assert 190_000_000 < memory.peak() < 260_000_000
    assert before.sum() == 25_000_000


def killed(job: Any, told: Any) -> None:
    told(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_training_that_is_killed_is_an_error_that_says_what_to_do() -> None:
    told: list[float] = []
    with pytest.raises(NotReady, match="memory does not suffice"):
        in_new_process(killed, None, told.append)
    assert told == [0.5]


def test_the_drawn_rows_are_a_table_that_is_taken_whole(tmp_path: Path) -> None:
    bench.write_rows(tmp_path / "one.csv", 50, seed=3)
    bench.write_rows(tmp_path / "two.csv", 50, seed=3)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    read = read_dataset(tmp_path / "one.csv", ("question", "answer", "context"))
    assert (read.read, len(read.rows)) == (50, 50)


def test_the_notebooks_table_ours_ends_at_its_lowest_dev_loss(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "in_new_process", here)
    monkeypatch.setattr(bench, "METHODS", ("full", "qlora"))
    figures = bench.classic(None, bundled=str(base), rows=48, report=quietly)
    assert json.loads(json.dumps(figures)) == figures
    assert figures["scaled_down"] is True
    runs = figures["runs"]
    assert [(run["method"], run["way"]) for run in runs] == [
        (method, way) for method in ("full", "qlora") for way in ("notebook", "ours")
    ]
    for run in runs:
        losses = [loss for _, loss in run["dev_losses"]]
        assert run["rows"] == {"train": 34, "dev": 7, "test": 7}
        assert run["best_dev_loss"] == pytest.approx(min(losses), abs=1e-4)
        if run["way"] == "ours":
            assert run["final_dev_loss"] == run["best_dev_loss"]
        else:
            assert run["epochs"] == len(losses) == 4
            assert run["final_dev_loss"] == pytest.approx(losses[-1], abs=1e-4)
    printed = bench.table(figures)
    assert "SCALED DOWN" in printed
    assert "Published by the notebook (Qwen/Qwen3-0.6B, a card of 16 GB, 679/145/146 rows)" in printed
    assert "2.510" in printed


def test_a_result_that_is_not_the_lowest_is_not_told_as_ours(
    base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(settings: Any, report: Any) -> Any:
        result = bench_train(settings, report)
        losses = result.manifest.losses
        other = losses.model_copy(update={"dev": losses.dev + 0.1})
        return replace(result, manifest=result.manifest.model_copy(update={"losses": other}))

    bench_train = bench.train
    monkeypatch.setattr(bench, "train", worse)
    recipe = bench._classic_recipe("lora", "ours", demo=True).model_copy(update={"epochs": 1})
    with pytest.raises(InternalError, match="its lowest was"):
        bench.train_whole(Run(str(base), data, data.parent / "run", recipe, padded=False), lambda share: None)


@pytest.mark.slow
def test_ours_is_faster_in_less_memory_at_the_same_loss() -> None:
    figures = bench.run(str(BUNDLED_MODEL), data=SAMPLE_DATA, report=quietly)
    assert figures["tokens_per_s_ratio"] >= 1.5
    assert figures["peak_memory_ratio"] <= 0.8
    assert abs(figures["eval_loss_delta"]) <= 0.01
