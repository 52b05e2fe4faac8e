"""What an answer can be right or wrong about: numbers, dates, money, names, and whether something is so or not.

A value of the reference is *matched* where the answer has it, in whatever form; *contradicted* where the answer has
another value in its place (another price, another name, the opposite); else *missing*.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from services.evaluator.metrics.text import (
    TIME,
    Token,
    content,
    is_content,
    is_russian,
    language,
    lemma,
    lemmas,
    parse,
    sentences,
    term,
    tokens,
)

Kind = Literal["number", "year", "date", "time", "phone", "contact", "name"]

_MONTHS = {
    name: number
    for names in (
        "январь февраль март апрель май июнь июль август сентябрь октябрь ноябрь декабрь",
        "january february march april may june july august september october november december",
    )
    for number, name in enumerate(names.split(), 1)
}
_WEEKDAYS = {
    name: number
    for names in (
        "понедельник вторник среда четверг пятница суббота воскресенье",
        "monday tuesday wednesday thursday friday saturday sunday",
    )
    for number, name in enumerate(names.split(), 1)
}
_MEASURES = {
    "%": "percent", "процент": "percent", "percent": "percent",
    "₽": "rub", "руб": "rub", "рубль": "rub", "р": "rub", "rouble": "rub", "rubles": "rub", "roubles": "rub",
    "ruble": "rub", "rub": "rub", "$": "usd", "доллар": "usd", "dollar": "usd", "dollars": "usd", "usd": "usd",
    "€": "eur", "евро": "eur", "euro": "eur", "euros": "eur", "eur": "eur", "£": "gbp", "pounds": "gbp",
}  # fmt: skip
_OF_TIME = {"минутн": "минута", "часов": "час", "дневн": "день", "недельн": "неделя", "месячн": "месяц", "летн": "год"}
_PLURALS = frozenset({"people", "men", "women", "children"})
_QUOTES = {"«": "»", "“": "”", "„": "“", '"': '"'}
_JOINS = frozenset(", и или до - – — and or to".split())
_STOPS = frozenset('.!?…:;«“„"()—-*')
_YES = frozenset("да конечно разумеется безусловно yes sure certainly absolutely".split())
_NO = frozenset(["нет", "no", "nope"])
_BEFORE_YES = frozenset("здравствуйте привет добрый день вечер утро увы к сожалению hello hi unfortunately".split())
_NOT = frozenset("не ни not never cannot no without без нет нету нельзя".split())
_NOT_ONLY = frozenset("только просто лишь only just merely".split())
_POLITE = frozenset("вы вас вам вами ваш ваша ваше ваши вашего вашей вашему вашим ваших вашу".split())
_PRICE = frozenset("стоить цена стоимость прайс price cost costs".split())
_NAMES = frozenset({"Name", "Surn", "Patr", "Geox", "Orgn", "Trad"})


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a text.

    ``key`` is its one form; of a number ``unit`` is the measure or the term of the word that it counts, of a name
    ``terms`` are its words and ``head`` the last of them, by which a person or team is known: ``Newton``.
    """

    kind: Kind
    key: str
    text: str
    number: float = 0.0
    unit: str | None = None
    terms: frozenset[str] = frozenset()
    head: str | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """What became of the reference's values in an answer.

    Values that the question names already are not asked for, and in none of the lists but ``contradicted``, where the
    answer has another in their place. ``foreign`` are the answer's values that neither the reference nor the question
    has; ``opposite`` is what the one denies and the other affirms, as it is written in the reference.
    """

    matched: list[Value]
    missing: list[Value]
    contradicted: list[Value]
    foreign: list[Value]
    opposite: list[str]

    @property
    def precision(self) -> float | None:
        """The share of the answer's values that the reference has; None where it has none."""
        given = len(self.matched) + len(self.foreign)
        return len(self.matched) / given if given else None

    @property
    def recall(self) -> float | None:
        """The share of the reference's values that are matched; None where it has none."""
        wanted = len(self.matched) + len(self.missing) + len(self.contradicted)
        return len(self.matched) / wanted if wanted else None


@lru_cache(maxsize=20_000)
def values(text: str) -> tuple[Value, ...]:
    """Return the values of a text in order, each once."""
    found = tokens(text)
    return tuple(dict.fromkeys([*_counted(found), *_names(found, text)]))


def compare(answer: str, reference: str, question: str = "") -> Compared:
    """Look for the reference's values in an answer."""
    wanted, given, asked = values(reference), values(answer), values(question)
    said, told, known = (frozenset(lemmas(text)) for text in (answer, reference, question))
    foreign = [value for value in given if not _among(value, [*wanted, *asked], told | known)]
    # A word of a title that is there as a whole says nothing of another title with the same word.
    titles = [value.terms for value in given if value.kind == "name" and value.key in {each.key for each in wanted}]
    free = said.difference(*titles)
    matched: list[Value] = []
    missing: list[Value] = []
    contradicted: list[Value] = []
    for value in wanted:
        if _among(value, given, said):
            if not _among(value, asked, known):
                matched.append(value)
        elif any(_instead(value, other, free) for other in foreign):
            contradicted.append(value)
        elif not _among(value, asked, known):
            (matched if value.head and _has(free, value.head) else missing).append(value)
    return Compared(matched, missing, contradicted, foreign, opposites(answer, reference))


