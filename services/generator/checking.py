"""Is this folder an adapter for this base? Asked before it comes near the model, in a process of its own.

An adapter may come from anywhere, so its files are read with bounds on their size, the process has bounds on its memory
and time, and nothing is believed that was not looked at: the list of files, the configuration key by key, the header of
the weights byte by byte, every value. No torch and no PEFT are needed to read three files.

``python -m services.generator.checking`` reads a :class:`Question` as JSON from its standard input and prints the
reason of a refusal, or nothing.
"""

import json
import math
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from contracts.artifacts import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    BaseModelRecord,
    ServedManifest,
    adapter_digest,
    read_manifest,
    sha256_file,
)

MAX_RANK = 256
MAX_SCALING = 64
MAX_VALUE = 1e4
"""Trained matrices stay below ten; what is above this overflows in half precision."""
MAX_CONFIG_BYTES = 65_536
MAX_HEADER_BYTES = 4_000_000
MEMORY_BYTES, SECONDS = 4 << 30, 30
BESIDES = {".md", ".png", ".jsonl", ".html", ".txt"}
"""What may stand beside the three files, and is not read."""
DTYPES = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""The bits of each type of value, and those that are all set where it is no finite number."""
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
SERVED: dict[str, Any] = {
    "peft_type": {"LORA"},
    "bias": {"none"},
    "task_type": {None, "CAUSAL_LM"},
    "fan_in_fan_out": {False, True},
    "use_rslora": {False, True},
    "inference_mode": {False, True},
    "ensure_weight_tying": {False},
    "megatron_core": {None, "megatron.core"},
    "qalora_group_size": {None, 16},
}
"""Settings that may have these values."""
MEANINGLESS = {
    "base_model_name_or_path",  # the manifest says which base it is, by its digest
    "revision",
    "peft_version",
    "init_lora_weights",
    "lora_dropout",
}
"""Settings that change nothing in serving."""
OWN = {"r", "lora_alpha", "target_modules"}


class Question(BaseModel):
    """What to look at, and what it has to belong to."""

    folder: Path
    base: BaseModelRecord
    linears: dict[str, tuple[int, int]]
    """Name of each linear layer of the base -> (outputs, inputs)."""
    system_prompt_sha256: str
    files: dict[str, str] | None = None
    """The digests that are going to be loaded; another process may have changed the manifest since they were read."""


class Refused(Exception):
    """The adapter is not served; the message says why, in words for the log and for ``GET /adapters``."""


def check_in_child(question: Question) -> None:
    """Look at an adapter in a process of its own.

    Raises:
        Refused: with the reason.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "services.generator.checking"],
            input=question.model_dump_json().encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(f"it could not be checked within {SECONDS} s") from error
    reason = done.stdout.decode("utf-8", "replace").strip()
    if reason:
        raise Refused(reason[:500])
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Refused(f"it could not be checked ({last[-1][:200] if last else f'exit {done.returncode}'})")


def check(question: Question) -> None:
    """
    Raises:
        Refused: with the reason.
    """
    folder = question.folder
    _check_files(folder)
    manifest = _manifest(folder)
    _check_origin(manifest, question)
    if question.files is not None and manifest.files != question.files:
        raise Refused(f"{MANIFEST} was changed while it was looked at")
    if set(manifest.files) != {ADAPTER_CONFIG, ADAPTER_WEIGHTS}:
        raise Refused("the manifest does not vouch for the weights and their configuration, or for more than these")
    _check_digest(folder / ADAPTER_CONFIG, manifest)
    config = _json((folder / ADAPTER_CONFIG).read_bytes(), ADAPTER_CONFIG)
    _check_config(config, question.linears)
    expected = _expected(config, question.linears)
    _check_size(folder / ADAPTER_WEIGHTS, expected)
    _check_digest(folder / ADAPTER_WEIGHTS, manifest)
    if not manifest.id.endswith(f".{adapter_digest(folder)}"):
        raise Refused("the id does not match the content")
    _check_weights(folder / ADAPTER_WEIGHTS, expected)


