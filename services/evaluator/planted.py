"""Answers whose grade is known, made from a file's own rows: how often does the offline correctness grade them so?

``asktwice bench metrics`` prints the table.
"""

import random
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from contracts.groups import normalized
from contracts.table import Row, parse_table, read_bytes
from services.evaluator.metrics.correctness import PHRASE, Thresholds, abstains, correctness, evidence, grade
from services.evaluator.metrics.text import language, sentences
from services.evaluator.metrics.values import bare, values

Report = Callable[[int, int, str], None]

_DONT_KNOW = {
    "ru": (
        "Не знаю.",
        "К сожалению, я не знаю. Оставьте заявку, и менеджер вам поможет.",
        "У меня нет информации об этом, уточните, пожалуйста, у менеджера.",
        "В предоставленных документах об этом не сказано.",
        "Я не могу ответить на этот вопрос.",
        "I'm sorry, but I cannot answer that question.",
        "I don't know.",
    ),
    "en": (
        "I don't know.",
        "I'm sorry, but I cannot answer that question.",
        "The context does not mention this.",
        "There is no information about that in the passages.",
        "I am not sure, please ask a manager.",
        "The text doesn't say.",
        "It is not specified in the given documents.",
    ),
}
_PADDING = {
    "ru": (
        "Спасибо за ваш вопрос, мы всегда рады помочь!",
        "Это действительно важная тема, которая волнует многих людей.",
        "Мы стараемся отвечать подробно и понятно.",
        "Надеемся, что этот ответ был для вас полезен.",
        "Обращайтесь к нам в любое удобное время.",
    ),
    "en": (
        "Thank you for your question, we are always glad to help!",
        "This is indeed an important topic that many people care about.",
        "We try to answer in detail and clearly.",
        "We hope that this answer was useful to you.",
        "Feel free to contact us at any time.",
    ),
}
_SENTENCE = {"ru": "Если коротко, то ответ на ваш вопрос такой: {}.", "en": "The short answer to that question is: {}."}
_NUMBER = re.compile(r"(?<![\w.,:⁄-])(?:\d{1,3}(?:[ \u00a0]\d{3})+|\d+)(?![\w:,⁄-]|\.\d)")
_NAME = re.compile(r"«[^»]+»|(?<=[\w,] )[A-ZА-Я][\w']+(?: [A-ZА-Я][\w']+)*|^[A-Z][\w']+(?: [A-Z][\w']+)*$")
_IN_WORDS = {
    "ru": ["ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять", "десять"],
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
}
_VERBS = re.compile(r" (нужно|длится|проходит|проходят|входит|помогает|даём|есть|стоит|идут|идёт|учат) ")


@dataclass(frozen=True, slots=True)
class Planted:
    """An answer, and the grades that are right for it."""

    kind: str
    row: Row
    answer: str
    expected: tuple[float, ...]


def planted(rows: Sequence[Row], seed: int = 1) -> Iterator[Planted]:
    """Yield the answers that can be made from each row: see docs/metrics.md for the kinds."""
    drawn = random.Random(seed)
    names = sorted({name for row in rows for name in _NAME.findall(row.answer)})
    for row in rows:
        reference = row.answer
        tongue = "ru" if language(reference + row.question) == "ru" else "en"
        short = len(reference.split()) <= PHRASE
        yield Planted("the reference", row, reference, (1,))
        if short:
            yield Planted("a sentence around it", row, _SENTENCE[tongue].format(reference), (1,))
            told = [part for part in sentences(row.context) if f" {reference.lower()} " in f" {part.lower()} "]
            if told:
                yield Planted("the context's sentence", row, told[0], (1,))
        padding = drawn.sample(_PADDING[tongue], 4)
        yield Planted("padded", row, " ".join([padding[0], _ended(reference), *padding[1:]]), (1,))
        if (other := _in_words(reference, tongue)) != reference:
            yield Planted("numbers written otherwise", row, other, (1,))
        if swapped := _number_swapped(row, drawn):
            yield Planted("a number swapped", row, swapped, (0,))
        if swapped := _name_swapped(row, names, drawn):
            yield Planted("a name swapped", row, swapped, (0,))
        if swapped := _denied(reference):
            yield Planted("denied", row, swapped, (0,))
        if short_form := _truncated(reference):
            yield Planted("truncated", row, short_form, (0, 0.5))
        other_row = drawn.choice(rows)
        if other_row.context != row.context and _differ(other_row.answer, reference):
            yield Planted("another row's answer", row, other_row.answer, (0,))
        yield Planted("does not know", row, drawn.choice(_DONT_KNOW[tongue]), (0,))