def supported(value: Value, texts: Sequence[str]) -> bool:
    """Tell whether one of the texts has a value."""
    return any(_among(value, values(text), frozenset(lemmas(text))) for text in texts)


def agree(answer: str, reference: str) -> bool:
    """Tell whether two texts begin with the same yes or no."""
    ours, theirs = _leads(answer), _leads(reference)
    return ours is not None and theirs is not None and (ours in _YES) == (theirs in _YES)


def opposites(answer: str, reference: str) -> list[str]:
    """Return what the answer denies and the reference affirms, or the other way round."""
    ours, theirs = _leads(answer), _leads(reference)
    found = [theirs] if ours and theirs and (ours in _YES) != (theirs in _YES) else []
    one, other = _polarity(answer), _polarity(reference)
    return found + [word for key, (word, is_so) in other.items() if key in one and one[key][1] is (not is_so)]


def _among(value: Value, others: Sequence[Value], terms: frozenset[str]) -> bool:
    """Tell whether a value is among others; a name is where all its words are, however they are written."""
    if value.kind == "name":
        return all(_has(terms, word) for word in value.terms)
    return any(_same(value, other) for other in others)


def _has(terms: frozenset[str], word: str) -> bool:
    """Tell whether a word is among the terms; an unknown name may keep a part of its ending."""
    if word in terms:
        return True
    least = max(4, len(word) - 2)
    return is_russian(word) and any(
        other[:least] == word[:least] and len(other) <= len(word) + 2 for other in terms if other[:1] == word[:1]
    )


def _same(one: Value, other: Value) -> bool:
    if one.kind == other.kind == "number":
        if one.unit is None or other.unit is None or one.unit == other.unit:
            return one.number == other.number
        if one.unit in TIME and other.unit in TIME:
            (dimension, factor), (same, times) = TIME[one.unit], TIME[other.unit]
            return dimension == same and abs(one.number * factor - other.number * times) < 1e-6
        measured = {*_MEASURES.values(), *TIME}
        return one.number == other.number and one.unit not in measured and other.unit not in measured
    if {one.kind, other.kind} == {"number", "year"}:
        return one.number == other.number and not {one.unit, other.unit} & {*_MEASURES.values(), *TIME}
    if {one.kind, other.kind} == {"number", "time"}:
        number, time = (one, other) if one.kind == "number" else (other, one)
        return number.unit in (None, "час", "hour") and f"{number.number:02.0f}:00" == time.key
    return one.kind == other.kind and one.key == other.key


def _instead(value: Value, other: Value, said: frozenset[str]) -> bool:
    """Tell whether an answer's foreign value stands in the place of a value that it lacks."""
    if value.kind != other.kind:
        return False
    if value.kind == "number":
        if value.number == other.number:  # 5 months for 5 weeks
            return True
        return value.unit is None or other.unit is None or value.unit == other.unit or _same_time(value, other)
    if value.kind == "name":
        # "Broncos" is no other team than "Denver Broncos", and "Newton (Carolina)" no other man than "Cam Newton".
        common = any(_has(other.terms, word) for word in value.terms)
        return common or not any(_has(said, word) for word in value.terms)
    return True


def _same_time(one: Value, other: Value) -> bool:
    return one.unit in TIME and other.unit in TIME and TIME[one.unit][0] == TIME[other.unit][0]


def _counted(found: Sequence[Token]) -> Iterator[Value]:
    used: set[int] = set()
    for at, token in enumerate(found):
        if token.kind in ("phone", "contact", "time"):
            yield Value("time" if token.kind == "time" else token.kind, token.term, token.text)
        elif token.kind == "date":
            yield Value("date", token.term[5:], token.text)
            yield Value("year", token.term[:4], token.text, float(token.term[:4]))
        elif month := _month(found, at):
            beside = [near for near in (at - 1, at + 1) if 0 <= near < len(found) and _is_day(found[near])]
            if beside:
                day = found[beside[0]]
                used.add(beside[0])
                text = " ".join(found[place].text for place in sorted((at, beside[0])))
                yield Value("date", f"{month:02}-{int(day.number or 0):02}", text)
            elif lemma(token.text.lower()) not in ("may", "march", "март", "май") or _near_number(found, at):
                yield Value("date", f"{month:02}", token.text)
        elif (weekday := _weekday(token)) is not None:
            yield Value("date", f"weekday {weekday}", token.text)
    for at, token in enumerate(found):
        if token.number is None or at in used:
            continue
        unit, sign = _unit(found, at)
        unit = unit or _unit_after(found, at)
        year = re.fullmatch(r"[12]\d{3}\D*", token.text) and " " not in token.text
        if year and (unit in ("год", "year") or unit not in {*_MEASURES.values(), *TIME}):
            yield Value("year", token.term, token.text, token.number)
        else:
            yield Value("number", f"{token.term} {unit}", f"{token.text}{sign}", token.number, unit)


