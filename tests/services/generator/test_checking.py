"""Broken and hostile adapters: all refused, with the reason, before they come near the model."""

import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from contracts.artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST, Home, adapter_digest, sha256_file
from contracts.prompts import SYSTEM_PROMPT
from services.generator.checking import Question, Refused, check, check_in_child
from services.generator.engine import Engine
from tests.services.generator.conftest import publish

Change = Callable[[Path], None]
FIRST = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"


def config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        there = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        (folder / ADAPTER_CONFIG).write_text(json.dumps({**there, **values}), encoding="utf-8")

    return change


def without(key: str) -> Change:
    def change(folder: Path) -> None:
        there = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        del there[key]
        (folder / ADAPTER_CONFIG).write_text(json.dumps(there), encoding="utf-8")

    return change


def config_bytes(content: bytes) -> Change:
    return lambda folder: (folder / ADAPTER_CONFIG).write_bytes(content) and None


def matrices(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    return lambda folder: save_file(change(load_file(folder / ADAPTER_WEIGHTS)), folder / ADAPTER_WEIGHTS)


def one(value: float) -> Change:
    def change(there: dict[str, Any]) -> dict[str, Any]:
        there[FIRST][1, 2] = value
        return there

    return matrices(change)


def header(change: Callable[[dict[str, Any]], Any]) -> Change:
    def rewrite(folder: Path) -> None:
        content = (folder / ADAPTER_WEIGHTS).read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        there = json.loads(content[8 : 8 + length])
        made = json.dumps(change(there) or there).encode()
        (folder / ADAPTER_WEIGHTS).write_bytes(struct.pack("<Q", len(made)) + made + content[8 + length :])

    return rewrite


def weights(change: Callable[[bytes], bytes]) -> Change:
    return lambda folder: (
        (folder / ADAPTER_WEIGHTS).write_bytes(change((folder / ADAPTER_WEIGHTS).read_bytes())) and None
    )


def beside(name: str, make: Callable[[Path], object]) -> Change:
    return lambda folder: make(folder / name) and None


def link(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/etc/passwd")

    return change


class Code:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/asktwice-canary",)


def sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(10 << 30)


HOSTILE: dict[str, tuple[Change, str]] = {
    "config is no json": (config_bytes(b"{"), "no JSON"),
    "config is empty": (config_bytes(b""), "no JSON"),
    "config is an array": (config_bytes(b"[]"), "no object"),
    "config has a byte order mark": (config_bytes(b"\xef\xbb\xbf{}"), "no JSON"),
    "config is no utf-8": (config_bytes(b'{"r": "\xff"}'), "no JSON"),
    "config is huge": (config_bytes(b" " * 1_000_000 + b"{}"), "more than"),
    "config is deep": (config_bytes(b"[" * 30_000 + b"]" * 30_000), "nested too deep|no JSON"),
    "config has a key twice": (config_bytes(b'{"r": 4, "r": 8}'), "twice"),
    "peft_type is another": (config(peft_type="PROMPT_TUNING"), "peft_type"),
    "peft_type is missing": (without("peft_type"), "peft_type"),
    "rank 0": (config(r=0), "rank"),
    "rank -1": (config(r=-1), "rank"),
    "rank 1.5": (config(r=1.5), "rank"),
    "rank as text": (config(r="4"), "rank"),
    "rank true": (config(r=True), "rank"),
    "rank 50 million": (config(r=50_000_000), "rank"),
    "rank 2**63": (config(r=2**63), "rank"),
    "rank unlike the matrices": (config(r=8), "has the shape"),
    "alpha NaN": (config(lora_alpha=float("nan")), "no JSON"),
    "alpha infinite": (config(lora_alpha=float("inf")), "no JSON"),
    "alpha overflows": (config_bytes(b'{"peft_type": "LORA", "r": 4, "lora_alpha": 1e999}'), "no number"),
    "alpha 1e30": (config(lora_alpha=1e30), "out of bounds"),
    "alpha negative": (config(lora_alpha=-8), "out of bounds"),
    "alpha as text": (config(lora_alpha="8"), "no number"),
    "rank pattern": (config(rank_pattern={"q_proj": 100_000}), "rank_pattern"),
    "alpha pattern": (config(alpha_pattern={"q_proj": 1e30}), "alpha_pattern"),
    "target is a regular expression": (config(target_modules="(a+)+$"), "target_modules"),
    "target all-linear": (config(target_modules="all-linear"), "target_modules"),
    "no targets": (config(target_modules=[]), "target_modules"),
    "targets missing": (without("target_modules"), "target_modules"),
    "10,000 targets": (config(target_modules=["q_proj"] * 10_000), "target_modules|more than"),
    "a target that is not there": (config(target_modules=["q_proj", "nothing"]), "no linear layer nothing"),
    "a target that is a number": (config(target_modules=[1]), "no linear layer"),
    "fewer targets than matrices": (config(target_modules=["q_proj"]), "not those of this base"),
    "modules to save": (config(modules_to_save=["lm_head"]), "modules_to_save"),
    "auto mapping": (config(auto_mapping={"base_model_class": "system", "parent_library": "os"}), "auto_mapping"),
    "megatron": (config(megatron_core="os"), "megatron_core"),
    "biases": (config(bias="all"), "bias"),
    "lora bias": (config(lora_bias=True), "lora_bias"),
    "DoRA": (config(use_dora=True), "use_dora"),
    "layers copied": (config(layer_replication=[[0, 2]]), "layer_replication"),
    "some layers": (config(layers_to_transform=[0]), "layers_to_transform"),
    "new tokens": (config(trainable_token_indices=[1]), "trainable_token_indices"),
    "a setting of tomorrow": (config(use_quantum=True), "use_quantum"),
    "all values NaN": (
        matrices(lambda there: {key: value * np.float32("nan") for key, value in there.items()}),
        "not finite",
    ),
    "one value NaN": (one(float("nan")), "not finite"),
    "one value infinite": (one(float("-inf")), "not finite"),
    "one value 1e38": (one(1e38), "over"),
    "all values 0": (matrices(lambda there: {key: value * 0 for key, value in there.items()}), "changes nothing"),
    "other names": (matrices(lambda there: {f"x.{key}": value for key, value in there.items()}), "not those"),
    "half the matrices": (matrices(lambda there: dict(list(there.items())[::2])), "not those of this base"),
    "one matrix more": (matrices(lambda there: there | {"extra": np.ones(3, np.float32)}), "not those of this base"),
    "other shapes": (
        matrices(lambda there: {key: np.ascontiguousarray(value.T) for key, value in there.items()}),
        "has the shape",
    ),
    "doubles": (matrices(lambda there: {key: value.astype(np.float64) for key, value in there.items()}), "type F64"),
    "whole numbers": (
        matrices(lambda there: {key: value.astype(np.int64) for key, value in there.items()}),
        "type I64",
    ),
    "header too long": (weights(lambda there: struct.pack("<Q", 200_000_000) + there[8:]), "no safetensors"),
    "header of an array": (header(lambda _: [1]), "no object"),
    "offsets overlap": (
        header(
            lambda there: {
                key: value | {"data_offsets": there[FIRST]["data_offsets"]} if key != "__metadata__" else value
                for key, value in there.items()
            }
        ),
        "overlap",
    ),
    "offsets beyond the end": (
        header(lambda there: there[FIRST].update(data_offsets=[0, 10**12])),
        "overlap|cut off",
    ),
    "offsets are negative": (header(lambda there: there[FIRST].update(data_offsets=[-8, 0])), "no place"),
    "no offsets": (header(lambda there: there[FIRST].pop("data_offsets") and None), "no place"),
    "bytes that belong to nothing": (weights(lambda there: there + b"\0" * 64), "belong to no matrix"),
    "cut": (weights(lambda there: there[: len(there) // 2]), "cut"),
    "cut in the header": (weights(lambda there: there[:20]), "cut"),
    "zero bytes": (weights(lambda _: b""), "cut"),
    "a web page": (weights(lambda _: b"<!doctype html><title>404</title>" * 50), "no safetensors"),
    "a pickle": (weights(lambda _: pickle.dumps(Code())), "no safetensors"),
    "a pickle beside": (
        beside("adapter_model.bin", lambda p: p.write_bytes(pickle.dumps(Code()))),
        "adapter_model.bin",
    ),
    "a program beside": (beside("modeling.py", lambda p: p.write_text("import os")), "modeling.py"),
    "a folder beside": (beside("more", lambda p: p.mkdir() or True), "more is no plain file"),
    "a pipe beside": (beside("pipe.txt", lambda p: os.mkfifo(p) or True), "pipe.txt is no plain file"),
    "weights are a link": (link(ADAPTER_WEIGHTS), "no plain file"),
    "config is a link": (link(ADAPTER_CONFIG), "no plain file"),
    "10 GB of nothing": (beside(ADAPTER_WEIGHTS, lambda p: sparse(p) or True), "more bytes"),
}


@pytest.fixture(scope="module")
def engine_of_module(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from services.generator.model import load_base
    from services.generator.settings import GeneratorSettings

    engine = Engine(load_base(GeneratorSettings(base=str(base_folder))), max_batch=4, queue_limit=100)
    yield engine
    engine.stop()


def question(engine: Engine, folder: Path) -> Question:
    digest = hashlib.sha256(SYSTEM_PROMPT.encode()).hexdigest()
    return Question(folder=folder, base=engine.base.record, linears=engine.base.linears, system_prompt_sha256=digest)


def tampered(home: Home, base_folder: Path, change: Change) -> Path:
    """An adapter that was changed before its manifest was written: id and digests fit, as far as there are any."""
    manifest = publish(home, base_folder, "odd", seed=1)
    folder = home.adapters / manifest.id
    change(folder)
    if any((folder / name).is_symlink() or (folder / name).stat().st_size > 1 << 30 for name in manifest.files):
        return folder
    files = {name: sha256_file(folder / name) for name in manifest.files}
    changed = manifest.model_copy(update={"files": files, "id": f"odd.{adapter_digest(folder)}"})
    (folder / MANIFEST).write_text(changed.model_dump_json(), encoding="utf-8")
    return folder.rename(home.adapters / changed.id)


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_with_the_reason(engine_of_module: Engine, home: Home, base_folder: Path, name: str) -> None:
    change, says = HOSTILE[name]
    with pytest.raises(Refused, match=says):
        check(question(engine_of_module, tampered(home, base_folder, change)))


def test_there_are_forty_kinds() -> None:
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize(
    ("update", "says"),
    [
        ({"id": "other.000000000000", "name": "other"}, "another adapter"),
        ({"id": "ft:a b.000000000000", "name": "ft:a b"}, "another adapter"),
        ({"name": "x" * 65}, "own name"),
        ({"system_prompt_sha256": "0"}, "another system prompt"),
        ({"files": {}}, "does not vouch"),
        ({"files": {ADAPTER_CONFIG: "0", ADAPTER_WEIGHTS: "0"}}, "changed after it was published"),
        ({"files": {ADAPTER_CONFIG: "0", ADAPTER_WEIGHTS: "0", "../x": "0"}}, "does not vouch"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    engine_of_module: Engine, home: Home, base_folder: Path, update: dict[str, Any], says: str
) -> None:
    manifest = publish(home, base_folder, "odd", seed=1)
    folder = home.adapters / manifest.id
    (folder / MANIFEST).write_text(manifest.model_copy(update=update).model_dump_json(), encoding="utf-8")
    with pytest.raises(Refused, match=says):
        check(question(engine_of_module, folder))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [("model", "other", "trained on other"), ("revision", "sha256:0", "trained on"), ("quantization", "none", "none")],
)
def test_another_base_is_refused(
    engine_of_module: Engine, home: Home, base_folder: Path, field: str, value: str, says: str
) -> None:
    manifest = publish(home, base_folder, "odd", seed=1)
    folder = home.adapters / manifest.id
    base = manifest.base.model_copy(update={field: value})
    (folder / MANIFEST).write_text(manifest.model_copy(update={"base": base}).model_dump_json(), encoding="utf-8")
    with pytest.raises(Refused, match=says):
        check(question(engine_of_module, folder))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_the_trainer_publishes_is_served(
    engine_of_module: Engine, home: Home, base_folder: Path, dtype: str
) -> None:
    change = matrices(lambda there: {key: value.astype(dtype) for key, value in there.items()})
    check_in_child(question(engine_of_module, tampered(home, base_folder, change)))


def test_the_child_tells_the_reason_and_runs_no_code(engine_of_module: Engine, home: Home, base_folder: Path) -> None:
    canary = Path("/tmp/asktwice-canary")
    canary.unlink(missing_ok=True)
    with pytest.raises(Refused, match="no safetensors"):
        check_in_child(question(engine_of_module, tampered(home, base_folder, HOSTILE["a pickle"][0])))
    assert not canary.exists()
    with pytest.raises(Refused, match="rank"):
        check_in_child(question(engine_of_module, tampered(home, base_folder, config(r=0))))
    with pytest.raises(Refused, match="is no folder"):
        check_in_child(question(engine_of_module, home.adapters / "nothing.000000000000"))


def test_the_child_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import services.generator.checking, sys; print([m for m in sys.modules if m in ('torch', 'peft')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
