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
_STATE = "trainer_state.json"


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
    for folder in _newest_first(run):
        if not is_whole(folder):
            shutil.rmtree(folder)
        elif (best := _best(folder)) is None or is_whole(checkpoint(run, best)):
            return folder
    return None


def rotate(run: Path) -> None:
    """Keep the two newest checkpoints and the best one that each of them names; remove the others.

    To be called once the newest is sealed: where that one is damaged later, the one before it still has all it needs.
    (transformers rotates before anything can be sealed, and keeps the best of the newest alone.)
    """
    newest = _newest_first(run)[:2]
    kept = {*newest, *(checkpoint(run, best) for folder in newest if (best := _best(folder)) is not None)}
    for folder in _newest_first(run):
        if folder not in kept:
            shutil.rmtree(folder)


def is_finished(folder: Path) -> bool:
    """Tell whether the training of a checkpoint had come to its end: nothing but publishing is left to do."""
    state = json.loads((folder / _STATE).read_bytes())
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    return bool(state["global_step"] >= state["max_steps"] or control.get("should_training_stop"))


def _newest_first(run: Path) -> list[Path]:
    folders = [folder for folder in run.glob(f"{_PREFIX}*") if folder.name.removeprefix(_PREFIX).isdigit()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix(_PREFIX)), reverse=True)


def _best(folder: Path) -> int | None:
    step: int | None = json.loads((folder / _STATE).read_bytes()).get("best_global_step")
    return step


def check_room(run: Path, model: Any, kept: int) -> None:
    """Refuse to begin a training whose checkpoints the disk has no room for.

    Raises:
        NotReady: says how much is missing.
    """
    run.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())  # of a training that goes on
    needed, free = max(0, kept * checkpoint_bytes(model) - there), shutil.disk_usage(run).free
    if free < needed:
        raise NotReady(
            f"The disk has {free / 1e6:,.0f} MB free, and the checkpoints of this training need {needed / 1e6:,.0f}"
            f" MB more ({kept} of them). Free some space or give another --home; with best_by accuracy every checkpoint"
            " is kept, and evals_per_epoch says how many there are."
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
