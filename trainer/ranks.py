"""More than one process of one training: who speaks, who writes, and what all of them take for true.

Under ``torchrun`` (or Ray Train) every process runs the same :func:`trainer.train.train`; the gradients are averaged by
DistributedDataParallel. The first process reads and writes files; the others are told what it found.
"""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from contracts.errors import AskTwiceError, InvalidInput
from trainer.recipe import Recipe

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: the first reads the data and publishes alone, of large models for long."""


def world() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Tell whether this process is the one that reads, writes and reports."""
    return os.environ.get("RANK", "0") == "0"


def local() -> int:
    """Return which of this machine's GPUs is this process's."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def join(device: str) -> None:
    """Meet the other processes, where there are any."""
    if world() > 1:
        from accelerate import PartialState

        PartialState(cpu=device == "cpu", timeout=PATIENCE)


def told_by_first(find: Callable[[], T]) -> T:
    """Return what the first process finds; the others wait for it and look at nothing themselves.

    An error of ours is told as well: every process raises it.
    """
    if world() == 1:
        return find()
    import torch.distributed as group

    told: list[Any] = [None]
    if is_first():
        try:
            told = [find()]
        except AskTwiceError as error:
            told = [error]
    group.broadcast_object_list(told, src=0)
    if isinstance(told[0], AskTwiceError):
        raise told[0]
    return told[0]  # type: ignore[no-any-return]


def wait_for_all() -> None:
    """Return once every process has come here."""
    if world() > 1:
        import torch.distributed as group

        group.barrier()


def blanks(rows: int, batch_size: int) -> int:
    """Return how many rows are missing in the last batch of an epoch, where several processes share the batches.

    PyTorch would complete it with rows of the epoch's beginning, which then count twice; with rows that carry no loss
    the training is the one of a single process.
    """
    return -rows % batch_size if world() > 1 else 0


def as_one_draws(rows: int, blanks: int, epoch: Callable[[], int]) -> Any:
    """Return a sampler that draws the rows in the order of a single process, then the blanks that stand after them.

    It asks for the epoch when it begins to draw: where a training goes on within an epoch, accelerate tells it to a
    single process's sampler alone, and several would go on in the order of the first epoch (accelerate 1.15).
    """
    from accelerate.data_loader import SeedableRandomSampler
    from torch.utils.data import Sampler

    class AsOneDraws(Sampler[int]):  # accelerate replaces what is a RandomSampler itself
        def __init__(self) -> None:
            self._drawn = SeedableRandomSampler(range(rows))

        def __iter__(self) -> Iterator[int]:
            self._drawn.set_epoch(epoch())
            yield from self._drawn
            yield from range(rows, rows + blanks)

        def __len__(self) -> int:
            return rows + blanks

    return AsOneDraws()


def check(recipe: Recipe) -> None:
    """Refuse what several processes would compute wrongly.

    FSDP cuts the packed 4-bit weights as if they were numbers: the losses are wrong from the second step on, and no
    error says so (accelerate issue 3983, bitsandbytes issue 1945).

    Raises:
        InvalidInput: FSDP, or a batch that the processes cannot share evenly.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"):
        why = (
            "it would cut the packed 4-bit weights as if they were numbers, and train on wrong ones without an error"
            if recipe.quantization == "nf4"
            else "a sharded result cannot be published yet"
        )
        raise InvalidInput(
            f"FSDP is refused: {why}. Start the same command under torchrun instead: each GPU then holds the base, and"
            " gradients are averaged."
        )
    if recipe.batch_size % world():
        raise InvalidInput(
            f"batch_size {recipe.batch_size} cannot be shared evenly by {world()} processes: give a multiple of it."
        )
