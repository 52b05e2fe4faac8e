"""Which rows train, which choose the checkpoint, which measure: divided so that none of them tells another's answer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.facts import same_facts
from contracts.groups import grouped, near_duplicates, normalized
from contracts.table import Row

MIN_ROWS_FOR_DEV = 10
LONG_ANSWER = 80
"""In characters, normalized. Shorter answers are alike without saying the same of the same thing: "Да", "29 900"."""


@dataclass(frozen=True, slots=True)
class Split:
    """Numbers of the rows, each in exactly one part. ``groups`` is how many groups the rows make."""

    train: frozenset[int]
    dev: frozenset[int]
    test: frozenset[int]
    groups: int


def split_rows(
    rows: Sequence[Row], dev_fraction: float, test_fraction: float, seed: int, by_context: bool = False
) -> Split:
    """Divide the rows; those of one group of :func:`row_groups` are never divided.

    The choice depends on what the rows say and on the seed, not on the order of the file; the test part does not depend
    on ``dev_fraction``. A part holds at most its share, and is short of it by less than the smallest group that was
    left for training; only where every group is larger than the share it is one group, the smallest. Training always
    keeps a group. Below ``MIN_ROWS_FOR_DEV`` rows all train.

    Args:
        rows: with different numbers.
        dev_fraction: share of the rows that choose the checkpoint, 0 to 1.
        test_fraction: share of the rows that measure, 0 to 1; 0 where the file is not to be measured on.
        seed: of the choice.
        by_context: keep rows with the same context together as well: what is measured then is how the model answers
            about documents that it never saw.

    Raises:
        ValueError: the shares are negative or leave nothing to train on.
    """
    if min(dev_fraction, test_fraction) < 0 or dev_fraction + test_fraction >= 1:
        raise ValueError(f"shares {dev_fraction} and {test_fraction} leave nothing to train on")
    groups = row_groups(rows, by_context)
    dev: set[int] = set()
    test: set[int] = set()
    if len(rows) >= MIN_ROWS_FOR_DEV:
        named = {min(normalized(row.question) for row in group): {row.number for row in group} for group in groups}
        order = sorted(named, key=lambda question: hashlib.sha256(f"{seed} {question}".encode()).digest())
        left = [named[question] for question in order]
        test = _take(left[::-1], _share(len(rows), test_fraction))
        left = [group for group in left if not group <= test]
        dev = _take(left, _share(len(rows), dev_fraction))
    return Split(
        train=frozenset(row.number for row in rows) - dev - test,
        dev=frozenset(dev),
        test=frozenset(test),
        groups=len(groups),
    )


def row_groups(rows: Sequence[Row], by_context: bool = False) -> list[list[Row]]:
    """Join the rows of which one tells the answer of the other, directly or through others.

    These are joined: the same question but for case, punctuation and spaces; near-duplicate questions; near-duplicate
    answers of at least ``LONG_ANSWER`` characters; rows that ask for the same fact in other words; and with
    ``by_context`` the same context.
    """
    pairs: list[tuple[int, int]] = [(i, j) for i, j, _ in near_duplicates([row.question for row in rows])]
    answers = [normalized(row.answer) for row in rows]
    long = [place for place, answer in enumerate(answers) if len(answer) >= LONG_ANSWER]
    pairs += [(long[i], long[j]) for i, j, _ in near_duplicates([answers[place] for place in long])]
    pairs += [(i, j) for i, j, _ in same_facts(rows, rows) if i < j]
    if by_context:
        first: dict[str, int] = {}
        for place, row in enumerate(rows):
            if row.context:
                pairs.append((first.setdefault(normalized(row.context), place), place))
    return [[rows[place] for place in group] for group in grouped(len(rows), pairs)]


def _share(rows: int, fraction: float) -> int:
    return max(1, round(rows * fraction)) if fraction else 0


def _take(groups: Sequence[set[int]], wanted: int) -> set[int]:
    """Take whole groups in their order while they fit into ``wanted`` rows; one group at least stays behind."""
    taken: set[int] = set()
    left = len(groups)
    for group in groups:
        if left > 1 and len(taken) + len(group) <= wanted:
            taken |= group
            left -= 1
    if wanted and not taken and left > 1:
        taken |= min(groups, key=len)
    return taken
