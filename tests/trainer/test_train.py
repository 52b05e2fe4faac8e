"""Real trainings of a random tiny model, from the CSV to the published adapter."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from contracts.artifacts import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterManifest,
    Home,
    adapter_digest,
    published_adapters,
    sha256_file,
)
from contracts.errors import InvalidInput
from contracts.generation import Mode
from contracts.prompts import build_messages
from tests.trainer.conftest import write_csv
from trainer.bench import dev_loss
from trainer.collate import SharedPrefixCollator
from trainer.data import make_examples
from trainer.model import load_model, load_tokenizer
from trainer.plan import make_plan
from trainer.progress import Moment
from trainer.settings import TrainerSettings
from trainer.split import split_rows
from trainer.train import _attends_to_rows_alone, make_trainer, most_accurate, train

RECIPE = {
    "method": "qlora",
    "rank": 8,
    "alpha": 16,
    "dropout": 0.1,
    "learning_rate": 0.01,
    "epochs": 4,
    "batch_size": 4,
    "gradient_checkpointing": False,
    "evals_per_epoch": 1,
    "patience": 99,
}

Settings = Callable[..., TrainerSettings]


@pytest.fixture
def settings(base: Path, csv: Path, tmp_path: Path) -> Settings:
    def make(recipe: dict[str, Any] | None = None, **given: Any) -> TrainerSettings:
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(RECIPE | (recipe or {})))
        common = {"data": csv, "name": "sales", "base": str(base), "recipe": str(path), "home": tmp_path / "home"}
        return TrainerSettings(**common | given)

    return make


def stop_after(step: int) -> Callable[[Moment], None]:
    def report(moment: Moment) -> None:
        if moment.step > step:
            raise KeyboardInterrupt

    return report


def test_a_csv_becomes_an_adapter_that_plain_peft_loads(settings: Settings, base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    moments: list[Moment] = []
    result = train(settings(), moments.append)

    manifest = result.manifest
    assert result.folder.name == manifest.id == f"sales.{adapter_digest(result.folder)}"
    assert [m.id for m in published_adapters(Home(path=settings().home), AdapterManifest)] == [manifest.id]
    assert manifest.modes == [Mode.ft]
    assert (manifest.base.model, manifest.base.quantization) == ("tiny-random", "nf4")
    assert manifest.files == {n: sha256_file(result.folder / n) for n in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
    assert sorted(manifest.data.train_rows + manifest.data.dev_rows) == list(range(1, 13))
    assert len(manifest.data.dev_rows) == 1
    assert manifest.seconds["train"] > 0

    log = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    dev = {record["step"]: record["dev_loss"] for record in log if "dev_loss" in record}
    assert len(dev) == 4
    assert manifest.losses.best_step == min(dev, key=lambda step: dev[step])
    assert manifest.losses.dev == min(dev.values())
    assert moments[-1].step == moments[-1].steps == 12
    assert moments[-1].dev_loss == dev[12]
    assert (result.folder / "loss.png").read_bytes().startswith(b"\x89PNG")

    assert "/" not in json.loads((result.folder / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
    for file in result.folder.iterdir():
        assert str(base).encode() not in file.read_bytes()
    model = AutoModelForCausalLM.from_pretrained(base)
    tokens = torch.arange(20)[None]
    before = model(tokens).logits
    after = PeftModel.from_pretrained(model, str(result.folder))(tokens).logits
    assert not torch.allclose(before, after)
    assert not list(settings().home.glob("training/*/"))


def test_the_adapter_answers_what_it_was_trained_on(settings: Settings, base: Path, csv: Path) -> None:
    from peft import PeftModel

    csv.write_text("".join(csv.read_text(encoding="utf-8").splitlines(keepends=True)[:7]), encoding="utf-8")
    plan = make_plan(settings())
    result = train(
        settings(
            {"epochs": 60, "dropout": 0.0, "rank": 16, "batch_size": 2, "learning_rate": 5e-3, "shared_prefix": True}
        )
    )
    tokenizer = load_tokenizer(str(base))
    model = PeftModel.from_pretrained(load_model(str(base), plan.recipe, plan.placement), str(result.folder)).eval()
    row = plan.table.rows[result.manifest.data.train_rows[0] - 1]
    prompt = tokenizer.apply_chat_template(
        build_messages(row.question), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**prompt, max_new_tokens=60, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert out[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(out, skip_special_tokens=True) == row.answer


def test_a_recipe_may_keep_the_last_checkpoint_instead_of_the_best(settings: Settings, csv: Path) -> None:
    for number in split_rows(make_plan(settings()).table.rows, 0.1, 0.0, seed=42).dev:
        lines = csv.read_text(encoding="utf-8").splitlines()
        question, _, context = lines[number].split(",")
        lines[number] = f'{question},"Ъэ щю жё цы!",{context}'  # the surer of the others' answers, the worse here
        csv.write_text("\n".join(lines), encoding="utf-8")
    result = train(settings({"keep": "last", "epochs": 8}))
    log = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    dev = {record["step"]: record["dev_loss"] for record in log if "dev_loss" in record}
    assert dev[24] > min(dev.values())  # else this shows nothing
    assert (result.manifest.losses.best_step, result.manifest.losses.dev) == (24, dev[24])


def test_the_most_accurate_is_the_longest_trained_of_those_that_cannot_be_told_apart() -> None:
    history = [{"step": 10, "dev_accuracy": 0.30}, {"step": 20, "dev_accuracy": 0.42}, {"step": 25, "loss": 1.0}]
    history += [{"step": 30, "dev_accuracy": 0.41}, {"step": 40, "dev_accuracy": 0.38}]
    assert most_accurate(history, dev_tokens=1_000) == 30
    assert most_accurate(history, dev_tokens=1_000_000) == 20
    assert most_accurate(history, dev_tokens=50) == 40


def test_a_recipe_may_go_by_the_accuracy_on_the_dev_rows(settings: Settings) -> None:
    result = train(settings({"best_by": "accuracy", "epochs": 4}))
    log = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    dev = {record["step"]: record["dev_accuracy"] for record in log if "dev_accuracy" in record}
    assert len(dev) > 1
    assert all(0 <= accuracy <= 1 for accuracy in dev.values())
    assert result.manifest.losses.best_step in dev


def test_early_stopping_ends_a_training_whose_dev_loss_only_grows(settings: Settings) -> None:
    losses = train(settings({"patience": 2, "learning_rate": 0.05, "epochs": 30})).manifest.losses
    assert losses.steps == losses.best_step + 2 * 3  # two evaluations, three steps each
    assert losses.steps < 90


def test_the_same_training_again_is_skipped_and_makes_its_adapter_the_newest(settings: Settings) -> None:
    first = train(settings())
    other = train(settings({"seed": 7}))
    assert other.manifest.id != first.manifest.id
    steps: list[Moment] = []
    again = train(settings(), steps.append)
    assert again.skipped
    assert not steps
    assert (again.folder, again.manifest.created) == (first.folder, first.manifest.created)
    newest = [m.id for m in published_adapters(Home(path=settings().home), AdapterManifest)]
    assert newest == [first.manifest.id, other.manifest.id]


def test_force_trains_anew_and_comes_to_the_same_adapter(settings: Settings) -> None:
    first = train(settings())
    forced = train(settings(force=True))
    assert not forced.skipped
    assert forced.manifest.id == first.manifest.id
    assert forced.manifest.published > first.manifest.published


def test_another_prompt_or_another_row_is_another_training(settings: Settings, csv: Path) -> None:
    runs = {make_plan(settings()).run, make_plan(settings(system_prompt="Отвечайте.")).run}
    csv.write_text(csv.read_text(encoding="utf-8") + '"Ещё?","Да.","Прайс."\n', encoding="utf-8")
    runs.add(make_plan(settings()).run)
    assert len(runs) == 3


def test_an_interrupted_training_goes_on_and_ends_like_an_undisturbed_one(settings: Settings, tmp_path: Path) -> None:
    whole = train(settings(home=tmp_path / "undisturbed"))
    with pytest.raises(KeyboardInterrupt):
        train(settings(), stop_after(7))
    assert not settings().home.joinpath("adapters").exists()
    moments: list[Moment] = []
    resumed = train(settings(), moments.append)
    assert moments[0].step == 7  # the checkpoint of step 6 was the last
    assert resumed.manifest.id == whole.manifest.id
    assert resumed.manifest.losses == whole.manifest.losses
    assert "train" not in resumed.manifest.seconds


def test_a_checkpoint_that_was_cut_is_not_resumed_from(settings: Settings) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(settings(), stop_after(7))
    optimizer = make_plan(settings()).run / "checkpoint-6" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-9])
    moments: list[Moment] = []
    train(settings(), moments.append)
    assert moments[0].step == 4


def run_until(line_start: str, number: int, command: list[str]) -> tuple[int, str]:
    """Run a training in a process of its own and send it a signal when it prints a line."""
    printed = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            printed.append(line)
            if line.startswith(line_start):
                process.send_signal(number)
    return process.returncode, "".join(printed)


def test_a_killed_training_publishes_nothing_and_the_next_call_finishes_it(settings: Settings) -> None:
    given = settings()
    command = [sys.executable, "-m", "trainer", "--data", str(given.data), "--name", given.name, "--base", given.base]
    command += ["--recipe", given.recipe, "--home", str(given.home)]
    code, _ = run_until("step 7/", signal.SIGKILL, command)
    assert code == -signal.SIGKILL
    assert not published_adapters(Home(path=given.home), AdapterManifest)

    code, printed = run_until("step 10/", signal.SIGINT, command)
    assert code == 130
    assert "goes on from its checkpoint-6" in printed
    assert "Interrupted. Nothing was published" in printed
    assert "Traceback" not in printed

    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "goes on from its checkpoint-9" in done.stderr
    assert "Warning" not in done.stderr
    published = [
        given.home / "adapters" / manifest.id for manifest in published_adapters(Home(path=given.home), AdapterManifest)
    ]
    assert list(map(str, published)) == [done.stdout.strip()]


def test_a_diverging_training_is_stopped_and_publishes_nothing(settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="diverged"):
        train(settings({"learning_rate": 1e30, "warmup": 0}))
    assert not published_adapters(Home(path=settings().home), AdapterManifest)


def test_too_few_rows_are_refused_and_few_rows_have_no_dev_loss(settings: Settings, csv: Path) -> None:
    lines = csv.read_text(encoding="utf-8").splitlines(keepends=True)
    csv.write_text("".join(lines[:4]), encoding="utf-8")
    with pytest.raises(InvalidInput, match="At least 4 accepted rows"):
        train(settings())
    csv.write_text("".join(lines[:6]), encoding="utf-8")
    losses = train(settings()).manifest.losses
    assert (losses.dev, losses.best_step) == (None, losses.steps)


def test_a_shared_prefix_gives_the_losses_and_gradients_of_the_padded_batch(settings: Settings) -> None:
    plan = make_plan(settings({"dropout": 0.0, "shared_prefix": False}))
    tokenizer = load_tokenizer(plan.settings.base)
    examples = make_examples(plan.asked, tokenizer, plan.settings.system_prompt, plan.recipe)
    trainer = make_trainer(plan, load_model(plan.settings.base, plan.recipe, plan.placement), tokenizer, examples, None)
    rows = [trainer.train_dataset[n] for n in range(6)]
    found = []
    for collate in (trainer.data_collator, SharedPrefixCollator(trainer.data_collator)):
        trainer.model.zero_grad()
        batch = collate(rows)
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
        found.append((batch["input_ids"].numel(), loss.item(), gradients))
    padded, shared = found
    assert shared[0] < padded[0] / 2
    assert shared[1] == pytest.approx(padded[1], rel=1e-5)
    for name, gradient in padded[2].items():
        torch.testing.assert_close(shared[2][name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_the_dev_loss_is_the_mean_over_answer_tokens_however_they_fall_into_batches(
    batch_size: int, settings: Settings, tmp_path: Path
) -> None:
    rows = [(f"Курс {n} дорогой?", "да, " * 3 * n + "да.") for n in range(14)]  # answers of very different lengths
    data = write_csv(tmp_path / "uneven.csv", rows)
    plan = make_plan(settings({"dev_fraction": 0.4, "batch_size": batch_size}, data=data))
    tokenizer = load_tokenizer(plan.settings.base)
    examples = make_examples(plan.asked, tokenizer, plan.settings.system_prompt, plan.recipe)
    trainer = make_trainer(plan, load_model(plan.settings.base, plan.recipe, plan.placement), tokenizer, examples, None)
    found = trainer.evaluate()
    assert len({len(example.answer) for example in examples.dev}) > 3
    assert found["eval_loss"] == pytest.approx(dev_loss(trainer.model, examples.dev), rel=1e-4)
    right = 0
    for example in examples.dev:
        with torch.no_grad():
            logits = trainer.model(torch.tensor([example.prompt + example.answer])).logits[0]
        predicted = logits.argmax(-1)[len(example.prompt) - 1 : -1]
        right += int((predicted == torch.tensor(example.answer)).sum())
    tokens = sum(len(example.answer) for example in examples.dev)
    [logged] = [record for record in trainer.state.log_history if "eval_loss" in record]
    assert logged["eval_mean_token_accuracy"] == pytest.approx(right / tokens)


@pytest.mark.parametrize(
    ("architecture", "config", "alone"),
    [
        ("llama", {}, True),
        ("mistral", {"sliding_window": 16}, False),
        ("mistral", {"sliding_window": 64}, True),
        ("gemma3_text", {"sliding_window": 16, "head_dim": 8}, False),
        ("bloom", {}, False),
        ("mamba", {}, False),
        ("qwen3_next", {"head_dim": 8}, False),
        ("llama", {"attn_implementation": "flex_attention"}, False),
    ],
)
def test_rows_share_a_sequence_only_where_the_model_keeps_them_apart(
    architecture: str, config: dict[str, Any], alone: bool
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "n_layer": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "n_head": 2, "num_experts": 2, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **small, **heads, **config))
    assert _attends_to_rows_alone(model, longest=64) is alone


def test_adapters_train_in_float32_and_only_answers_carry_loss(settings: Settings) -> None:
    plan = make_plan(settings())
    tokenizer = load_tokenizer(plan.settings.base)
    examples = make_examples(plan.asked, tokenizer, plan.settings.system_prompt, plan.recipe)
    trainer = make_trainer(plan, load_model(plan.settings.base, plan.recipe, plan.placement), tokenizer, examples, None)
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    example = examples.train[0]
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert batch["input_ids"][0].tolist() == example.prompt + example.answer
    with_loss = batch["labels"][0] != -100
    assert batch["labels"][0][with_loss].tolist() == example.answer


def test_the_console_names_what_is_wrong_and_ends_with_one(tmp_path: Path) -> None:
    environment = os.environ | {"ASKTWICE_NAME": "a"}
    command = [sys.executable, "-m", "trainer", "--data", str(tmp_path / "none.csv"), "--recipe", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Cannot read")
    assert "Traceback" not in done.stderr


def test_a_published_adapter_that_was_damaged_is_trained_again(settings: Settings) -> None:
    first = train(settings())
    weights = first.folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    again = train(settings())
    assert not again.skipped
    assert (again.folder, weights.read_bytes()) == (first.folder, whole)


@pytest.mark.parametrize("damaged", ["adapter_model.safetensors", "manifest.json"])
def test_a_forced_training_replaces_a_damaged_result_of_the_same_id(settings: Settings, damaged: str) -> None:
    first = train(settings())
    (first.folder / damaged).write_bytes(b"{")
    again = train(settings(force=True))
    assert again.folder == first.folder
    assert [m.id for m in published_adapters(Home(path=settings().home), AdapterManifest)] == [first.manifest.id]
    assert sha256_file(again.folder / ADAPTER_WEIGHTS) == again.manifest.files[ADAPTER_WEIGHTS]