def _weekday(token: Token) -> int | None:
    word = token.text.lower()
    if token.kind != "word" or word in ("среда", "среде", "среды", "средой"):  # an environment as well
        return None
    return _WEEKDAYS.get(lemma(word))


def _unit_after(found: Sequence[Token], at: int) -> str | None:
    """Return the unit that a list or range tells once, at its end: ``6, 10 или 12 месяцев``, ``6–8 часов``."""
    following = at + 1
    while following < len(found) and found[following].text.lower() in _JOINS:
        following += 1
    if following == at + 1 or following == len(found) or found[following].number is None:
        return None
    return _unit(found, following)[0] or _unit_after(found, following)


def _month(found: Sequence[Token], at: int) -> int | None:
    token = found[at]
    if token.kind != "word" or (not is_russian(token.text.lower()) and not token.text[0].isupper()):
        return None
    return _MONTHS.get(lemma(token.text.lower()))


def _is_day(token: Token) -> bool:
    return token.number is not None and token.number in range(1, 32)


def _near_number(found: Sequence[Token], at: int) -> bool:
    return any(token.number is not None for token in found[max(0, at - 1) : at + 3])


def _unit(found: Sequence[Token], at: int) -> tuple[str | None, str]:
    """Return what a number counts, and how that is written after it: ``29 900 рублей``, ``3 рабочих дня``, ``$5``."""
    if at and found[at - 1].text in _MEASURES:
        return _MEASURES[found[at - 1].text], ""
    text = ""
    for token in found[at + 1 : at + 4]:
        word = token.text.lower()
        if token.text == "-":
            continue
        text = f"{text} {token.text}" if token.kind == "word" else f"{text}{token.text}"
        if measure := _MEASURES.get(lemma(word)) or _MEASURES.get(word):
            return measure, text
        if token.kind != "word":
            return None, ""
        if base := next((base for stem, base in _OF_TIME.items() if word.startswith(stem) and word != "часов"), None):
            return base, text
        if not is_russian(word):
            plain = word[:-1] if word.endswith("s") and word[:-1] in TIME else word
            if plain in TIME:
                return plain, text
            if word.endswith("s") or word in _PLURALS:
                return term(word), text
            if not is_content(token) or token.text[0].isupper():
                return None, ""
            continue
        if (tag := parse(word).tag.POS) == "NOUN":
            return (lemma(word) if lemma(word) in TIME else term(word)), text
        if tag not in ("ADJF", "PRTF"):
            return None, ""
    return None, ""


def _names(found: Sequence[Token], text: str) -> Iterator[Value]:
    """Yield the names: quoted titles, capitals inside a sentence, Latin words in a Russian text, what has digits."""
    russian = language(text) == "ru"
    plain = [token for token in found if token.kind == "word"]
    if russian or sum(token.text.isupper() for token in plain) < len(plain) / 2 or len(plain) < 4:
        shouted = False
    else:
        shouted = True
    run: list[Token] = []
    begins, closing = True, ""
    for token in [*found, Token(".", "mark", ".")]:
        if closing:
            if token.text != closing:
                run.append(token)
                continue
            yield from _named(run, quoted=True)
            run, closing = [], ""
        elif token.kind == "word" and not shouted and _is_name(token, begins, russian, bool(run), plain):
            run.append(token)
        else:
            yield from _named(run)
            run = []
            if token.text in _QUOTES:
                closing = _QUOTES[token.text] if _closes(found, token, text) else ""
        begins = token.kind == "mark" and (token.text in _STOPS)


def _closes(found: Sequence[Token], token: Token, text: str) -> bool:
    """Tell whether a quotation mark has a partner; a lone inch sign must not swallow the text."""
    return text.count(token.text) + text.count(_QUOTES[token.text]) >= 2


def _named(run: Sequence[Token], quoted: bool = False) -> Iterator[Value]:
    terms = frozenset(token.term for token in run if is_content(token) or token.number is not None)
    if terms:
        head = None if quoted else run[-1].term
        yield Value("name", " ".join(sorted(terms)), " ".join(token.text for token in run), terms=terms, head=head)


