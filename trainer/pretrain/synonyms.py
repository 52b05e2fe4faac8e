"""Words and phrases that can stand for each other, as JSON lines in ``synonyms.jsonl``.

A text of the training is met thousands of times. Worded anew each time, it cannot be known by its words alone.
"""

import json
import random
import re
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "synonyms.jsonl"
SHARE = 0.35  # of the words that could be replaced
# Names are not reworded: what stands in quotes, and capitalised words that begin no sentence.
NAME = re.compile(r"«[^»]*»|\"[^\"]*\"|\{\w+\}|(?<=[а-яё,;:—] )[А-ЯЁ][а-яё]+")


@cache
def synonyms(asked: bool) -> dict[str, tuple[tuple[str, tuple[str, ...]], ...]]:
    """By first word: the forms that begin with it, the longest first, each with what can stand in its place."""
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        if raw["in"] == ("question" if asked else "text"):
            for form in raw["forms"]:
                others = tuple(other for other in raw["forms"] if other != form)
                found.setdefault(form.split()[0].rstrip(":,"), []).append((form, others))
    return {first: tuple(sorted(forms, key=lambda each: -len(each[0]))) for first, forms in found.items()}


def replaced(text: str, asked: bool, rng: random.Random) -> str:
    """Reword a sentence, or a question."""
    known, parts, end = synonyms(asked), list[str](), 0
    kept = [match.span() for match in NAME.finditer(text)]
    lower = text.lower()
    for match in re.finditer(r"(?<!-)[а-яё]+", lower):
        begin = match.start()
        if begin < end or match.group() not in known or any(first <= begin < last for first, last in kept):
            continue
        for form, others in known[match.group()]:
            after = begin + len(form)
            follows = lower[after : after + 1]
            if not lower.startswith(form, begin) or (form[-1].isalpha() and (follows.isalpha() or follows == "-")):
                continue
            if rng.random() < SHARE:
                other = rng.choice(others)
                parts += [text[end:begin], other.capitalize() if text[begin].isupper() else other]
                end = after
            break
    return "".join([*parts, text[end:]])
