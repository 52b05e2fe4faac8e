"""Checkpoints that can be trusted: sealed by a list of digests, which is written last.

transformers writes a checkpoint file by file under its final name, and resumes from one that lacks files without a
word. So a checkpoint counts only when each of its files is what the seal says.
"""

import errno
import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.artifacts import Home, sha256_file, write_json_atomically
from contracts.errors import NotReady

SEAL = "complete.json"
_PREFIX = "checkpoint-"


def checkpoint(run: Path, step: int) -> Path:
    return run / f"{_PREFIX}{step}"


def seal(folder: Path) -> None:
    """Declare a checkpoint complete."""
    write_json_atomically(folder / SEAL, _digests(folder))


def is_whole(folder: Path) -> bool:
    """Tell whether every file of a checkpoint is there as it was sealed."""
    try:
        return bool(json.loads((folder / SEAL).read_bytes()) == _digests(folder))
    except (OSError, ValueError):
        return False


def newest_whole(run: Path) -> Path | None:
    """Return the checkpoint to resume from; what is newer and not whole is removed.

    The best checkpoint so far must be whole as well, as it may be the one to publish.
    """
    folders = [folder for folder in run.glob(f"{_PREFIX}*") if folder.name.removeprefix(_PREFIX).isdigit()]
    for folder in sorted(folders, key=lambda path: int(path.name.removeprefix(_PREFIX)), reverse=True):
        if is_whole(folder) and _best_is_whole(run, folder):
            return folder
        shutil.rmtree(folder)
    return None


def _best_is_whole(run: Path, folder: Path) -> bool:
    best = json.loads((folder / "trainer_state.json").read_bytes()).get("best_global_step")
    return best is None or is_whole(checkpoint(run, best))


def check_room(run: Path, model: Any, kept: int) -> None:
    """Refuse to begin a training whose checkpoints the disk has no room for.

    Raises:
        NotReady: says how much is missing.
    """
    run.mkdir(parents=True, exist_ok=True)
    needed, free = kept * checkpoint_bytes(model), shutil.disk_usage(run).free
    if free < needed:
        raise NotReady(
            f"The disk has {free / 1e6:,.0f} MB free, and the checkpoints of this training need {needed / 1e6:,.0f}"
            f" MB ({kept} of them). Free some space or give another --home."
        )


def checkpoint_bytes(model: Any) -> int:
    """Return about how large a checkpoint is: what is trained with AdamW's two moments, in float32, and a tokenizer."""
    trained: int = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return 3 * 4 * trained + 5_000_000


def explain_full_disk(run: Path, model: Any, error: Exception) -> None:
    """
    Raises:
        NotReady: the error is that of a disk without room, whichever library says it and however.
    """
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    written = any(word in str(error) for word in ("PytorchStreamWriter", "No space left", "unexpected pos"))
    if full or (written and shutil.disk_usage(run).free < checkpoint_bytes(model)):
        raise NotReady(
            "The disk is full. Nothing was published; free some space, and the same command goes on from the last"
            " whole checkpoint."
        ) from error


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


@contextmanager
def only_training(home: Home) -> Iterator[None]:
    """Hold the home's training lock; the system frees it when the process ends, however it ends.

    Raises:
        NotReady: another process trains in this home.
    """
    home.training.mkdir(parents=True, exist_ok=True)
    with (home.training / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise NotReady(f"Another training runs in {home.path}. Wait for its end or give another home.") from error
        yield
