"""Rows of one batch that share the beginning of their prompt, as one sequence that holds it once."""

from collections.abc import Callable, Sequence
from typing import Any

from trainer.data import NO_LOSS

MAX_TOGETHER = 4096
"""Tokens of the longest sequence that rows are put together to: its mask alone is 16 MB."""
WORTH_IT = 0.9
"""Share of the padded batch's tokens above which putting together is not worth its mask."""


class SharedPrefixCollator:
    """Puts a batch into one sequence: the common beginning, then what is particular to each row.

    Every row sees the beginning and itself, never another row, at the positions that it has alone; so losses and
    gradients are those of the padded batch. Where a long system prompt meets short questions and answers, most of a
    batch is that prompt, and most of the work is saved.

    Attention within one sequence costs its square, so rows that are long beside what they share are padded instead.

    Args:
        pad: what such a batch is given to.
    """

    def __init__(self, pad: Callable[[Sequence[dict[str, list[int]]]], dict[str, Any]]):
        self._pad = pad

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        """Return ``input_ids, labels, position_ids`` of shape (1, tokens) and a mask of shape (1, 1, tokens, tokens).

        The mask is True where a token (third axis) sees another (fourth axis).
        """
        import torch

        shared = shared_length(rows)
        lengths = [len(row["input_ids"]) for row in rows]
        together = shared + sum(length - shared for length in lengths)
        if together > MAX_TOGETHER or together > WORTH_IT * len(rows) * max(lengths):
            return self._pad(rows)
        first = rows[0]["input_ids"][:shared]
        ids, labels = list(first), [NO_LOSS] * shared
        positions, owners = list(range(shared)), [0] * shared
        for owner, row in enumerate(rows, start=1):
            own = row["input_ids"][shared:]
            ids += own
            labels += row["labels"][shared:]
            positions += range(shared, shared + len(own))
            owners += [owner] * len(own)
        owner_of = torch.tensor(owners)
        seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        seen &= (owner_of[None, :] == 0) | (owner_of[None, :] == owner_of[:, None])
        return {
            "input_ids": torch.tensor([ids]),
            "labels": torch.tensor([labels]),
            "position_ids": torch.tensor([positions]),
            "attention_mask": seen[None, None],
        }


def shared_length(rows: Sequence[dict[str, list[int]]]) -> int:
    """Return how many tokens all rows begin with alike.

    Each row keeps at least the last token of its prompt, which is the one that predicts its answer's first.
    """
    answers = [
        next((i for i, label in enumerate(row["labels"]) if label != NO_LOSS), len(row["labels"])) for row in rows
    ]
    first = rows[0]["input_ids"]
    for length in range(min(answers) - 1):
        if any(row["input_ids"][length] != first[length] for row in rows):
            return length
    return max(min(answers) - 1, 0)
