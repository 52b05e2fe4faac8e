"""What lies in ``artifacts/``: where, under which name, with which manifest, and how it gets there whole or not."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.generation import Mode

MANIFEST = "manifest.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class Home(BaseModel):
    """The folder that everything lives in."""

    model_config = ConfigDict(frozen=True)
    path: Path

    @property
    def adapters(self) -> Path:
        return self.path / "adapters"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def indexes(self) -> Path:
        return self.path / "indexes"

    @property
    def training(self) -> Path:
        """Checkpoints and logs of runs that are not published yet."""
        return self.path / "training"


class BaseModelRecord(BaseModel):
    """Which base an adapter belongs to."""

    model: str
    """The hub id, or the folder's name for a local model."""
    revision: str
    """The hub's commit, or ``sha256:...`` over the files of a local model."""
    quantization: Literal["nf4", "none"]
    compute_dtype: str


class DataRecord(BaseModel):
    """What an adapter was trained on."""

    file: str
    sha256: str
    """Over the accepted rows, so that the encoding and delimiter of the file do not matter."""
    rows: int
    train_rows: list[int]
    """Row numbers (from 1) that were trained on."""
    dev_rows: list[int]
    """Row numbers that only the eval loss saw."""
    too_long_rows: list[int] = []
    """Row numbers that were left out because they exceed the recipe's ``max_length``."""


class LossRecord(BaseModel):
    """Losses in nats per answer token; ``best_step`` is the checkpoint that was published."""

    train: float
    dev: float | None
    best_step: int
    steps: int


class AdapterManifest(BaseModel):
    """Travels beside the weights. ``published`` is renewed when an existing adapter is chosen again."""

    schema_version: Literal[1] = 1
    id: str
    name: str
    modes: list[Mode]
    base: BaseModelRecord
    data: DataRecord
    recipe: dict[str, Any]
    seed: int
    system_prompt_sha256: str
    losses: LossRecord
    seconds: dict[str, float]
    versions: dict[str, str]
    files: dict[str, str]
    """sha256 of every other file that serving reads."""
    created: datetime
    published: datetime


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_revision(model: Path) -> str:
    """Return ``sha256:...`` over the configuration, tokenizer and weights of a model in a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in model.iterdir() if p.suffix in (".json", ".safetensors", ".jinja")):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def printed_model_name(model: str) -> str:
    """Return the name that people read: the last part of a hub id or of a path."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def adapter_digest(folder: Path) -> str:
    """Return the first 12 hex digits over the weights and their configuration: what makes two adapters the same."""
    digest = hashlib.sha256()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        digest.update(f"{name} {sha256_file(folder / name)}\n".encode())
    return digest.hexdigest()[:12]


def read_manifest(folder: Path) -> AdapterManifest:
    """Return the manifest of a published adapter.

    Raises:
        ValueError: there is none, it cannot be read, or the folder is not named by its id.
    """
    try:
        manifest = AdapterManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(f"{folder.name}: no readable {MANIFEST} ({type(error).__name__})") from error
    if manifest.id != folder.name:
        raise ValueError(f"{folder.name}: the manifest names another adapter, {manifest.id}")
    return manifest


def published_adapters(home: Home) -> list[AdapterManifest]:
    """Return the manifests of all published adapters, newest first. Folders without a good one are left out."""
    found = []
    if home.adapters.is_dir():
        for folder in home.adapters.iterdir():
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            try:
                found.append(read_manifest(folder))
            except ValueError:
                continue
    return sorted(found, key=lambda manifest: manifest.published, reverse=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, finds the old content or the new, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json_atomically(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode())


@contextmanager
def whole_folder(parent: Path) -> Iterator[Path]:
    """Give a temporary folder under ``parent`` to fill; the caller renames it into place with :func:`move_into_place`.

    Whatever is still there at the end is removed.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
    os.chmod(folder, 0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_place(folder: Path, target: Path) -> None:
    """Make a filled folder durable and give it its final name in one step. An equal target that is there stays."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make names created in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