def _check_digest(path: Path, manifest: ServedManifest) -> None:
    if sha256_file(path) != manifest.files[path.name]:
        raise Refused(f"{path.name} was changed after it was published")


def _check_files(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        raise Refused("it is no folder")
    needed = {MANIFEST: MAX_MANIFEST_BYTES, ADAPTER_CONFIG: MAX_CONFIG_BYTES, ADAPTER_WEIGHTS: None}
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise Refused(f"{path.name} is no plain file")
        if path.name not in needed and path.suffix not in BESIDES:
            raise Refused(f"{path.name} is not a file of an adapter")
    for name, limit in needed.items():
        if not (folder / name).is_file():
            raise Refused(f"{name} is missing")
        if limit is not None and (folder / name).stat().st_size > limit:
            raise Refused(f"{name} has more than {limit} bytes")


def _manifest(folder: Path) -> ServedManifest:
    _json((folder / MANIFEST).read_bytes(), MANIFEST)
    try:
        return read_manifest(folder, ServedManifest)
    except ValueError as error:
        raise Refused(str(error)) from error


def _check_origin(manifest: ServedManifest, question: Question) -> None:
    own, here = manifest.base, question.base
    if (own.model, own.revision) != (here.model, here.revision):
        raise Refused(
            f"it was trained on {own.model} ({own.revision[:19]}), this is {here.model} ({here.revision[:19]})"
        )
    if own.quantization != here.quantization:
        raise Refused(f"it was trained on a base with quantization {own.quantization}, this has {here.quantization}")
    if manifest.system_prompt_sha256 not in (None, question.system_prompt_sha256):
        raise Refused("it was trained with another system prompt (ASKTWICE_SYSTEM_PROMPT)")


def _check_config(config: dict[str, Any], linears: Mapping[str, tuple[int, int]]) -> None:
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise Refused(f"the rank {str(rank)[:40]} is not between 1 and {MAX_RANK}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise Refused(f"lora_alpha {str(alpha)[:40]} is no number")
    if not 0 < alpha / (math.sqrt(rank) if config.get("use_rslora") else rank) <= MAX_SCALING:
        raise Refused(f"lora_alpha {str(alpha)[:40]} is out of bounds for rank {rank}")
    if not isinstance(targets, list) or not targets or len(targets) > len(linears):
        raise Refused("target_modules is not a list of layers")
    for target in targets:
        if not isinstance(target, str) or not _layers(target, linears):
            raise Refused(f"target_modules: the base has no linear layer {str(target)[:60]}")
    for key, value in config.items():
        if key in OWN or key in MEANINGLESS:
            continue
        if key in SERVED:
            if isinstance(value, list | dict) or value not in SERVED[key]:
                raise Refused(f"{key} {str(value)[:40]} is not served")
        elif not (value is None or value is False or (isinstance(value, list | dict | str) and not value)):
            raise Refused(f"{key[:60]} is not served")
    if "peft_type" not in config:
        raise Refused("peft_type is missing")


def _layers(target: str, linears: Mapping[str, tuple[int, int]]) -> list[str]:
    """The layers that a target names, as PEFT matches them."""
    return [name for name in linears if name == target or name.endswith(f".{target}")]


def _expected(config: dict[str, Any], linears: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Name and shape of every matrix: A is [rank, inputs], B [outputs, rank]."""
    rank, expected = config["r"], {}
    for name in sorted({name for target in config["target_modules"] for name in _layers(target, linears)}):
        outputs, inputs = linears[name]
        expected[f"{PREFIX}{name}{DOWN}"] = (rank, inputs)
        expected[f"{PREFIX}{name}{UP}"] = (outputs, rank)
    return expected


def largest_weights(linears: Mapping[str, tuple[int, int]]) -> int:
    """How many bytes the weights of an adapter can have at most."""
    return 8 + MAX_HEADER_BYTES + 4 * MAX_RANK * sum(outputs + inputs for outputs, inputs in linears.values())


def _check_size(path: Path, expected: dict[str, tuple[int, int]]) -> None:
    """Before anything reads the whole file: it could be larger than any disk."""
    size = path.stat().st_size
    if size > 8 + MAX_HEADER_BYTES + 4 * sum(rows * columns for rows, columns in expected.values()):
        raise Refused(f"{path.name} has more bytes ({size}) than its matrices can have")


def _check_weights(path: Path, expected: dict[str, tuple[int, int]]) -> None:
    """The safetensors format: 8 bytes with the length of a JSON header, the header, then the values without gaps."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise Refused(f"{path.name} is no safetensors file, or is cut")
        header = _json(file.read(length), path.name)
    header.pop("__metadata__", None)
    if header.keys() != expected.keys():
        strange = next(iter(sorted(header.keys() ^ expected.keys())), "none at all")
        raise Refused(f"the matrices are not those of this base and configuration (for one, {strange[:120]})")
    stored: Any = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.empty(0, np.uint8)
    end, changes = 0, False
    for name, entry in sorted(header.items(), key=_offsets):
        begin, after = _offsets((name, entry))
        if begin != end or after > len(stored):
            raise Refused(f"{path.name}: the values of {name} overlap others, leave a gap, or are cut off")
        end = after
        if entry.get("shape") != list(expected[name]):
            raise Refused(f"{name} has the shape {str(entry.get('shape'))[:60]}, not {list(expected[name])}")
        if entry.get("dtype") not in DTYPES:
            raise Refused(f"{name} has values of the type {str(entry.get('dtype'))[:20]}, not F32, F16 or BF16")
        bits, infinite = DTYPES[entry["dtype"]]
        if after - begin != math.prod(expected[name]) * np.dtype(bits).itemsize:
            raise Refused(f"{path.name}: {name} has another number of bytes than its shape needs")
        for part in _parts(stored[begin:after].view(bits)):
            if bool(np.any((part & infinite) == infinite)):
                raise Refused(f"{name} has values that are not finite numbers")
            largest = _largest(part, entry["dtype"])
            if largest > MAX_VALUE:
                raise Refused(f"{name} has values over {MAX_VALUE:.0f}")
            changes = changes or (name.endswith(UP) and largest > 0)
    if end != len(stored):
        raise Refused(f"{path.name} holds bytes that belong to no matrix")
    if not changes:
        raise Refused("it changes nothing: every B is zero")


def _offsets(item: tuple[str, Any]) -> tuple[int, int]:
    name, entry = item
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(each) is int for each in offsets):
        raise Refused(f"{name[:120]} has no place in the file")
    if not 0 <= offsets[0] <= offsets[1]:
        raise Refused(f"{name[:120]} has no place in the file")
    return offsets[0], offsets[1]


def _parts(values: Any, size: int = 1 << 20) -> Iterator[Any]:
    for start in range(0, len(values), size):
        yield np.asarray(values[start : start + size])


def _largest(bits: Any, dtype: str) -> float:
    if dtype == "BF16":
        bits = bits.astype(np.uint32) << 16
    floats = bits.view("<f2" if dtype == "F16" else "<f4")
    return float(np.abs(floats).max()) if len(floats) else 0.0


def _json(content: bytes, name: str) -> dict[str, Any]:
    """Read an object strictly: UTF-8 without a mark, no key twice, no NaN.

    Raises:
        Refused: it is none.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def constant(text: str) -> None:
        raise ValueError(f"{text} is no number")

    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except RecursionError as error:
        raise Refused(f"{name} is nested too deep") from error
    except ValueError as error:
        raise Refused(f"{name} is no JSON ({str(error)[:80]})") from error
    if not isinstance(value, dict):
        raise Refused(f"{name} holds no object")
    return value


def main() -> None:
    """Answer one question from standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        check(Question.model_validate_json(sys.stdin.buffer.read()))
    except Refused as refused:
        print(refused)
    except OSError as error:
        print(f"its files cannot be read ({type(error).__name__})")


if __name__ == "__main__":
    main()