def _is_name(token: Token, begins: bool, russian: bool, inside: bool, plain: Sequence[Token]) -> bool:
    word = token.text.lower()
    if not is_content(token) or word in _POLITE or _is_calendar(word):
        return False
    if russian and not is_russian(word):
        return True  # a Latin word in a Russian text
    if not russian and any(char.isdigit() for char in word):
        return True
    if not token.text[0].isupper():
        return False
    if inside or not begins or token.text[1:] != word[1:]:
        return True
    if is_russian(word):
        return bool(_NAMES & set(parse(word).tag.grammemes))
    # In English the first word of a sentence is a name if the next is one, or if there is no sentence: "Newton".
    at = next(place for place, other in enumerate(plain) if other is token)
    return len(plain) <= 3 or (at + 1 < len(plain) and plain[at + 1].text[0].isupper())


def _is_calendar(word: str) -> bool:
    return lemma(word) in _MONTHS or lemma(word) in _WEEKDAYS


def _leads(text: str) -> str | None:
    """Return the yes or no that a text begins with, after a greeting."""
    found = tokens(text)
    for at, token in enumerate(found[:8]):
        word = token.text.lower()
        ends = at + 1 == len(found) or found[at + 1].kind == "mark"
        if word in _NO and ends:
            return word
        if word in _YES and not (word == "конечно" and any(near.text.lower() == "нет" for near in found[at : at + 3])):
            return word
        if token.kind != "mark" and word not in _BEFORE_YES and word != "конечно":
            return None
    return None


def _polarity(text: str) -> dict[str, tuple[str, bool]]:
    """Return for each content word whether it is affirmed; not those that stand in a text both ways."""
    found: dict[str, tuple[str, bool]] = {}
    both = set()
    for sentence in sentences(text):
        parts = tokens(sentence)
        denied = _denied(parts)
        for at, token in enumerate(parts):
            if token.text.lower() in ("можно", "нельзя"):
                possible = token.text.lower() == "можно" and at not in denied
                if found.setdefault("можно", (token.text, possible))[1] != possible:
                    both.add("можно")
            elif is_content(token):
                text = f"{parts[denied[at]].text} {token.text}" if at in denied else token.text
                if token.term in found and found[token.term][1] != (at not in denied):
                    both.add(token.term)
                found.setdefault(token.term, (text, at not in denied))
    return {key: value for key, value in found.items() if key not in both}


def _denied(found: Sequence[Token]) -> dict[int, int]:
    """Return the places of the words that are denied, with the places of what denies them."""
    places: dict[int, int] = {}
    for at, token in enumerate(found):
        word = token.text.lower()
        if word not in _NOT and not word.endswith("n't"):
            continue
        following = found[at + 1 : at + 4]
        if following and following[0].text.lower() in _NOT_ONLY:
            continue
        for step, near in enumerate(following, at + 1):
            if near.kind == "mark":
                break
            if is_content(near) or near.text.lower() == "можно":
                places[step] = at
                break
        if word in ("нет", "нету"):  # "учебных классов у нас нет"
            for step in range(at - 1, -1, -1):
                if found[step].kind == "mark" or is_content(found[step]):
                    places |= {step: at} if found[step].kind != "mark" else {}
                    break
    return places


def bare(text: str) -> str:
    """Return the sentences that carry facts: without greetings, invitations and questions back.

    Such are the sentences that end with ``!`` or ``?``, or call upon the reader, and hold no value. Where nothing else
    is left, all of the text.
    """
    kept = [sentence for sentence in sentences(text) if not _is_courtesy(sentence)]
    return " ".join(kept) or text


def _is_courtesy(sentence: str) -> bool:
    if any(value.kind != "name" for value in values(sentence)):
        return False
    if re.search(r"[!?]\W*$", sentence):
        return True
    russian = [word for token in tokens(sentence) if is_russian(word := token.text.lower())]
    return any(parse(word).tag.mood == "impr" for word in russian)


def facts(text: str, question: str = "", names: bool = False) -> frozenset[str]:
    """Return the content words of the sentences that carry facts, without what the question has already.

    Words that belong to values are not among them; those of names are with ``names``.
    """
    plain = bare(text)
    valued = {
        token.term for value in values(plain) if value.kind != "name" or not names for token in tokens(value.text)
    }
    words = [*content(plain), *(word for value in values(plain) for word in value.terms if names)]
    return frozenset(words) - valued - frozenset(content(question))


def asked_units(question: str, found: Sequence[Value]) -> frozenset[str]:
    """Return the units among those of the values that the question asks for: ``сколько недель``, ``how many points``.

    A question after a price asks for every currency.
    """
    words = {lemma(token.text.lower()) for token in tokens(question)}
    terms = {token.term for token in tokens(question)}
    money = {"rub", "usd", "eur", "gbp"} if words & _PRICE else set()
    units = {value.unit for value in found if value.unit}
    return frozenset(unit for unit in units if unit in words | terms | money or f"{unit}s" in words)
