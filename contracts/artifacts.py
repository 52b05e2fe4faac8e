"""What lies in ``artifacts/``: where, under which name, with which manifest, and how it gets there whole or not."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from contracts.generation import AdapterInfo, Mode

Manifest = TypeVar("Manifest", bound="ServedManifest")
MANIFEST = "manifest.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_MANIFEST_BYTES = 20_000_000


class Home(BaseModel):
    """The folder that everything lives in."""

    model_config = ConfigDict(frozen=True)
    path: Path

    @property
    def adapters(self) -> Path:
        return self.path / "adapters"

    @property
    def checkpoints(self) -> Path:
        """Fully fine-tuned models, each a folder as transformers saves it, with a manifest."""
        return self.path / "checkpoints"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def indexes(self) -> Path:
        return self.path / "indexes"

    @property
    def winner(self) -> Path:
        """The arm that ``/ask?mode=auto`` answers with."""
        return self.path / "winner.json"

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
    """Row numbers that only the dev loss saw."""
    test_rows: list[int] = []
    """Row numbers that the training never saw, for an evaluation."""
    too_long_rows: list[int] = []
    """Row numbers that were left out because they exceed the recipe's ``max_length``."""
    passages_sha256: str | None = None
    """Over the passages that were retrieved for the rows; None where they were asked without."""


class LossRecord(BaseModel):
    """Losses in nats per answer token; ``best_step`` is the checkpoint that was published."""

    train: float
    dev: float | None
    best_step: int
    steps: int


class AnswerSample(BaseModel):
    """One question before and after a training, answered greedily and in few tokens."""

    row: int
    trained: bool
    """False where it is a dev row."""
    question: str
    expected: str
    before: str
    after: str


class ServedManifest(BaseModel):
    """What serving needs to know of an adapter; travels beside the weights.

    ``published`` is renewed when an existing adapter is chosen again. What nobody told of an adapter that was brought
    in from elsewhere is None.
    """

    schema_version: Literal[1] = 1
    id: str
    name: str
    modes: list[Mode] = Field(max_length=len(Mode))
    base: BaseModelRecord
    data: DataRecord | None = None
    system_prompt_sha256: str | None = None
    files: dict[str, str]
    """sha256 of every other file that serving reads."""
    created: AwareDatetime
    published: AwareDatetime
    origin: str | None = Field(default=None, max_length=1000)
    """Where an adapter that was brought in comes from: a hub id with its commit, or a folder's name."""

    def info(
        self,
        state: Literal["ready", "loading", "unloaded", "refused"],
        reason: str | None,
        *,
        pinned: bool = False,
        kind: Literal["lora", "full"] = "lora",
    ) -> AdapterInfo:
        """Return what ``GET /adapters`` tells of it."""
        return AdapterInfo(
            id=self.id,
            name=self.name,
            state=state,
            base=self.base.model,
            created=self.created,
            modes=self.modes,
            reason=reason,
            data_file=self.data.file if self.data else None,
            pinned=pinned,
            kind=kind,
        )


class AdapterManifest(ServedManifest):
    """What is known of an adapter that was trained here."""

    data: DataRecord
    recipe: dict[str, Any]
    seed: int
    system_prompt_sha256: str
    losses: LossRecord
    samples: list[AnswerSample] = []
    seconds: dict[str, float]
    versions: dict[str, str]


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


def read_manifest(folder: Path, kind: type[Manifest]) -> Manifest:
    """Return the manifest of a published adapter.

    Args:
        kind: how much of it is needed: what serving needs, or all of one that was trained here.

    Raises:
        ValueError: there is none, it cannot be read, its id is not the registry's, or the folder has another name.
    """
    path = folder / MANIFEST
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"{folder.name}: {MANIFEST} is no plain file of a sensible size")
        manifest = kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(f"{folder.name}: no readable {MANIFEST} ({type(error).__name__})") from error
    if manifest.id != folder.name:
        raise ValueError(f"{folder.name}: the manifest names another adapter, {manifest.id[:80]}")
    name, _, digest = manifest.id.rpartition(".")
    if not ADAPTER_NAME.fullmatch(name) or not re.fullmatch("[0-9a-f]{12}", digest) or manifest.name != name:
        raise ValueError(f"{folder.name}: the id is not NAME.<digest> with the manifest's own name")
    return manifest


def checkpoint_digest(files: Mapping[str, str]) -> str:
    """Return the first 12 hex digits over the names and digests of a model's files."""
    lines = "".join(f"{name} {files[name]}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def published_checkpoints(home: Home) -> list[ServedManifest]:
    """Return the manifests of all fully fine-tuned models, newest first."""
    return published(home.checkpoints, ServedManifest)


def published_adapters(home: Home, kind: type[Manifest]) -> list[Manifest]:
    """Return the manifests of all published adapters, newest first. Folders without a good one are left out."""
    return published(home.adapters, kind)


def published(parent: Path, kind: type[Manifest]) -> list[Manifest]:
    """Return the manifests of what is published in a folder, newest first."""
    found = []
    if parent.is_dir():
        for folder in parent.iterdir():
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            try:
                found.append(read_manifest(folder, kind))
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
def whole_folder(parent: Path, owner: str = "") -> Iterator[Path]:
    """Give a temporary folder under ``parent`` to fill; the caller renames it into place with :func:`move_into_place`.

    Whatever is still there at the end is removed.

    Args:
        owner: of whom there is but one at a time; it removes what a killed one left (:func:`sweep_unfinished`).
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".unfinished-{owner}", dir=parent))
    os.chmod(folder, 0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_unfinished(parent: Path, owner: str) -> None:
    """Remove what an owner that was killed left of :func:`whole_folder`."""
    for folder in parent.glob(f".unfinished-{owner}*"):
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