def figures(
    path: Path, seed: int = 1, report: Report = lambda done, total, note: None
) -> dict[str, dict[str, dict[str, float]]]:
    """Grade the planted answers of a file.

    Args:
        path: a CSV with the columns ``question``, ``answer`` and ``context``.
        seed: of what is swapped by what.
        report: told how many rows were graded, of how many.

    Returns:
        for each half of the file (its contexts parted by their hash: thresholds were chosen on ``chosen_on``, not on
        ``held_out``) and each kind: ``answers``, and the share ``as_it_should`` that got a right grade.

    Raises:
        InvalidInput: the file cannot be read, or is refused.
    """
    rows = parse_table(read_bytes(path), path.name, ("question", "answer", "context")).rows
    found: dict[str, dict[str, list[bool]]] = {"chosen_on": defaultdict(list), "held_out": defaultdict(list)}
    numbers = {id(row): number for number, row in enumerate(rows, 1)}
    for plant in planted(rows, seed):
        got = correctness(plant.answer, plant.row.answer, plant.row.question)
        found[half(plant.row)][plant.kind].append(got in plant.expected)
        report(numbers[id(plant.row)], len(rows), "planted answers")
    return {
        name: {
            kind: {"answers": len(right), "as_it_should": round(sum(right) / len(right), 4)}
            for kind, right in kinds.items()
        }
        for name, kinds in found.items()
    }


def half(row: Row) -> str:
    """Return the half of a file that a row is in; the rows of one context are in the same."""
    return "held_out" if zlib.crc32(normalized(row.context).encode()) % 2 else "chosen_on"


def chosen(rows: Sequence[Row], seed: int = 1) -> Thresholds:
    """Return the thresholds that grade the most of the half ``chosen_on`` as it should be, each kind counted alike."""
    kinds = defaultdict(list)
    for plant in planted([row for row in rows if half(row) == "chosen_on"], seed):
        if not abstains(plant.answer) and not abstains(plant.row.answer):
            found = evidence(plant.answer, plant.row.answer, plant.row.question)
            kinds[plant.kind].append((found, plant.expected))

    def share_right(thresholds: Thresholds) -> float:
        return sum(
            sum(grade(found, thresholds) in expected for found, expected in each) / len(each) for each in kinds.values()
        )

    grid = (
        Thresholds(*each)
        for each in product((0.1, 0.2, 0.3), (0.4, 0.45, 0.5, 0.55, 0.6, 0.7), (0.2, 0.3, 0.4), (2, 3, 4))
    )
    return max(grid, key=share_right)


def _ended(text: str) -> str:
    return text if text.rstrip()[-1:] in ".!?" else f"{text.rstrip()}."


def _in_words(text: str, tongue: str) -> str:
    def other(match: re.Match[str]) -> str:
        digits = re.sub(r"\D", "", match[0])
        if int(digits) <= 10:
            return _IN_WORDS[tongue][int(digits)]
        return digits if digits != match[0] else match[0]

    return _NUMBER.sub(other, text)


def _number_swapped(row: Row, drawn: random.Random) -> str | None:
    """Return the answer with one number changed that the question does not have."""
    places = [match for match in _NUMBER.finditer(row.answer) if match[0] not in row.question]
    if not places:
        return None
    place = drawn.choice(places)
    number = int(re.sub(r"\D", "", place[0]))
    changed = number + drawn.choice([2, 3, 5]) if number < 100 else number + number // 100 * drawn.choice([3, 5, 10])
    text = f"{changed:,}".replace(",", " ") if " " in place[0] else str(changed)
    return row.answer[: place.start()] + text + row.answer[place.end() :]


def _name_swapped(row: Row, names: Sequence[str], drawn: random.Random) -> str | None:
    """Return the answer with a name of another row in place of its own."""
    dates = {value.text for value in values(row.answer) if value.kind == "date"}
    places = [match for match in _NAME.finditer(row.answer) if not any(match[0] in date for date in dates)]
    if not places:
        return None
    place = drawn.choice(places)
    quoted = place[0].startswith("«")
    said = normalized(f"{row.answer} {row.question}").split()
    fit = [name for name in names if name.startswith("«") == quoted and not set(normalized(name).split()) & set(said)]
    return row.answer[: place.start()] + drawn.choice(fit) + row.answer[place.end() :] if fit else None


def _denied(text: str) -> str | None:
    """Return the answer with its first yes, no or verb turned round."""
    turned = {"Да, ": "Нет, ", "Нет, ": "Да, ", "Yes, ": "No, ", "No, ": "Yes, "}
    for begins, other in turned.items():
        if text.startswith(begins):
            return other + text[len(begins) :]
    for denial in (" не ", " not "):
        if denial in text:
            return text.replace(denial, " ", 1)
    if match := _VERBS.search(text):
        return f"{text[: match.start()]} не{text[match.start() :]}"
    return None


def _truncated(text: str) -> str | None:
    """Return the first part of the facts, cut before the first number, or where there is none after a third."""
    kept = bare(text).split()
    if len(kept) < 2:
        return None
    numbers = [place for place, word in enumerate(kept) if any(char.isdigit() for char in word)]
    end = numbers[0] if numbers else max(1, len(kept) // 3)
    return " ".join(kept[:end]) or None


def _differ(one: str, other: str) -> bool:
    left, right = set(normalized(one).split()), set(normalized(other).split())
    return not left <= right and not right <= left and not {*filter(str.isdigit, left)} & {*filter(str.isdigit, right)}
