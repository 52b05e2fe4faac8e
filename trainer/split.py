"""Stub."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass

MIN_ROWS_FOR_DEV = 10


@dataclass
class Split:
    train: list
    dev: list
    test: list


def normalized(question):
    text = unicodedata.normalize("NFKC", question).casefold().replace("ё", "е")
    return " ".join(re.findall(r"\w+", text)) or text


def dev_rows(rows, fraction, seed):
    if len(rows) < MIN_ROWS_FOR_DEV:
        return set()
    groups = defaultdict(list)
    for row in rows:
        groups[normalized(row.question)].append(row.number)
    wanted = max(1, round(len(rows) * fraction))
    chosen = set()
    order = sorted(groups, key=lambda question: hashlib.sha256(f"{seed} {question}".encode()).digest())
    for question in order:
        if len(chosen) + len(groups[question]) <= wanted:
            chosen.update(groups[question])
    return chosen


def split_rows(rows, dev, test, seed, by_context=False):
    d = dev_rows(rows, dev, seed)
    return Split([r.number for r in rows if r.number not in d], sorted(d), [])
