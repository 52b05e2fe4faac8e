"""Whole models and adapters with retrieved context: the same trainer by other recipes."""

import json
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import torch

from contracts.artifacts import Home, checkpoint_digest, published_checkpoints, sha256_file
from contracts.errors import InvalidInput, NotReady
from contracts.generation import Mode
from tests.trainer.conftest import write_csv
from trainer.data import encode, make_examples
from trainer.model import load_tokenizer
from trainer.plan import make_plan
from trainer.settings import TrainerSettings
from trainer.train import train

COMMON = {"epochs": 2, "batch_size": 4, "gradient_checkpointing": False, "evals_per_epoch": 1}
Settings = Callable[..., TrainerSettings]


@pytest.fixture
def settings(base: Path, csv: Path, tmp_path: Path) -> Settings:
    def make(recipe: dict[str, Any], **given: Any) -> TrainerSettings:
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(COMMON | recipe))
        common = {"data": csv, "name": "sales", "base": str(base), "recipe": str(path), "home": tmp_path / "home"}
        return TrainerSettings(**common | given)

    return make


def test_a_whole_model_is_trained_published_and_read_by_transformers_alone(settings: Settings, base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = settings({"method": "full", "learning_rate": 1e-3, "epochs": 3})
    result = train(given)
    manifest = result.manifest
    assert result.folder == given.home.resolve() / "checkpoints" / manifest.id
    assert manifest.id == f"sales.{checkpoint_digest(manifest.files)}"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= manifest.files.keys()
    assert all(sha256_file(result.folder / name) == digest for name, digest in manifest.files.items())
    assert [each.id for each in published_checkpoints(Home(path=given.home))] == [manifest.id]
    assert (manifest.modes, manifest.base.quantization) == ([Mode.ft], "none")
    for file in result.folder.iterdir():
        assert str(base).encode() not in file.read_bytes()
        assert str(given.home).encode() not in file.read_bytes()

    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (base, result.folder))
    changed = {name for name, p in after.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert changed == {name for name, _ in before.named_parameters()}
    assert AutoTokenizer.from_pretrained(result.folder).chat_template == load_tokenizer(str(base)).chat_template
    log = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    dev = [record["dev_loss"] for record in log if "dev_loss" in record]
    assert dev[-1] < dev[0]
    assert train(given).skipped


def test_a_whole_model_is_stored_in_the_number_format_of_its_base(
    settings: Settings, base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(base).save_pretrained(half)
    result = train(settings({"method": "full", "learning_rate": 1e-3}, base=str(half)))
    assert {t.dtype for t in load_file(result.folder / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(result.folder).dtype == torch.bfloat16


def dev_loss(model: Path, given: TrainerSettings) -> float:
    """The loss of a published model on the dev rows, computed without the trainer."""
    from transformers import AutoModelForCausalLM

    plan, tokenizer = make_plan(given), load_tokenizer(given.base)
    dev = make_examples(plan.asked, tokenizer, given.system_prompt, plan.recipe).dev
    loaded = AutoModelForCausalLM.from_pretrained(model)
    total = tokens = 0.0
    for example in dev:
        ids = torch.tensor([example.prompt + example.answer])
        labels = ids.clone()
        labels[0, : len(example.prompt)] = -100
        with torch.no_grad():
            total += loaded(input_ids=ids, labels=labels).loss.item() * len(example.answer)
        tokens += len(example.answer)
    return total / tokens


def test_the_published_whole_model_is_the_best_step_and_not_the_last(settings: Settings, tmp_path: Path) -> None:
    # No letter of one answer is in another: what is learnt from eleven rows only makes the twelfth less likely.
    codes = [
        (f"Какой код у ячейки {n}?", 4 * (ascii_lowercase[2 * n : 2 * n + 2] + ascii_lowercase[2 * n]))
        for n in range(12)
    ]
    data = write_csv(tmp_path / "codes.csv", codes)
    given = settings({"method": "full", "learning_rate": 0.02, "epochs": 6, "patience": 99}, data=data)
    result = train(given)
    losses = result.manifest.losses
    assert losses.best_step < losses.steps  # else this shows nothing
    log = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    assert losses.dev == min(record["dev_loss"] for record in log if "dev_loss" in record)
    assert dev_loss(result.folder, given) == pytest.approx(losses.dev, rel=1e-4)


def test_raft_trains_for_the_mode_that_retrieves_and_sees_what_was_retrieved(settings: Settings) -> None:
    searched: list[str] = []

    def search(question: str, number: int) -> list[str]:
        searched.append(question)
        return ["Прайс-лист.", "Лекции записываются.", "Дипломы печатаются.", "Занятия идут вечером."]

    given = settings({"method": "raft"})
    plan = make_plan(given, search)
    assert len(searched) == 12
    prompt = load_tokenizer(given.base).decode(encode(plan.asked[0], load_tokenizer(given.base), "Отвечайте.").prompt)
    assert all(f"[{n}] {text}" in prompt for n, text in enumerate(plan.asked[0].passages, start=1))

    result = train(given, retrieve=search)
    assert result.manifest.modes == [Mode.rag_ft]
    assert result.manifest.data.passages_sha256 == plan.passages_sha256
    assert train(given, retrieve=search).skipped
    other = train(given, retrieve=lambda question, number: ["Прайс-лист.", "Совсем другое.", "И третье."])
    assert not other.skipped
    assert other.manifest.id != result.manifest.id


def test_raft_without_an_index_says_what_to_run(settings: Settings) -> None:
    with pytest.raises(NotReady, match="asktwice index"):
        train(settings({"method": "raft"}))


def test_the_card_shows_the_same_questions_before_and_after(settings: Settings) -> None:
    result = train(settings({"method": "qlora", "learning_rate": 0.01, "epochs": 8}))
    samples = result.manifest.samples
    assert len(samples) == 3
    assert all(sample.before != sample.after for sample in samples)
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    for sample in samples:
        assert sample.question in card
        assert (sample.row in result.manifest.data.train_rows) == sample.trained
    assert card.count("- Before: ") == card.count("- After: ") == 3


def test_the_page_of_the_curve_tells_every_evaluation_and_needs_no_network(settings: Settings) -> None:
    result = train(settings({"method": "lora"}))
    page = (result.folder / "loss.html").read_text(encoding="utf-8")
    log = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    for record in log:
        if "dev_loss" in record:
            assert f"step {record['step']}: dev loss {record['dev_loss']:.4f}" in page
    best = result.manifest.losses
    assert f"lowest dev loss: {best.dev:.4f} at step {best.best_step}" in page
    assert f"published: step {best.best_step}" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_a_disk_without_room_is_told_before_the_first_step(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr("trainer.checkpoints.shutil.disk_usage", lambda path: Usage)
    with pytest.raises(NotReady, match="1 MB free"):
        train(settings({"method": "lora"}))


def test_an_optimizer_for_a_gpu_is_refused_without_one(settings: Settings) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(InvalidInput, match="needs a GPU"):
        train(settings({"method": "full", "optimizer": "paged_adamw_8bit"}))


def test_tensorboard_is_told_of_both_losses(settings: Settings) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    given = settings({"method": "lora"}, report_to="tensorboard")
    result = train(given)
    [folder] = (given.home / "tensorboard").iterdir()
    told = EventAccumulator(str(folder)).Reload()
    log = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    for tag, key in (("train/loss", "loss"), ("eval/loss", "dev_loss")):
        ours = {record["step"]: record[key] for record in log if key in record}
        theirs = {event.step: event.value for event in told.Scalars(tag)}
        assert theirs == pytest.approx(ours, rel=1e-5)


def test_a_tracker_that_is_not_installed_is_told_with_its_package(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.train.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="pip install wandb"):
        train(settings({"method": "lora"}, report_to="wandb"))
