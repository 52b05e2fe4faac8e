"""The hand-written sentences and questions of the training text, one JSON file a domain in the folder ``templates``.

A relation is one thing that can be said and asked ("what a visit costs"): sentences that tell it, questions that ask
it. ``{N}`` ``{G}`` ``{A}`` ``{L}`` stand for the thing with its name (nominative, genitive, accusative, "in it"), every
other placeholder for a value, by the name of the method of :class:`~trainer.pretrain.words.Words` that draws it.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "templates"
# Training never reads these: the evaluation asks about them.
HELD_OUT_DOMAINS = frozenset(
    "summer_camp pet_shop veterinary museum hotel printing_house job_agency bakery".split()
) | {"bike_rental_en"}
NAMES = frozenset("NGAL")


def placeholders(template: str) -> list[str]:
    """The placeholders of a template, in their order."""
    return re.findall(r"\{(\w+)\}", template)


def is_named(template: str) -> bool:
    """Whether the template speaks of the thing by its name."""
    return not NAMES.isdisjoint(placeholders(template))


@dataclass(frozen=True, slots=True)
class Relation:
    """One thing that can be told and asked.

    Attributes:
        told: sentences with the value; of a yes/no relation none.
        yes, no: the sentences of a yes/no relation, else none.
        asked: questions. The last two, and the last sentence of each list, are held out.
        values: what ``{v}`` and ``{list}`` are drawn from.
        unit: the three forms of what ``{count}`` counts.
    """

    told: tuple[str, ...]
    yes: tuple[str, ...]
    no: tuple[str, ...]
    asked: tuple[str, ...]
    values: tuple[str, ...]
    unit: tuple[str, ...]

    def sentences(self, held_out: bool, positive: bool = True) -> tuple[str, ...]:
        """The sentences to tell it with."""
        every = (self.yes if positive else self.no) if self.yes else self.told
        return every[-1:] if held_out else every[:-1]

    def questions(self, held_out: bool) -> tuple[str, ...]:
        """The questions to ask it with."""
        return self.asked[-2:] if held_out else self.asked[:-2]


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """One field of life: what its things are called and what is said about them."""

    name: str
    title: str
    english: bool
    nouns: tuple[tuple[str, str, str, str], ...]
    names: tuple[str, ...]
    described: tuple[str, ...]
    relations: tuple[Relation, ...]
    fillers: tuple[str, ...]


def read(path: Path) -> Domain:
    """Read one domain's file."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    keys = ("told", "yes", "no", "asked", "values", "unit")
    relations = tuple(Relation(*(tuple(relation.get(key, ())) for key in keys)) for relation in raw["relations"])
    return Domain(
        path.stem,
        raw["title"],
        path.stem.endswith("_en"),
        tuple((noun[0], noun[1], noun[2], noun[3]) for noun in raw["nouns"]),
        tuple(raw["names"]),
        tuple(raw["described"]),
        relations,
        tuple(raw["fillers"]),
    )


@cache
def domains(held_out: bool) -> tuple[Domain, ...]:
    """The domains of the training, or those that are kept for the evaluation."""
    return tuple(read(path) for path in sorted(FOLDER.glob("*.json")) if (path.stem in HELD_OUT_DOMAINS) == held_out)
