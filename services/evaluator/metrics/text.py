"""Words as the metrics see them: each in one form for all its forms, numbers as numbers however they are written."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, Literal

import snowballstemmer

Kind = Literal["word", "number", "date", "time", "phone", "contact", "mark"]
Language = Literal["ru", "en", "other"]

_INVISIBLE = re.compile("[\u00ad\u0301\u200b-\u200d\u2060\ufeff]")  # soft hyphen, stress mark, zero width
_FRACTIONS = {"½": ".5", "¼": ".25", "¾": ".75"}  # NFKC would make 61/2 of 6½
_LETTER = r"[^\W\d_]"
_TOKEN = re.compile(
    rf"""
    (?P<contact>[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?:https?://|www\.)[^\s«»"()<>]+
        |(?<![\w.@])(?:[a-z0-9-]+\.)+[a-z]{{2,}}(?!\w))
    |(?P<phone>(?<![\w+])(?:\+\d{{1,3}}|8)[\s-]?\(?\d{{3}}\)?[\s-]?\d{{3}}[\s-]?\d{{2}}[\s-]?\d{{2}}(?!\d))
    |(?P<date>(?<![\d.-])(?:\d{{4}}-\d\d?-\d\d?|\d\d?\.\d\d?\.\d{{4}}|\d\d?/\d\d?/\d{{4}})(?!\d))
    |(?P<time>(?<![\d:])(?:[01]?\d|2[0-3]):[0-5]\d(?![\d:]))
    |(?P<number>(?:\d{{1,3}}(?:[ \u00a0\u202f\u2009]\d{{3}})+(?!\d)(?:[.,]\d{{1,2}}(?!\d))?|\d+(?:[.,]\d+)*|\.\d+)
        (?:-?(?:st|nd|rd|th|s|го|й|я|е|ый|ой|ая|ое|ти|му|м|х)(?!\w))?)
    |(?P<word>{_LETTER}(?:[^\W_]|[-'](?=[^\W_]))*)
    |(?P<mark>\S)
    """,
    re.VERBOSE,
)
_ENDING = re.compile(r"(?<=[a-z0-9])[-'][а-я]{1,3}$|'s?$")  # Python'е, ChatGPT-ом, Lorentz's
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|\n+")

_UNITS = {
    "ноль": 0, "один": 1, "два": 2, "три": 3, "четыре": 4, "пять": 5, "шесть": 6, "семь": 7, "восемь": 8, "девять": 9,
    "десять": 10, "одиннадцать": 11, "двенадцать": 12, "тринадцать": 13, "четырнадцать": 14, "пятнадцать": 15,
    "шестнадцать": 16, "семнадцать": 17, "восемнадцать": 18, "девятнадцать": 19, "двадцать": 20, "тридцать": 30,
    "сорок": 40, "пятьдесят": 50, "шестьдесят": 60, "семьдесят": 70, "восемьдесят": 80, "девяносто": 90, "сто": 100,
    "двести": 200, "триста": 300, "четыреста": 400, "пятьсот": 500, "шестьсот": 600, "семьсот": 700, "восемьсот": 800,
    "девятьсот": 900, "двое": 2, "трое": 3, "четверо": 4, "пятеро": 5, "полтора": 1.5,
    "третий": 3, "четвертый": 4, "пятый": 5, "шестой": 6, "седьмой": 7, "восьмой": 8, "девятый": 9, "десятый": 10,
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
    "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10,
    "eleventh": 11, "twelfth": 12,
}  # fmt: skip
_UNITS |= {f"{word[:-1]}ый": number for word, number in _UNITS.items() if word.endswith("дцать")}
"""Words of numbers. First and second are not among them: they are as often a turn of speech or a unit of time."""
_MULTIPLIERS = {
    "hundred": 100, "тысяча": 1000, "тыс": 1000, "thousand": 1000, "миллион": 10**6, "млн": 10**6, "million": 10**6,
    "миллиард": 10**9, "млрд": 10**9, "billion": 10**9,
}  # fmt: skip
_ONE = ("один", "one")

_FUNCTION_TAGS = frozenset({"PREP", "CONJ", "PRCL", "NPRO", "INTJ"})
# What the tagger takes for a noun, verb or adverb, and what still says nothing.
_EMPTY_RUSSIAN = frozenset(
    "быть мочь можно который какой каков сколько где когда как почему зачем также еще уже очень просто сейчас"
    " около здравствовать привет добрый пожалуйста конечно спасибо".split()
)
_EMPTY_ENGLISH = frozenset(
    "a an the of in on at to for from by with without about as into over after before during between and or but"
    " if than then so not no nor never is are was were be been being am do does did done has have had having can"
    " could will would shall should may might must i you he she it we they me him her us them my your his its our"
    " their this that these those there here what which who whom whose when where why how many much some any all"
    " also very just only too s t d ll re ve m please hello hi yes most more both each other another such since"
    " through under until while although because despite unlike however according".split()
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, number or mark. ``term`` is one form for all its forms; ``number`` is set for numbers alone."""

    text: str
    kind: Kind
    term: str
    number: float | None = None


def clean(text: str) -> str:
    """Return the text without what does not change its meaning: compatibility forms, ё, invisible characters."""
    for sign, decimal in _FRACTIONS.items():
        text = text.replace(sign, decimal)
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    return text.replace("ё", "е").replace("Ё", "Е").replace("’", "'").replace("`", "'")


@lru_cache(maxsize=20_000)
def tokens(text: str) -> tuple[Token, ...]:
    """Return the tokens of a text in order, numbers in words merged into one: ``двадцать пять`` is 25, трёх is 3."""
    text = clean(text)
    russian = language(text) == "ru"
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind: Kind = match.lastgroup  # type: ignore[assignment]
        found.extend(_read(match[0], kind, russian))
    return tuple(_merged(found))


def words(text: str) -> list[str]:
    """Return the words and numbers as they are written, lower case, ё as е."""
    return [token.text.lower() for token in tokens(text) if token.kind != "mark"]


def lemmas(text: str) -> list[str]:
    """Return the terms of all words and numbers in order, without English articles."""
    articles = ("a", "an", "the")
    return [token.term for token in tokens(text) if token.kind != "mark" and token.text.lower() not in articles]


def content(text: str) -> list[str]:
    """Return the terms of the words that say something (no prepositions, pronouns, auxiliaries), without numbers."""
    return [token.term for token in tokens(text) if is_content(token)]


def is_content(token: Token) -> bool:
    """Tell whether a token is a word that says something."""
    return token.kind == "word" and not _is_empty(token.text.lower())


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; a full stop inside a number or an address ends none."""
    return [part for part in _SENTENCE.split(text.strip()) if part.strip()]


def language(text: str) -> Language | None:
    """Return the language of most letters, None where there are none. Latin letters are taken for English."""
    shares = _letters(text)
    if not shares:
        return None
    russian, latin = shares
    return "ru" if russian >= 0.5 else "en" if latin >= 0.5 else "other"


def russian_share(text: str) -> float | None:
    """Return the share of Russian letters among all letters, 0 to 1; None where there are none."""
    shares = _letters(text)
    return shares[0] if shares else None


def parse(word: str) -> Any:
    """Return pymorphy3's best reading of a lower-case Russian word; a numeral where it can be one."""
    readings = _morphology().parse(word)
    numeral = next((reading for reading in readings if reading.tag.POS == "NUMR"), None)
    return numeral if numeral and word != "семью" else readings[0]  # which is a family more often than seven


@lru_cache(maxsize=200_000)
def lemma(word: str) -> str:
    """Return the dictionary form of a lower-case word; of an English one the word itself."""
    return str(parse(word).normal_form).replace("ё", "е") if is_russian(word) else word


@lru_cache(maxsize=200_000)
def term(word: str) -> str:
    """Return one form for all forms of a lower-case word: the stem of its lemma."""
    word = _ENDING.sub("", word) or word
    # A stemmer keeps its place in itself, so threads must not share one.
    if is_russian(word):
        # The lemma brings together идти and шёл; the stem what lemmas keep apart, such as a verb's aspects.
        stem = str(snowballstemmer.stemmer("russian").stemWord(lemma(word)))
        return stem if len(stem) > 1 else lemma(word)  # of УИИ the stemmer leaves a single letter
    return str(snowballstemmer.stemmer("english").stemWord(word))


def is_russian(word: str) -> bool:
    """Tell whether a lower-case word begins with a Russian letter."""
    return "а" <= word[:1] <= "я"


def written(number: float) -> str:
    """Return a number in its one form: 29900, 2.5."""
    return str(int(number)) if number == int(number) else f"{number:g}"


def _read(text: str, kind: Kind, russian: bool) -> Iterator[Token]:
    if kind == "number":
        number = _number(re.sub(r"-?[^\W\d_]+$", "", text), russian)
        yield Token(text, "word", text.lower()) if number is None else Token(text, kind, written(number), number)
    elif kind == "word":
        if (rest := text.lower().removeprefix("пол")) != text.lower() and lemma(rest) in TIME:  # полгода
            yield Token(text[:3], "number", "0.5", 0.5)
            yield Token(text[3:], kind, term(rest))
            return
        parts = text.split("-")
        joined = all(lemma(part.lower()) in _UNITS for part in parts)  # twenty-five
        for part in parts if joined else [text]:
            yield Token(part, kind, term(part.lower()))
    elif kind == "contact":
        address = re.sub(r"^https?://(www\.)?|^www\.", "", text.rstrip(".,;:!?")).rstrip("/")
        yield Token(text, kind, address.lower())
    elif kind == "phone":
        digits = re.sub(r"\D", "", text)
        yield Token(text, kind, "7" + digits[1:] if len(digits) == 11 and digits[0] == "8" else digits)
    elif kind == "date":
        yield Token(text, kind, _date(text, russian))
    elif kind == "time":
        yield Token(text, kind, text.zfill(5))
    else:
        yield Token(text, kind, text)


def _number(text: str, russian: bool) -> float | None:
    """Return the value of digits with separators; None for versions and addresses such as 1.2.3."""
    text = re.sub(r"\s", "", text)
    comma, point = text.count(","), text.count(".")
    if comma and point:
        decimal = max(",.", key=text.rfind)
        text = text.replace(",.".replace(decimal, ""), "").replace(decimal, ".")
    elif comma:
        head, *groups = text.split(",")
        thousands = all(len(group) == 3 for group in groups) and 0 < len(head) <= 3 and head != "0"
        # 1,345 is a thousand in English and little more than one in Russian.
        text = text.replace(",", "") if thousands and (comma > 1 or not russian) else text.replace(",", ".")
    elif point > 1 and all(len(group) == 3 for group in text.split(".")[1:]):
        text = text.replace(".", "")
    try:
        return float(text)
    except ValueError:
        return None


def _date(text: str, russian: bool) -> str:
    """Return YYYY-MM-DD. 03/04/2026 is the 3rd of April in a Russian text and the 4th of March in an English one."""
    numbers = [int(part) for part in re.split(r"\D", text)]
    if "-" in text:
        year, month, day = numbers
    else:
        day, month, year = numbers
        if month > 12 or ("/" in text and not russian and day <= 12):
            day, month = month, day
    return f"{year:04}-{month:02}-{day:02}"


def _merged(found: Sequence[Token]) -> Iterator[Token]:
    """Join what writes one number: ``двадцать пять``, ``29,9 тыс``, ``two hundred``."""
    at = 0
    while at < len(found):
        total, value, last, end = 0.0, 0.0, float("inf"), at
        while end < len(found):
            token = found[end]
            word = lemma(token.text.lower()) if token.kind == "word" else ""
            if (token.number is not None or word in _UNITS) and end == at:
                value = last = _UNITS[word] if token.number is None else token.number
            elif word in _MULTIPLIERS and (end > at or word not in ("тыс", "млн", "млрд", "hundred")):
                value = (value or 1) * _MULTIPLIERS[word]
                if _MULTIPLIERS[word] >= 1000:
                    total, value = total + value, 0.0
                last = _MULTIPLIERS[word]
            # A unit follows a ten, a ten follows a hundred: "двадцать пять", but "two three" are two numbers.
            elif word in _UNITS and end > at and found[at].kind == "word" and _UNITS[word] < _place(last):
                value += _UNITS[word]
                last = _UNITS[word]
            else:
                break
            end += 1
        if end == at or (end == at + 1 and lemma(found[at].text.lower()) in _ONE and not _counts(found, at)):
            yield found[at]
            at += 1
        else:
            number = total + value
            text = " ".join(token.text for token in found[at:end])
            if _shares_multiplier(found, at, end):
                number *= _MULTIPLIERS[lemma(found[end + 2].text.lower())]
            yield replace(found[at], text=text, kind="number", term=written(number), number=number)
            at = end


def _shares_multiplier(found: Sequence[Token], at: int, end: int) -> bool:
    """Tell whether a number is the first of a range whose second alone tells the thousands: ``30 to 50 thousand``."""
    if end != at + 1 or end + 2 >= len(found) or found[end].text.lower() not in ("to", "до", "-", "–", "—"):
        return False
    return found[end + 1].number is not None and lemma(found[end + 2].text.lower()) in _MULTIPLIERS


def _place(number: float) -> float:
    """Return what may follow a number in its own words: less than 10 after 20, less than 100 after 100."""
    if number >= 1000:
        return number
    return 100 if number >= 100 else 10 if number >= 20 else 0


def _counts(found: Sequence[Token], at: int) -> bool:
    """Tell whether "one" is a number here: alone, before a unit of time or раз; else it is as often a pronoun."""
    following = found[at + 1].text.lower() if at + 1 < len(found) else ""
    alone = len([token for token in found if token.kind != "mark"]) == 1
    return alone or lemma(following) in TIME or following.rstrip("s") in TIME or lemma(following) == "раз"


TIME: dict[str, tuple[str, float]] = {
    "секунда": ("minute", 1 / 60), "минута": ("minute", 1), "час": ("minute", 60), "день": ("day", 1),
    "сутки": ("day", 1), "неделя": ("day", 7), "месяц": ("month", 1), "квартал": ("month", 3), "год": ("month", 12),
    "second": ("minute", 1 / 60), "minute": ("minute", 1), "hour": ("minute", 60), "day": ("day", 1),
    "week": ("day", 7), "month": ("month", 1), "year": ("month", 12), "decade": ("month", 120),
    "century": ("month", 1200),
}  # fmt: skip
"""Units of time: what they can be counted in, and how many of that they are."""


@lru_cache(maxsize=200_000)
def _is_empty(word: str) -> bool:
    if not is_russian(word):
        return word in _EMPTY_ENGLISH or word.endswith("n't") or word.partition("'")[0] in ("i", "we", "you", "they")
    reading = parse(word)
    return (
        reading.tag.POS in _FUNCTION_TAGS
        or "Apro" in reading.tag
        or lemma(word) in _EMPTY_RUSSIAN
        or word in ("нет", "нельзя")  # they turn the meaning of others: values.polarity
    )


def _letters(text: str) -> tuple[float, float] | None:
    """Return the shares of Russian and of Latin letters among all letters."""
    letters = [char for char in text.lower() if char.isalpha()]
    if not letters:
        return None
    russian = sum("а" <= char <= "я" or char == "ё" for char in letters)
    latin = sum(char < "\u0250" for char in letters)
    return russian / len(letters), latin / len(letters)


@cache
def _morphology() -> Any:
    """Return the dictionary of Russian (15 MB, read once, at the first Russian word)."""
    import pymorphy3

    return pymorphy3.MorphAnalyzer()
