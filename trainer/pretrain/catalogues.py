"""Companies with several things of one kind, which differ by name and values: JSON lines in the folder ``catalogues``.

Each thing can be told of in several texts, which share their slots; a question tells by the name, or by what
customers call the thing, whose value it asks for. Beside them stand texts about the company as a whole.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trainer.pretrain.notices import Agreed, Notice, Slot, read_agreed, read_notice, read_slots

FOLDER = Path(__file__).parent / "catalogues"
# What begins no item of a list: with it, the words of a list hang together.
NO_ITEM = (
    "в|во|на|с|со|по|из|для|от|до|к|без|за|о|об|про|у|при|под|над|или|а|но|не|что|чтобы|как|один|снаружи|"
    "on|in|at|from|with|for|by|to|of|or"
)
HELD_OUT_FILES = ("products", "events")


@dataclass(frozen=True, slots=True)
class Name:
    """A thing's name and what customers call it, in a form that is nominative and accusative."""

    name: str
    calls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Both:
    """Questions that ask for two slots at once."""

    slots: tuple[str, str]
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Things that are akin, told of in one list.

    Attributes:
        unit: what they are, after 1, 2 and 5.
        whom: for whom each is, in the order of the names.
        told: sentences with ``{list}`` and, some of them, ``{number}``.
        more: sentences that may follow.
        asked: questions for the whole list.
    """

    unit: tuple[str, str, str]
    names: tuple[str, ...]
    whom: tuple[str, ...]
    told: tuple[str, ...]
    more: tuple[str, ...]
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """A company: its things, the texts about one of them, how these are asked about, the texts about all.

    Attributes:
        texts: sentences with slots; the first names the thing and is never left out.
        agreed: yes/no questions, by the index of their text.
        missing: questions about a thing that no text answers.
        about: what is told of the company.
    """

    field: str
    english: bool
    names: tuple[Name, ...]
    texts: tuple[tuple[str, ...], ...]
    slots: dict[str, Slot]
    both: tuple[Both, ...]
    agreed: tuple[tuple[int, Agreed], ...]
    missing: tuple[str, ...]
    about: tuple[Notice, ...]
    groups: tuple[Group, ...]


def read(line: str) -> Catalogue:
    """Read one line."""
    raw = json.loads(line)
    return Catalogue(
        raw["field"],
        raw["field"].endswith("(en)"),
        tuple(Name(name["name"], tuple(name["calls"])) for name in raw["names"]),
        tuple(tuple(text) for text in raw["texts"]),
        read_slots(raw["facts"]),
        tuple(Both((both["slots"][0], both["slots"][1]), tuple(both["q"])) for both in raw["both"]),
        tuple((yes["text"], read_agreed(yes)) for yes in raw["yes"]),
        tuple(raw["missing"]),
        tuple(read_notice(about, raw["field"]) for about in raw["about"]),
        tuple(
            Group((one, two, five), *(tuple(group[key]) for key in ("names", "whom", "told", "more", "q")))
            for group in raw.get("groups", ())
            for one, two, five in [group["unit"]]
        ),
    )


def items(values: tuple[str, ...]) -> tuple[str, ...]:
    """The things that lists are made of, where every value is a list: they can be listed anew.

    >>> items(("чай, хлеб и мёд", "соль и рис"))
    ('чай', 'хлеб', 'мёд', 'соль', 'рис')
    """
    lists = [re.split(r", | и | and ", value) for value in values]
    every = tuple(dict.fromkeys(item for parts in lists for item in parts))
    words = re.compile(rf"(?!(?:{NO_ITEM}) )[А-Яа-яёA-Za-z -]+")
    plain = all(len(parts) > 1 for parts in lists) and all(words.fullmatch(item) for item in every)
    plain = plain and not any(joint in value for value in values for joint in (" или ", " or "))
    return every if plain and all(len(item.split()) < 4 for item in every) else ()


@cache
def catalogues(held_out: bool, english: bool) -> tuple[Catalogue, ...]:
    """The catalogues of the training, or those that are kept for the evaluation: two files of other fields of life."""
    every = [
        read(line)
        for file in sorted(FOLDER.glob("*.jsonl"))
        if (file.stem in HELD_OUT_FILES) == held_out
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    return tuple(catalogue for catalogue in every if catalogue.english == english)
