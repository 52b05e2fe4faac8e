"""How right an answer is, offline: from its values first, from its words where there are no values."""

import re
from typing import NamedTuple

from services.evaluator.metrics.text import content, lemmas, words
from services.evaluator.metrics.values import agree, asked_units, bare, compare, facts, values

_ABSTAINS = re.compile(
    r"""
    \bне\s(?:знаю|знаем|известно|располагаю|располагаем|могу\s(?:точно\s)?(?:ответить|сказать|подсказать|найти|помочь))
    |\bзатрудняюсь|\bнеизвестно\b|\bне\s(?:нашел|нашла|нашли|удалось\sнайти)\b
    |\bнет\s(?:\w+\s){0,2}(?:информации|данных|сведений)|\b(?:информации|данных|сведений)\s(?:\w+\s){0,4}нет\b
    |\bне\s(?:указан|сказан|упомян|упомина|содержит|говорит)\w*\b
    |\b(?:do\snot|don't|doesn't|does\snot)\s(?:know|mention|specify|contain|say|provide\s(?:any\s)?information)
    |\b(?:can't|cannot|can\snot|unable\sto|not\sable\sto|could\snot|couldn't)\s
        (?:answer|find|help|assist|determine|provide|tell)
    |\b(?:not\ssure|no\s(?:relevant\s|such\s)?information|(?:insufficient|not\senough)\s(?:information|context|data))\b
    |\bnot\s(?:mentioned|specified|stated|given|provided|known)\b
    """,
    re.VERBOSE,
)


class Thresholds(NamedTuple):
    """Set on one half of planted answers, tried on the other: docs/metrics.md."""

    on_topic: float = 0.2
    """Beside all values: under this share of words the answer is of something else, unless it says little more."""
    right: float = 0.55
    """Without values: from this share of words the answer is right."""
    part: float = 0.3
    """Without values: from here it is right in part."""
    brief: int = 3
    """Words beyond the reference and the question up to which an answer says little more."""


DEFAULT = Thresholds()
PHRASE = 6
"""Words up to which a reference is a phrase and no sentence."""


class Evidence(NamedTuple):
    """What a grade is made of.

    ``contradicted``: whether a value or a denial of the answer excludes one of the reference. ``values``: the share of
    the values asked for that the answer has; ``words``: the same of the words; None where the reference has none.
    ``further``: how many words the answer has beyond the reference's and the question's. ``says_so``: whether answer
    and reference begin with the same yes or no. ``named``: whether the reference is a phrase whose values are names.
    """

    contradicted: bool
    values: float | None
    words: float | None
    further: int
    says_so: bool
    named: bool


def abstains(text: str, question: str = "") -> bool:
    """Tell whether a text says that it does not know, and gives no number, date or time that would be an answer."""
    plain = " ".join(text.casefold().replace("ё", "е").replace("’", "'").split())
    if not _ABSTAINS.search(plain):
        return False
    asked = {value.key for value in values(question)}
    return {value.key for value in values(text) if value.kind in ("number", "year", "date", "time")} <= asked


def correctness(answer: str, reference: str, question: str = "", thresholds: Thresholds = DEFAULT) -> float:
    """Return 1 for a right answer, 0.5 for a part of it, 0 for a wrong one.

    Right is an answer that has every value of the reference that the question asks for, contradicts none, and agrees
    with the rest of its words well enough. Wrong is one that contradicts, speaks of something else, or does not know.
    Where the reference itself does not know, not knowing is right. What an answer says beyond the reference does not
    count against it: see faithfulness.

    Words are compared by their lemmas: another wording of a reference that has no values may be taken for wrong, and an
    answer that turns it round with the same words for right. A checked judge does better where there is one.
    """
    if abstains(reference, question):
        return float(abstains(answer, question))
    if abstains(answer, question):
        return 0.0
    if lemmas(answer) == lemmas(reference):
        return 1.0
    return grade(evidence(answer, reference, question), thresholds)


def evidence(answer: str, reference: str, question: str = "") -> Evidence:
    """Compare an answer with the reference.

    A phrase such as ``New England Patriots`` must be there with its names. In a whole sentence a name is a word among
    others, so that "the course «Python с нуля» costs 29 900" is answered by the price alone; another name in its place
    contradicts all the same. Where the question tells the unit that it asks for, values in others are not required.
    """
    found = compare(answer, reference, question)
    phrase = len(words(bare(reference))) <= PHRASE
    units = asked_units(question, values(reference))
    sought = [
        (value, there)
        for there, group in ((True, found.matched), (False, found.missing), (False, found.contradicted))
        for value in group
        if (phrase or value.kind != "name") and (not units or value.unit in units or value.kind == "name")
    ]
    named = phrase and bool(sought) and all(value.kind == "name" for value, _ in sought)
    wanted = facts(reference, question, names=named or not phrase)
    if not wanted and not sought and question:
        return evidence(answer, reference)  # the question names all of it: "EU law or national law?"
    said = frozenset(content(answer)).union(*(value.terms for value in found.matched))
    if not wanted and not sought:
        wanted, said = frozenset(lemmas(reference)), frozenset(lemmas(answer))
    return Evidence(
        contradicted=bool(found.contradicted or found.opposite),
        values=sum(there for _, there in sought) / len(sought) if sought else None,
        words=len(wanted & said) / len(wanted) if wanted else None,
        further=len(facts(answer, question) - wanted),
        says_so=agree(answer, reference),
        named=named,
    )


def grade(found: Evidence, thresholds: Thresholds = DEFAULT) -> float:
    """Return 1, 0.5 or 0 for what was found."""
    agreement = found.words or 0.0
    if found.contradicted:
        return 0.0
    if found.values == 1 and found.named:
        return 1.0 if agreement >= thresholds.right else 0.5
    if found.values == 1:
        right = found.words is None or agreement >= thresholds.on_topic or found.further <= thresholds.brief
        return 1.0 if right else 0.0
    if found.values is not None:
        return 0.5 if found.values > 0 or agreement >= thresholds.right else 0.0
    if agreement >= thresholds.right:
        return 1.0
    says_so = found.says_so and found.further <= thresholds.brief
    return 0.5 if agreement >= thresholds.part or says_so else 0.0
