"""The text that the tiny base model is trained on: generated questions over generated passages.

A scene is a few things of one field of life (clinics, tours, courses, ...) and passages that tell facts about
them. Names and values are drawn, so no fact can be memorised: the only way to lower the loss is to find the value that
is asked for and to copy it, or to say that one does not know. The answer is a frame that needs no inflection with the
value as the passage writes it, greeted back and closed by a call to action: a model of this size copies Russian well
and inflects it badly.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from contracts.prompts import Message, build_messages
from trainer.pretrain.catalogues import Catalogue, Group, Name, catalogues, items
from trainer.pretrain.domains import Domain, Relation, domains, is_named, placeholders
from trainer.pretrain.notices import Notice, Slot, notices, opposites
from trainer.pretrain.phrases import (
    ATTRIBUTES,
    DETAILS,
    DETAILS_ASKED,
    DETAILS_TOLD,
    ITEMS,
    VARIANTS,
    VARIANTS_ASKED,
    VARIANTS_TOLD,
)
from trainer.pretrain.words import NUMERALS, EnglishWords, Words, plural

# What is said where the answer is not known: what was asked for by its sort, so that the question has to be understood.
UNKNOWN = "К сожалению, я не знаю{}. Оставьте заявку, и менеджер вам поможет."
UNKNOWN_EN = "Sorry, I do not know {}. Leave a request, and a manager will help you."
UNKNOWN_BEGINS = tuple(said.partition("{")[0] for said in (UNKNOWN, UNKNOWN_EN))
ASKED_FOR = {
    "": " ответа на этот вопрос",
    "price": ", сколько это стоит",
    "duration": ", какой это срок",
    "date": ", какого это числа",
    "time": ", во сколько это",
    "hours": ", в какие это часы",
    "phone": " номера телефона",
    "address": " адреса",
    "email": " адреса почты",
    "site": " адреса сайта",
    "percent": ", сколько это процентов",
    "person": ", кто это",
    "count": ", сколько их",
    "year": ", в каком это году",
    "city": ", какой это город",
}
ASKED_FOR_EN = {
    "": "the answer to this question",
    "price": "what it costs",
    "duration": "how long it takes",
    "date": "on which day it is",
    "time": "at what time it is",
    "phone": "the phone number",
    "address": "the address",
    "person": "who it is",
    "count": "how many there are",
}
CALLS = (
    "Записывайтесь прямо сейчас!",
    "Оставьте заявку, и менеджер вам поможет.",
    "Ждём вас!",
    "Хотите узнать больше? Оставьте заявку!",
    "Присоединяйтесь к нам!",
    "Будем рады вам помочь!",
)
CALLS_EN = ("Sign up today!", "Join us!", "Leave a request, and a manager will help you.")
# What questions ask for whose value has no sort of its own, and which questions the phrases above do not fit.
PLAINLY_ASKED = {
    "price": r"сколько (это )?(стоит|стоят|будет стоить)|поч[её]м|как(ая|ова|ую) (цен|стоимост)|обойд[её]тся"
    r"|how much|price",
    "duration": r"сколько (времени|длится|длятся)|как долго|какой срок|how long",
    "person": r"^кто (вед|препода|руковод|директор)",
    "time": r"во сколько (начин|закрыв|открыв|заканч)|в котором часу",
    "count": r"сколько (человек|раз|занятий|уроков|мест)|how many",
}
SORTLESS = ("", "v", "free")
NOT_SO_ASKED = {
    "price": r"зарплат|оклад|стипенд|приз|плат(ите|ят)|оплат|выплат|дают|потолок|миним|максим|залог|держать"
    r"|salary|you pay",
    "count": r"^(?!.*(сколько|количеств|число|много ли|скольк|how many))|времени|весит|уходит|длит|how long",
}
LONGEST_ANSWER = 150  # characters: some 60 tokens of text that is not ours
LONGEST_SENTENCE = 140
FIRST_ATTRIBUTE, FIRST_ITEM = 1000, 2000  # relations from here on are attributes, items of a price list
NOTICES = 0.35  # share of the scenes, once they are wide, that are whole texts written by hand
CATALOGUES = 0.37  # and of those that are several things of one company
# Questions for what a thing is: any text about it may be taken for the answer, so none is ever missing.
DESCRIBED = (
    r"^(что такое|что за|расскажи|опиши|объясни|поясни|чему|tell me|what is \{name\})|это что|что это|о чём|про что"
)
LONGEST_LIST = 115  # characters: with its frame it is to fit into LONGEST_ANSWER
# What a company's things can be, in the singular, after two, after five, and in the plural; the last fits all.
OVERVIEW_NOUNS = (
    ("курс", "курса", "курсов", "курсы"),
    ("тариф", "тарифа", "тарифов", "тарифы"),
    ("пакет", "пакета", "пакетов", "пакеты"),
    ("маршрут", "маршрута", "маршрутов", "маршруты"),
    ("программа", "программы", "программ", "программы"),
    ("", "варианта", "вариантов", "варианты"),
)
OVERVIEW_WHOM = (
    "новичков",
    "опытных",
    "взрослых",
    "детей",
    "занятых людей",
    "самых упорных",
    "офисных задач",
    "будущих мастеров",
    "небольших фирм",
    "всей семьи",
)
OVERVIEW_TOPICS = ("дизайну", "финансам", "языкам", "здоровью", "музыке", "дому", "этому направлению")
OVERVIEW_TOLD = (
    "У нас {{v2}}: {{v1}}.",
    "У нас есть {{v2}}: {{v1}}.",
    "Сейчас у нас {{v2}}: {{v1}}.",
    "{e} у нас такие: {{v1}}.",
    "Можно выбрать {{v1}}.",
    "Есть {{v2}}: {{v1}}.",
    "Предлагаем {{v1}}.",
)
OVERVIEW_ASKED = (
    "Какие у вас {e}?",
    "Какие {e} есть?",
    "Какие {e} можно выбрать?",
    "Какие есть {e} по {t}?",
    "Какие {e} у вас есть по {t}?",
    "Меня интересует всё по {t}, что можете предложить?",
    "{e} по {t} список",
    "Перечислите ваши {e}",
    "Что у вас можно выбрать?",
    "Хочу выбрать, какие есть {e}?",
    "{e} список",
    "Назовите все {e}",
)
OVERVIEW_MORE = (
    "Все {e} можно пройти по отдельности или друг за другом.",
    "Поможем выбрать: напишите нам.",
    "Другие {e} появятся позже.",
    "Каждый выбирает своё.",
)
# As people spell foreign names with their own keyboard.
SPELLED = dict(zip("abcdefghijklmnoprstuvyz", "абкдефгхижклмнопрстувиз", strict=True)) | {"x": "кс"}
ANYONES = frozenset(("phone", "address", "email", "site", "hours"))  # asked without saying whose
CONTACTS = (
    r"телефон|позвон|связ|номер|адрес|наход|куда|сайт|почт|пис|работа|откр|phone|call|address|where|site|mail|open"
)
WIDE = 0.5  # from this level on there are price lists and words that are not Russian
# How a value is said, by its sort: a frame that needs no inflection, then the value as the passage writes it.
SAID = dict.fromkeys(("price", "duration", "date", "person", "percent", "number", "free"), "Это {v}.") | {
    "time": "Время: {v}.",
    "hours": "Время: {v}.",
    "phone": "Телефон: {v}.",
    "address": "Адрес: {v}.",
    "email": "Почта: {v}.",
    "site": "Сайт: {v}.",
    "year": "Год: {v}.",
    "city": "Город: {v}.",
    "count": "Всего {v}.",
    "v": "Ответ: {v}.",
    "list": "Ответ: {v}.",
    "yes": "{v}.",
}
SAID_EN = dict.fromkeys(SAID, "It is {v}.") | {
    "phone": "Phone: {v}.",
    "address": "Address: {v}.",
    "email": "Mail: {v}.",
    "site": "Site: {v}.",
    "count": "In all {v}.",
    "v": "Answer: {v}.",
    "list": "Answer: {v}.",
    "yes": "{v}.",
}
AGREED = {"Да": "Да, конечно", "Нет": "Нет, к сожалению", "Yes": "Yes, of course", "No": "No, sorry"}
FRAME_STEMS = {"ответ", "время", "телеф", "адрес", "почта", "город", "всего", "конеч", "сожал"}
OPPOSITE = {"Да": "Нет", "Нет": "Да", "Yes": "No", "No": "Yes"}
# question's greeting, answer's greeting
GREETINGS = (
    ("Привет, ", "Здравствуйте! "),
    ("Привет! ", "Здравствуйте! "),
    ("Привет, а ", "Здравствуйте! "),
    ("Здравствуйте! ", "Здравствуйте! "),
    ("Здравствуйте, ", "Здравствуйте! "),
    ("Добрый день! ", "Добрый день! "),
    ("Добрый день, ", "Добрый день! "),
    ("Добрый вечер! ", "Добрый вечер! "),
    ("Скажите, ", ""),
    ("Скажите, пожалуйста, ", ""),
    ("Подскажите, ", ""),
    ("Подскажите, пожалуйста, ", ""),
    ("А ", ""),
    ("Мне интересно, ", ""),
    ("Хочу узнать, ", ""),
    ("Вопрос: ", ""),
    ("Интересует, ", ""),
    ("Ещё вопрос: ", ""),
    ("Будьте добры, ", ""),
)
GREETINGS_EN = (("Hello! ", "Hello! "), ("Hi, ", "Hello! "), ("Please tell me, ", ""), ("Good morning! ", "Hello! "))
TAILS = (", подскажите пожалуйста", " Спасибо!", ", пожалуйста", " Заранее спасибо!", "?", " Жду ответа.", ", а?")
DESCRIBE = (
    "Что такое {N}?",
    "Расскажите про {A}.",
    "Что за {N}?",
    "Что представляет собой {N}?",
    "Расскажите подробнее про {A}",
    "Хочу узнать про {A}.",
    "Что вы можете сказать про {A}?",
    "Коротко: что такое {N}?",
    "{N} — что это?",
    "Можно узнать про {A}?",
    "Поясните, что это: {N}?",
    "Опишите {A} в двух словах.",
)
# Questions of a few words of the wanted sentence: what is asked about need not be known to be found.
MENTIONS = (
    "{}?",
    "{}",
    "Что насчёт {}?",
    "Расскажите: {}",
    "Меня интересует: {}",
    "Что известно про {}?",
    "Вопрос про {}",
)
MENTIONS_EN = ("{}?", "{}", "What about {}?", "I am interested in {}", "Tell me about {}")
ENDINGS = ("", "а", "у", "ы", "е", "ой", "ов", "ам", "и", "ом", "ах", "ые", "ый", "ую", "ть", "ет")
DESCRIBE_EN = (
    "What is {N}?",
    "Tell me about {N}.",
    "What can you say about {N}?",
    "I want to know more about {N}.",
    "Could you describe {N}?",
    "What kind of thing is {N}?",
)
# how it is told, how it is asked, which value
LISTED = (
    (
        ("{i} — {v}", "{i} стоит {v}", "{i}: {v}"),
        (
            "Сколько стоит {i}?",
            "Почём {i}?",
            "{i} — сколько стоит?",
            "Какая цена: {i}?",
            "Скажите цену: {i}",
            "Во сколько обойдётся {i}?",
            "Цена: {i}?",
        ),
        "price",
    ),
    (
        ("{i} — {v}", "{i} длится {v}", "{i} занимает {v}"),
        (
            "Сколько длится {i}?",
            "Сколько времени занимает {i}?",
            "{i} — это сколько по времени?",
            "Как долго: {i}?",
        ),
        "duration",
    ),
    (
        ("{i} — {v}", "{i}: скидка {v}"),
        ("Какая скидка: {i}?", "{i} — какая скидка?", "Сколько процентов скидки: {i}?"),
        "percent",
    ),
    (("{i} — {v}", "{i} — с {v}"), ("Во сколько {i}?", "Когда {i}?", "В какое время {i}?"), "time"),
)
SMALL_TALK = (
    ("Привет!", "Здравствуйте! Чем могу помочь?"),
    ("Здравствуйте!", "Здравствуйте! Чем могу помочь?"),
    ("Добрый день!", "Добрый день! Чем могу помочь?"),
    ("Спасибо!", "Пожалуйста! Обращайтесь, мы всегда рады помочь."),
    ("Как дела?", "Всё хорошо, спасибо! Чем могу помочь?"),
    ("Кто ты?", "Я помощник и отвечаю на вопросы. Чем могу помочь?"),
    ("До свидания!", "До свидания! Будем рады видеть вас снова."),
    ("Hello!", "Hello! How can I help you?"),
)


@dataclass(frozen=True, slots=True)
class Example:
    """One question with its passages and the answer wanted.

    Attributes:
        value: what a right answer must hold; empty where the right answer is that one does not know.
        rivals: values of the same kind in the passages that the answer must not hold.
        kind: what was asked: a relation ("clinic 3"), "missing", "empty", ...
        raw: free text instead of a chat (the copying drills), empty otherwise.
        evidence: the sentence of a passage that the answer was read from; empty where there is none.
        passage: the index of that passage.
        offset: where in that sentence to look for the value.
        second: what the other half of the answer is read from, where the question asks for two things.
        further: more questions over the same passages; training alone uses them.
        sort: the kind of value that is asked for, where it is known.
    """

    question: str
    passages: tuple[str, ...]
    answer: str
    value: str = ""
    rivals: tuple[str, ...] = ()
    kind: str = ""
    raw: str = ""
    evidence: str = ""
    passage: int = 0
    offset: int = 0
    second: "Example | None" = None
    further: tuple["Example", ...] = ()
    sort: str = ""

    def messages(self, system: str) -> list[Message]:
        """The chat to complete, without a system message where ``system`` is empty."""
        messages = build_messages(self.question, self.passages, system)
        return messages if system else messages[1:]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Which parts of the text are those that training never shows.

    With ``texts`` or ``catalogues`` there is nothing but whole texts, or things of one company, that it never shows;
    with ``opposites`` nothing is asked but statements that it never shows.
    """

    names: bool = False
    templates: bool = False
    domains: bool = False
    texts: bool = False
    catalogues: bool = False
    opposites: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A question that a list or a text leaves open: for which sort of value, and whether it says of what."""

    question: str
    sort: str = ""
    named: bool = False


@dataclass(slots=True)
class Fact:
    """One fact about one thing, as a passage tells it."""

    subject: "Subject"
    relation: int  # index in the domain; or an attribute, an item of a list; -1 the description
    value: str
    sentence: str
    named: bool
    sort: str = ""  # the placeholder of the value; none of a description
    tail: str = ""  # the sentence with a small first letter, where it can follow another
    offset: int = 0  # where in the sentence the value stands, if it tells more than one fact
    passage: int = 0  # which passage tells it

    @property
    def answer(self) -> str:
        """What answers a question for it."""
        if not self.sort:
            return self.sentence
        said = SAID_EN if self.subject.domain.english else SAID
        return said[self.sort].format(v=AGREED.get(self.value, self.value)).replace("..", ".")

    @property
    def key(self) -> tuple[int, int]:
        """Whose fact it is, and which."""
        return id(self.subject), self.relation


def plain_sort(sort: str, question: str) -> str:
    """The sort of value that a question plainly asks for: "" where the phrase for its sort would not fit.

    >>> plain_sort("v", "Сколько стоит вход?"), plain_sort("count", "Какой вес у модели?")
    ('price', '')
    """
    question = question.lower()
    if sort in SORTLESS:
        sort = next((plain for plain, words in PLAINLY_ASKED.items() if re.search(words, question)), "")
    return "" if sort in NOT_SO_ASKED and re.search(NOT_SO_ASKED[sort], question) else sort


def unknown(sort: str, english: bool) -> str:
    """What is answered where the value of this sort is not known.

    >>> unknown("price", english=False)
    'К сожалению, я не знаю, сколько это стоит. Оставьте заявку, и менеджер вам поможет.'
    """
    if english:
        return UNKNOWN_EN.format(ASKED_FOR_EN.get(sort, ASKED_FOR_EN[""]))
    return UNKNOWN.format(ASKED_FOR.get(sort, ASKED_FOR[""]))


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]


class Subject:
    """A named thing: how it is written in passages and questions."""

    def __init__(self, words: Words, domain: Domain, name: str) -> None:
        self.words, self.domain, self.name, self._rng = words, domain, name, words.rng
        self.noun = self._rng.choice(domain.nouns)
        self._quotes = (
            self._rng.choice(("“{}”", "{}", '"{}"'))
            if domain.english
            else self._rng.choice(("«{}»", "«{}»", "«{}»", '"{}"', "{}"))
        )

    def _forms(self, name: str, bare: bool) -> dict[str, str]:
        nom, gen, acc, loc = self.noun
        if bare:
            nom, gen, acc, loc = "", "", "", loc.split()[0]
        return {key: f"{form} {name}".strip() for key, form in zip("NGAL", (nom, gen, acc, loc), strict=True)}

    def told(self, template: str, value: str = "") -> str:
        """A sentence of a passage."""
        template = self.words.varied(template)
        forms = self._forms(self._quotes.format(self.name), bare=self._rng.random() < 0.3)
        forms.update(dict.fromkeys(set(placeholders(template)) - forms.keys(), value))
        return _cap(template.format(**forms)).replace("..", ".")

    def asked(self, template: str) -> str:
        """A question, in which people write the name as they like."""
        n, roll = self.name, self._rng.random()
        name = n if roll < 0.4 else f"«{n}»" if roll < 0.65 else f'"{n}"' if roll < 0.75 else n.lower()
        if roll > 0.93:
            name = n.upper()
        return _cap(template.format(**self._forms(name, bare=self._rng.random() < 0.4)))


@dataclass(slots=True, eq=False)
class Thing:
    """One thing of a company: what it is called, its values, drawn once, and what is still to be told of it."""

    catalogue: Catalogue
    teller: Subject
    calls: tuple[str, ...]
    values: dict[str, str]
    texts: list[tuple[str, ...]]
    told: dict[str, Fact]  # by slot

    def asked(self, questions: Sequence[str], rng: random.Random) -> tuple[str, ...]:
        """The questions, the thing called as people like."""
        return tuple(q.format(name=self._called(rng)) for q in questions)

    def _called(self, rng: random.Random) -> str:
        name, roll = self.teller.name, rng.random()
        if roll < 0.45 and self.calls:
            return rng.choice(self.calls)
        return f"«{name}»" if roll < 0.65 else name if roll < 0.9 else f'"{name}"' if roll < 0.95 else name.upper()


class Scene:
    """A few things and the passages that tell about them; questions are drawn from it.

    Args:
        corpus: where names, values and chance come from.
        passages: how many passages there are.
        level: 0 for one or two sentences a passage, 1 for everything.
    """

    def __init__(self, corpus: "Corpus", passages: int, level: float) -> None:
        self._corpus, self._rng, self._level = corpus, corpus.rng, level
        r = self._rng
        held_out = corpus.held_out
        kind = r.choices(("domain", "notices", "catalogue"), self._kinds(level))[0]
        self.domain = r.choices(corpus.domains, corpus.weights)[0]
        while held_out.opposites and self.domain.english:
            self.domain = r.choice(corpus.domains)
        if self.domain.english and kind == "catalogue" and r.random() < 0.8 and not held_out.catalogues:
            kind = "domain"  # there are too few English companies to be met so often
        whole = notices(held_out.texts, self.domain.english)
        companies = catalogues(held_out.catalogues, self.domain.english)
        if not {"domain": corpus.domains, "notices": whole, "catalogue": companies}[kind]:  # none of them is English
            self.domain = next(domain for domain in corpus.domains if not domain.english)
            companies = catalogues(held_out.catalogues, english=False)
        self.words = corpus.english if self.domain.english else corpus.words
        self.facts: list[Fact] = []
        self.subjects: list[Subject] = []
        self._overviewed: set[str] = set()  # names that the company's list tells
        told_of: list[Subject | Notice | Thing] = []
        if kind == "notices":
            told_of += r.sample(whole, min(passages, len(whole)))
        elif kind == "catalogue":
            told_of += self._company(r.choice(companies), passages)
        else:
            self.subjects.append(self._subject(self.domain))
            told_of.append(self.subjects[0])
        one_thing = passages > 1 and r.random() < 0.25  # as in the questions and answers of one company
        while len(told_of) < passages:
            if self.subjects and (one_thing or r.random() < 0.15):
                told_of.append(self.subjects[0])
                continue
            other = self.domain if r.random() < 0.85 else r.choices(corpus.domains, corpus.weights)[0]
            if other.english != self.domain.english:
                other = self.domain
            self.subjects.append(self._subject(other))
            told_of.append(self.subjects[-1])
        self._shared = r.sample(range(len(self.domain.relations)), 2)  # told of several things: rivals
        self._asked: set[tuple[int, int]] = (
            set()
        )  # no fact is asked twice: the second answer could be copied off the first
        self._first = True
        self._listed: list[Fact] = []  # of a price list and the like
        self._asked_of: dict[int, tuple[str, ...]] = {}  # how these are asked
        self._left_out: list[LeftOut] = []
        self._asked_together: list[tuple[Fact, Fact, tuple[str, ...]]] = []
        texts: list[str] = []
        for told in told_of:
            known = len(self.facts)
            texts.append(self._told(told))
            for fact in self.facts[known:]:
                fact.passage = len(texts) - 1
        if held_out.opposites or not (self.domain.english or corpus.probing):
            self._opposites(texts)
        self._leave_out(list({id(told): told for told in told_of if isinstance(told, Thing)}.values()))
        order = list(range(len(texts)))
        r.shuffle(order)
        for fact in self.facts:
            fact.passage = order.index(fact.passage)
        texts = [texts[at] for at in order]
        self.passages = tuple(texts)
        estranged = level >= WIDE and not corpus.probing and r.random() < 0.4
        self._foreign = self._foreign_words() if estranged else {}
        self.passages = tuple(self._estranged(text) for text in texts)

    def _kinds(self, level: float) -> tuple[float, float, float]:
        """The shares of generated, hand-written and company scenes."""
        held_out = self._corpus.held_out
        if held_out.texts or held_out.catalogues:
            return (0.0, 1.0, 0.0) if held_out.texts else (0.0, 0.0, 1.0)
        if held_out.templates or held_out.domains:
            return 1.0, 0.0, 0.0
        wide = min(1.0, 2 * level)
        return 1 - (NOTICES + CATALOGUES) * wide, NOTICES * wide, CATALOGUES * wide

    # --- telling ---------------------------------------------------------------------------------------------------

    def _told(self, told: "Subject | Notice | Thing") -> str:
        if isinstance(told, Notice):
            return self._notice(told)
        return self._thing(told) if isinstance(told, Thing) else self._passage(told)

    def _subject(self, domain: Domain) -> Subject:
        taken = {subject.name for subject in self.subjects}
        words = self.words
        while True:
            name = words.name(domain.names)
            if taken and self._rng.random() < 0.12:  # a name that is half the same
                name = f"{self._rng.choice(sorted(taken)).split()[0]} {words.word().capitalize()}"
            if name not in taken:
                return Subject(words, domain, name)

    def _value(self, template: str, relation: Relation) -> tuple[str, str]:
        sort = next((p for p in placeholders(template) if p not in "NGAL"), "")
        if not sort:
            return "", ""
        if sort == "v":
            return sort, self._rng.choice(relation.values)
        if sort == "list":
            return sort, self.words.listed(relation.values)
        if sort == "count":
            return sort, self.words.count(relation.unit)
        return sort, str(getattr(self.words, sort)())

    def _sort(self, domain: Domain, index: int) -> str:
        """The kind of value that questions for the relation ask for."""
        if not 0 <= index < FIRST_ATTRIBUTE:
            return ""
        relation = domain.relations[index]
        if relation.yes:
            return "yes"
        return next((p for p in placeholders(relation.sentences(held_out=False)[0]) if p not in "NGAL"), "")

    def _fact(self, subject: Subject, index: int) -> Fact:
        """Tell a relation of the thing's domain, -1 for what the thing is."""
        r, held_out = self._rng, self._corpus.held_out.templates
        if index >= FIRST_ATTRIBUTE:
            return self._attribute(subject, index)
        if index < 0:
            sentence = subject.told(r.choice(subject.domain.described))
            return Fact(subject, index, sentence.rstrip("."), sentence, True)
        relation = subject.domain.relations[index]
        if relation.yes:
            positive = r.random() < 0.55
            template = r.choice(relation.sentences(held_out, positive))
            word = ("Yes" if positive else "No") if subject.domain.english else ("Да" if positive else "Нет")
            sentence = subject.told(template)
            return Fact(subject, index, word, sentence, is_named(template), "yes")
        template = r.choice(relation.sentences(held_out))
        sort, value = self._value(template, relation)
        sentence = subject.told(template, value)
        tail = ""
        if not is_named(template) and not template.startswith("{") and template[1:2].islower():
            tail = sentence[:1].lower() + sentence[1:]
        return Fact(subject, index, value, sentence, is_named(template), sort, tail)

    def _attribute(self, subject: Subject, index: int) -> Fact:
        word, _ = ATTRIBUTES[index - FIRST_ATTRIBUTE]
        value = self.words.free()
        template = self._rng.choice(
            (f"{word} {{G}} — {{v}}.", f"{word} {{G}}: {{v}}.", f"{{N}}: {word} — {{v}}.", f"{word} — {{v}}.",
             f"{word}: {{v}}.", f"У {{G}} {word} — {{v}}.")
        )  # fmt: skip
        return Fact(subject, index, value, subject.told(template, value), is_named(template), "free")

    def _relations(self, subject: Subject, number: int) -> list[int]:
        """Draw what a passage tells: what other things also tell, rather than not."""
        r, told = self._rng, {fact.relation for fact in self.facts if fact.subject is subject}
        drawn: list[int] = []
        for _ in range(12 * number):  # not without end: the thing's relations may all be told
            if len(drawn) == number:
                break
            roll = r.random()
            if roll < 0.4 and subject.domain is self.domain:
                index = r.choice(self._shared)
            elif roll < 0.87 or subject.domain.english:
                index = r.randrange(len(subject.domain.relations))
            else:
                index = FIRST_ATTRIBUTE + r.randrange(len(ATTRIBUTES))
            if index not in told:
                told.add(index)
                drawn.append(index)
        return drawn

    def _passage(self, subject: Subject) -> str:
        """Tell some facts about the thing, with neutral sentences around them."""
        r, level = self._rng, self._level
        number = r.choices((1, 2, 3, 4, 5), (1.0, 0.8, 0.3 + 0.6 * level, 0.5 * level, 0.2 * level))[0]
        facts = [self._fact(subject, index) for index in self._relations(subject, number) or [-1]]
        if r.random() < 0.05 + 0.25 * level and not any(f.subject is subject and f.relation < 0 for f in self.facts):
            facts.insert(0, self._fact(subject, -1))
        elif not facts[0].named:
            facts.sort(key=lambda fact: not fact.named)
        lead = ""
        if not facts[0].named and r.random() < 0.85:
            # Somewhere the passage has to say of what it speaks.
            if r.random() < 0.5:
                lead = subject.told(r.choice(("{N}.", "{N}:", "О том, что такое {N}.", "{N}: коротко о главном."))
                                    if not subject.domain.english else "{N}.") + " "  # fmt: skip
            else:
                lead = subject.told(r.choice(subject.domain.described)) + " "
        self.facts += facts
        if r.random() < 0.06 and len(facts) > 1 and level > 0.3:
            return self._table(subject, facts)
        sentences = self._joined(facts)
        if level > 0 and not subject.domain.english and not self._listed and r.random() < 0.1 + 0.25 * level:
            listed = r.choices((self._items, self._variants, self._details), (0.5, 1.0, 1.0))[0]
            sentences.insert(r.randint(0, len(sentences)), listed(subject))
        fillers = r.choices((0, 1, 2), (1.0, 0.1 + 0.6 * level, 0.3 * level))[0]
        for filler in r.sample(subject.domain.fillers, fillers):
            sentences.insert(r.randint(0, len(sentences)), filler)
        if level > 0.3 and len(sentences) > 2 and r.random() < 0.03:
            return "\n".join([*([lead.strip()] if lead else []), *(f"- {sentence}" for sentence in sentences)])
        return lead + " ".join(sentences)

    def _joined(self, facts: list[Fact]) -> list[str]:
        """The facts' sentences; some that fit together become one."""
        sentences: list[str] = []
        last: Fact | None = None
        for fact in facts:
            fits = (
                last is not None
                and fact.tail
                and last.sort not in ("", "yes")
                and last.relation >= 0
                and last.sort != fact.sort
                and len(last.sentence) + len(fact.sentence) < LONGEST_SENTENCE
            )
            if last is not None and fits and self._rng.random() < 0.35 * self._level:
                joints = ("; ", ", and ") if fact.subject.domain.english else (", ", ", ", "; ", ", при этом ")
                both = re.sub(r"(?<!руб)\.$", "", last.sentence) + self._rng.choice(joints) + fact.tail
                sentences[-1] = both
                last = None
                continue
            sentences.append(fact.sentence)
            last = fact
        return sentences

    def _extra(self, subject: Subject, told: str, value: str, sort: str, asked: tuple[str, ...]) -> Fact:
        """A fact that comes with its own questions."""
        index = FIRST_ITEM + len(self._asked_of)
        self._asked_of[index] = asked
        return Fact(subject, index, value, told, False, sort)

    def _list(self, subject: Subject, told: str, value: str, sort: str, asked: tuple[str, ...]) -> None:
        """Remember something that is told in a list."""
        self._listed.append(self._extra(subject, told, value, sort, asked))

    def _notice(self, notice: Notice) -> str:
        """A text written by hand, some of its sentences left out."""
        r = self._rng
        teller = Subject(self.words, self.domain, self.words.name(()))
        kept = [at for at in range(len(notice.sentences)) if at < notice.fixed or r.random() < 0.4 + 0.45 * self._level]
        kept = kept or [r.randrange(len(notice.sentences))]
        values = self._drawn({"name": teller.name}, notice.slots)
        text = []
        for at, written in enumerate(notice.sentences):
            template = self.words.varied(written)
            sentence = _cap(template.format(**values)).replace("..", ".")
            if at in kept:
                text.append(sentence)
            for name in [name for name in placeholders(template) if name != "name"]:
                slot = notice.slots[name]
                asked = tuple(q.format(**values) for q in slot.asked)
                if at not in kept:
                    self._left_out += [LeftOut(question, slot.sort) for question in asked]
                    continue
                fact = self._extra(teller, sentence, values[name], slot.sort, asked)
                before = template[: template.index(f"{{{name}}}")].format(**values)
                fact.offset = len(before.replace("..", "."))
                self.facts.append(fact)
        for agreed in notice.agreed:
            if agreed.sentence in kept:
                sentence = text[kept.index(agreed.sentence)]
                asked = tuple(q.format(**values) for q in agreed.asked)
                self.facts.append(self._extra(teller, sentence, agreed.answer, "yes", asked))
        self._left_out += [LeftOut(question.format(**values)) for question in notice.missing]
        return " ".join(text)

    def _drawn(self, values: dict[str, str], slots: dict[str, Slot]) -> dict[str, str]:
        """Draw the values of the slots, no two the same."""
        for name, slot in slots.items():
            for _ in range(20):
                value = self._value_of(slot)
                if value not in values.values():
                    break
            values[name] = value
        return values

    def _value_of(self, slot: Slot) -> str:
        if slot.sort == "v":
            listed = items(slot.values)
            if listed and self._rng.random() < 0.6:
                return self._long_list(listed)
            return self._rng.choice(slot.values)
        return self.words.count(slot.unit) if slot.sort == "count" else str(getattr(self.words, slot.sort)())

    def _long_list(self, things: Sequence[str]) -> str:
        """Two to seven of the things, as long as an answer can hold them."""
        r, chosen = self._rng, list[str]()
        for thing in r.sample(list(things), min(len(things), r.choice((2, 3, 3, 4, 5, 6, 7)))):
            if any(thing in other or other in thing for other in chosen):
                continue
            if len(chosen) < 2 or len(", ".join([*chosen, thing])) < LONGEST_LIST:
                chosen.append(thing)
        if len(chosen) < 2:
            return chosen[0]
        last = f"{' and ' if self.domain.english else r.choice((' и ', ' и ', ', '))}{chosen[-1]}"
        return ", ".join(chosen[:-1]) + last

    def _overview(self, catalogue: Catalogue) -> Notice:
        """A text that lists the company's things."""
        if catalogue.groups and not self._corpus.held_out.names and self._rng.random() < 0.6:
            return self._group(catalogue, self._rng.choice(catalogue.groups))
        r, texts = self._rng, " ".join(sentence for text in catalogue.texts for sentence in text).lower()
        one, few, many, every = next(
            forms for forms in OVERVIEW_NOUNS if re.search(rf"\b{forms[0][:5]}\w* «{{name}}»", texts) or not forms[0]
        )
        names = [known.name for known in r.sample(catalogue.names, r.choice((2, 3, 3, 4)))]
        akin = self._corpus.held_out.names or r.random() < 0.6
        if akin:
            names = self._akin(len(names))
        self._overviewed.update(names)
        names = [f"«{name}»" for name in names]
        if akin and r.random() < 0.6:  # for whom the company's own things are, their own texts tell
            names = [f"{name} для {whom}" for name, whom in zip(names, r.sample(OVERVIEW_WHOM, 4), strict=False)]
        while len(names) > 2 and len(", ".join(names)) > LONGEST_LIST:
            names.pop()
        listed, number = ", ".join(names[:-1]) + f" и {names[-1]}", plural(len(names), (one, few, many))
        if r.random() < 0.7:
            numeral = "две" if len(names) == 2 and few.endswith("ы") else NUMERALS[len(names)]
            number = f"{numeral} {few}"
        topic = r.choice((self.words.latin().capitalize(), *OVERVIEW_TOPICS))
        told = r.choice(OVERVIEW_TOLD).format(e=_cap(every))
        if r.random() < 0.5:
            told = f"По {topic} {told[:1].lower()}{told[1:]}"
        asked = [q.format(e=every, t=topic) for q in OVERVIEW_ASKED if "{t}" not in q or topic in told]
        slots = {"v1": Slot("v", (listed,), (), tuple(asked))}
        if "{v2}" in told:
            slots["v2"] = Slot("v", (number,), (), (f"Сколько у вас {many}?", f"Сколько всего {many}?"))
        more = r.sample(OVERVIEW_MORE, r.choice((0, 1, 1, 2)))
        return Notice(catalogue.field, False, (told, *(text.format(e=every) for text in more)), slots, (), (), fixed=1)

    def _group(self, catalogue: Catalogue, group: Group) -> Notice:
        """A text that lists things of the company that are akin."""
        r = self._rng
        things = r.sample(list(zip(group.names, group.whom, strict=True)), r.randint(2, len(group.names)))
        self._overviewed.update(name for name, _ in things)
        with_whom = r.random() < 0.5
        names = [f"«{name}» {whom}" if with_whom else f"«{name}»" for name, whom in things]
        while len(names) > 2 and len(", ".join(names)) > LONGEST_LIST:
            names.pop()
        listed, number = ", ".join(names[:-1]) + f" и {names[-1]}", plural(len(names), group.unit)
        if group.unit[0][-1] not in "аяьоеё" and r.random() < 0.7:  # numerals of the masculine
            number = f"{NUMERALS[len(names)]} {group.unit[1 if len(names) < 5 else 2]}"
        told = r.choice(group.told).replace("{list}", "{v1}").replace("{number}", "{v2}")
        slots = {"v1": Slot("v", (listed,), (), group.asked)}
        if "{v2}" in told:
            many = group.unit[2]
            slots["v2"] = Slot("v", (number,), (), (f"Сколько у вас таких {many}?", f"Сколько всего {many}?"))
        more = r.sample(group.more, r.randint(0, len(group.more)))
        return Notice(catalogue.field, False, (told, *more), slots, (), (), fixed=1)

    def _akin(self, number: int) -> list[str]:
        """Names that share a word."""
        r, words = self._rng, self.words
        shared = r.choice((words.latin, words.word))().capitalize()
        patterns = ("{s} {w}", "{W} на {s}", "{s} для {w}", "{W} и {s}", "{W} {s}", "{s} с {w}", "{s}: {w}")
        told = [(words.word(), words.word()) for _ in range(number)]
        made = zip(r.sample(patterns, number), told, strict=True)
        return [pattern.format(s=shared, w=low, W=high.capitalize()) for pattern, (low, high) in made]

    def _company(self, catalogue: Catalogue, passages: int) -> list["Notice | Thing"]:
        """What the passages tell of: things of one company, some of them twice, and the company."""
        r, told_of = self._rng, list[Notice | Thing]()
        names, about = list(catalogue.names), list(catalogue.about)
        r.shuffle(names)
        r.shuffle(about)
        things: list[Thing] = []
        for _ in range(passages):
            roll, last = r.random(), things[-1] if things else None
            if roll < 0.1 and not catalogue.english and not self._corpus.held_out.catalogues:
                told_of.append(self._overview(catalogue))
            elif roll < 0.24 and about:
                told_of.append(about.pop())
            elif last and roll < 0.42 and told_of.count(last) < len(last.texts):
                told_of.append(last)
            elif names:
                things.append(self._new_thing(catalogue, names.pop(), things))
                told_of.append(things[-1])
        return told_of

    def _new_thing(self, catalogue: Catalogue, known: Name, others: Sequence[Thing]) -> Thing:
        r, words = self._rng, self.words
        name, calls = known.name, known.calls
        held_out = self._corpus.held_out
        if r.random() < (0.25 if not held_out.names else 0.6 if held_out.catalogues else 1.0):  # an invented name
            name = words.name(())
            if r.random() < 0.4 and not catalogue.english:
                name = f"{words.latin().capitalize()} {r.choice((words.latin(), 'Start', 'Pro', 'Plus', words.word()))}"
            if others and r.random() < 0.4:
                name = f"{r.choice(others).teller.name.split()[0]} {name.lower()}"
            calls = (name.lower(),)
            if not catalogue.english and re.search("[a-z]", name):
                calls += ("".join(SPELLED.get(letter, letter) for letter in name.lower()),)
        taken = {other.teller.name for other in others}
        if name in taken:
            return self._new_thing(catalogue, known, others)
        values = self._drawn({"name": name}, catalogue.slots)
        texts = r.sample(catalogue.texts, len(catalogue.texts))
        return Thing(catalogue, Subject(words, self.domain, name), calls, values, texts, {})

    def _thing(self, thing: Thing) -> str:
        """The next text about a thing, some of its sentences left out."""
        r, teller, values = self._rng, thing.teller, thing.values
        text = thing.texts.pop()
        number = thing.catalogue.texts.index(text)
        kept = [at for at in range(len(text)) if at == 0 or r.random() < 0.5 + 0.4 * self._level]
        told: dict[int, str] = {}
        for at in kept:
            template = self.words.varied(text[at])
            told[at] = sentence = _cap(template.format(**values)).replace("..", ".")
            for name in [name for name in placeholders(template) if name != "name" and name not in thing.told]:
                slot = thing.catalogue.slots[name]
                fact = self._extra(teller, sentence, values[name], slot.sort, thing.asked(slot.asked, r))
                before = template[: template.index(f"{{{name}}}")].format(**values)
                fact.offset, fact.named = len(before.replace("..", ".")), True
                thing.told[name] = fact
                self.facts.append(fact)
        for of, agreed in thing.catalogue.agreed:
            if of == number and agreed.sentence in told:
                fact = self._extra(teller, told[agreed.sentence], agreed.answer, "yes", thing.asked(agreed.asked, r))
                fact.named = True
                self.facts.append(fact)
        return " ".join(told.values())

    def _leave_out(self, things: Sequence[Thing]) -> None:
        """Remember what the passages do not tell of the things, and which questions ask for two facts at once."""
        r = self._rng
        for thing in things:
            catalogue = thing.catalogue
            for name, slot in catalogue.slots.items():
                if name not in thing.told and not re.search(DESCRIBED, slot.asked[0].lower()):
                    self._left_out += [LeftOut(asked, slot.sort, named=True) for asked in thing.asked(slot.asked, r)]
            self._left_out += [LeftOut(asked, named=True) for asked in thing.asked(catalogue.missing, r)]
            for both in catalogue.both:
                first, second = (thing.told.get(slot) for slot in both.slots)
                if first and second:
                    self._asked_together.append((first, second, thing.asked(both.asked, r)))
        if things:
            self._ask_for_another(things)

    def _ask_for_another(self, things: Sequence[Thing]) -> None:
        """Remember questions for a thing of the company that no passage names."""
        r, catalogue = self._rng, things[0].catalogue
        named = {thing.teller.name for thing in things} | self._overviewed
        absent = [known for known in catalogue.names if known.name not in named]
        if absent:
            other = self._new_thing(catalogue, r.choice(absent), things)
            slots = r.sample(list(catalogue.slots.values()), 4)
            self._left_out += [LeftOut(q, slot.sort, named=True) for slot in slots for q in other.asked(slot.asked, r)]

    def _opposites(self, texts: list[str]) -> None:
        """Put sentences that say that something is so, or that it is not, into some of the texts."""
        r, held_out = self._rng, self._corpus.held_out
        known = opposites(held_out.opposites)
        number = r.choices((0, 1, 2), (1 - 0.5 * self._level, 0.4 * self._level, 0.1 * self._level))[0]
        if held_out.opposites:
            number = 1
            self.facts.clear()
        told, other = r.sample(known, number), r.choice(known)
        for opposite in told:
            so, at = r.random() < 0.5, r.randrange(len(texts))
            sentence = self.words.varied(r.choice(opposite.yes if so else opposite.no))
            texts[at] = r.choice(("{0} {1}", "{0} {1}", "{1} {0}")).format(texts[at], sentence)
            teller = Subject(self.words, self.domain, self.words.name(()))
            for asked, agreed in ((opposite.asked, so), (opposite.inverted, not so)):
                self.facts.append(self._extra(teller, sentence, "Да" if agreed else "Нет", "yes", asked))
                self.facts[-1].passage = at
        if told and other not in told:
            self._left_out.append(LeftOut(r.choice(r.choice((other.asked, other.inverted)))))

    def _items(self, subject: Subject) -> str:
        """Things of a price list or a timetable."""
        r = self._rng
        told, asked, sort = r.choice(LISTED)
        template = r.choice(told)
        items = r.sample(ITEMS, r.choice((2, 2, 3, 3, 4)) + 1)
        for item in items[1:]:
            value = str(getattr(self.words, sort)())
            self._list(subject, template.format(i=item, v=value), value, sort, (r.choice(asked).format(i=item),))
        self._left_out.append(LeftOut(r.choice(asked).format(i=items[0]), sort))
        return self._row()

    def _variants(self, subject: Subject) -> str:
        """Variants of one thing, which name it once."""
        r, held_out = self._rng, self._corpus.held_out
        sorts, variants = r.choice([v for at, v in enumerate(VARIANTS) if (at % 8 == 7) == held_out.domains])
        sort = r.choice(sorts)
        frames = VARIANTS_ASKED[sort][-1:] if held_out.templates else VARIANTS_ASKED[sort][:-1]
        chosen = r.sample(variants, r.randint(2, min(4, len(variants))))
        first, following = r.choice(VARIANTS_TOLD[sort])
        unit = ("человек", "человека", "человек")
        for at, variant in enumerate(chosen):
            value = self.words.count(unit) if sort == "count" else str(getattr(self.words, sort)())
            told = (following if at else first).format(i=variant.short if at else variant.full, v=value)
            asked = tuple(self._asked_as(name, frames) for name in variant.asked)
            self._list(subject, told, value, sort, asked)
        rest = [variant for variant in variants if variant not in chosen]
        self._left_out += [LeftOut(self._asked_as(name, frames), sort) for other in rest for name in other.asked]
        return self._row()

    def _asked_as(self, name: str, frames: Sequence[str]) -> str:
        """Ask for a variant; some of its names are questions already."""
        return f"{name}?" if name.startswith(("кто ", "сколько ")) else self._rng.choice(frames).format(a=name)

    def _details(self, subject: Subject) -> str:
        """A few details in two or three words each."""
        r, held_out = self._rng, self._corpus.held_out
        known = [detail for at, detail in enumerate(DETAILS) if (at % 8 == 7) == held_out.domains]
        chosen = r.sample(known, r.choice((2, 3, 3, 4)) + 2)
        frames = DETAILS_ASKED[-1:] if held_out.templates else DETAILS_ASKED[:-1]
        template, questions = r.choice(DETAILS_TOLD), []
        for detail in chosen:
            framed = r.choice(frames).format(w=detail.which, n=detail.noun)
            questions.append((framed, *detail.asked))
        for detail, asked in list(zip(chosen, questions, strict=True))[2:]:
            sort, _, unit = detail.sort.partition(":")
            if unit:
                value = self.words.count(tuple(unit.split(",")))
            elif ";" in sort:
                sort, value = "v", r.choice(sort.split(";"))
            else:
                value = str(getattr(self.words, sort)())
            self._list(subject, template.format(n=detail.noun, v=value), value, sort, asked)
        for detail, asked in zip(chosen[:2], questions[:2], strict=True):
            sort = "count" if ":" in detail.sort else "v" if ";" in detail.sort else detail.sort
            self._left_out += [LeftOut(question, sort) for question in asked]
        return self._row()

    def _row(self) -> str:
        """What was listed, as one sentence."""
        r = self._rng
        self.facts += self._listed
        return _cap(r.choice((", ", ", ", "; ")).join(fact.sentence for fact in self._listed)).rstrip(".") + "."

    def _foreign_words(self) -> dict[str, str]:
        """Invented stems for some of the scene's words: they can be found and copied, not known."""
        r, found = self._rng, {}
        share = r.choice((0.1, 0.2, 0.4, 0.6))
        for word in re.findall(r"[А-Яа-яё]{6,}", " ".join(self.passages)):
            stem = word[:5].lower()
            if stem not in found and stem not in FRAME_STEMS:
                found[stem] = self.words.word() if r.random() < share else stem
        return {stem: new for stem, new in found.items() if stem != new}

    def _estranged(self, text: str) -> str:
        """The text with the invented stems in place of those that they stand for, endings kept."""
        if not self._foreign:
            return text

        def renamed(match: re.Match[str]) -> str:
            word = match.group()
            new = self._foreign.get(word[:5].lower())
            if new is None:
                return word
            return (new.capitalize() if word[0].isupper() else new) + word[5:]

        return re.sub(r"[А-Яа-яё]{5,}", renamed, text)

    def _table(self, subject: Subject, facts: list[Fact]) -> str:
        """The same as lines of a card: a name, then a sentence a line."""
        return "\n".join([subject.told("{N}"), *(fact.sentence for fact in facts)])

    # --- asking ----------------------------------------------------------------------------------------------------

    def _question(self, subject: Subject, index: int, named: bool) -> str:
        """Ask for a relation, by the thing's name or without it."""
        r, english = self._rng, subject.domain.english
        if index < 0:
            every = DESCRIBE_EN if english else DESCRIBE
            return subject.asked(r.choice(every[-2:] if self._corpus.held_out.templates else every[:-2]))
        if index >= FIRST_ITEM:
            question = _cap(r.choice(self._asked_of[index]))
            named = named and subject in self.subjects and r.random() < 0.3
            return subject.asked("Вопрос про {A}. ") + question if named else question
        if index >= FIRST_ATTRIBUTE:
            word, which = ATTRIBUTES[index - FIRST_ATTRIBUTE]
            if not named:
                return r.choice((f"{which} {word}?", f"{_cap(word)}?", f"Скажите, {which.lower()} {word}?"))
            return subject.asked(
                r.choice((f"{which} {word} {{G}}?", f"{which} {word} у {{G}}?", f"{word} {{G}}?", f"{{N}} — {word}?"))
            )
        questions = subject.domain.relations[index].questions(self._corpus.held_out.templates)
        fitting = [question for question in questions if is_named(question) == named]
        if named and not fitting:  # asked of a thing whose name no question of this relation holds
            return subject.asked(f"{'About' if english else 'Вопрос про'} {{A}}. ") + r.choice(questions)
        return subject.asked(r.choice(fitting or questions))

    def _mention(self, sentence: str) -> str:
        """A few words of the sentence, their endings changed: "" if there are too few."""
        r, english = self._rng, self.domain.english
        words = [word.strip('.,;:!?«»"“”()—-') for word in sentence.split()]
        start = r.randrange(len(words))
        span = [word for word in words[start : start + r.choice((2, 3, 3, 4))] if word]
        if sum(len(word) > 4 and word.isalpha() for word in span) < 2 or any(c.isdigit() for w in span for c in w):
            return ""
        if not english:
            span = [
                word[: -r.randint(1, 2)] + r.choice(ENDINGS)
                if len(word) > 5 and word.islower() and r.random() < 0.4
                else word
                for word in span
            ]
        span[0] = span[0][:1].lower() + span[0][1:] if span[0][1:].islower() and start == 0 else span[0]
        return _cap(r.choice(MENTIONS_EN if english else MENTIONS).format(" ".join(span)))

    def mentioned(self) -> Example | None:
        """A question of a few words that stand in one sentence of the passages, or, one in four, in none."""
        r, english = self._rng, self.domain.english
        if r.random() < 0.25:
            domain = r.choice([d for d in self._corpus.domains if d.english == english])
            sentence = r.choice(domain.fillers)
            question = "" if domain in {s.domain for s in self.subjects} else self._mention(sentence)
            return self._finished(question, "", "", (), "missing", english) if question else None
        if not self.facts:  # a text of which only asides are left
            return None
        fact = r.choice(self.facts)
        if fact.key in self._asked or fact.sort in ("", "yes") or not fact.value:
            return None
        question = self._mention(fact.sentence.replace(fact.value, " "))
        stems = [word[:-2].lower() for word in question.split() if len(word) > 5]
        others = " ".join(other.sentence for other in self.facts if other is not fact).lower()
        if not question or any(stem in others for stem in stems):
            return None
        self._asked.add(fact.key)
        made = self._finished(question, fact.answer, fact.value, self._rivals(fact), "mention", english)
        return self._shown(made, fact)

    def _rivals(self, fact: Fact) -> tuple[str, ...]:
        """The values that somebody could take for the fact's."""
        if fact.sort == "yes":
            return (OPPOSITE[fact.value],)
        sorts = {"v", "list", "free"} if fact.sort in ("v", "list") else {fact.sort}
        near = [f.value for f in self.facts if f is not fact and (f.sort in sorts if fact.sort else not f.sort)]
        return tuple(value for value in near if value not in fact.value and fact.value not in value)

    def _same(self, fact: Fact) -> list[Fact]:
        """The same told of other things."""
        return [
            other
            for other in self.facts
            if other.relation == fact.relation
            and other.subject is not fact.subject
            and (other.subject.domain is fact.subject.domain or fact.relation >= FIRST_ATTRIBUTE)
        ]

    def answered(self) -> Example | None:
        """A question that a passage answers; None if what was drawn makes too long an answer."""
        r = self._rng
        facts = [fact for fact in self.facts if fact.key not in self._asked]
        if not facts:
            return None
        fact = r.choice(facts)
        if fact.relation >= 0 and r.random() < 0.4:
            fact = r.choice([f for f in facts if self._same(f)] or facts)
        self._asked.add(fact.key)
        others = {other.sort for other in self.facts if other.subject is not fact.subject}
        if fact.relation >= FIRST_ITEM and fact.sort in ANYONES & others and not fact.named:
            return None  # whose phone number?
        same = self._same(fact)
        named = bool(same) or fact.relation < 0 or r.random() < 0.55
        question = self._question(fact.subject, fact.relation, named)
        elsewhere = [self._asked_of[o.relation] for o in self.facts if o is not fact and o.relation in self._asked_of]
        if any(question == _cap(other) for asked in elsewhere for other in asked):
            return None  # two facts that are asked in the same words
        answer, second = fact.answer, None
        if not self._corpus.probing:
            question, second = self._and_another(question, fact)
        if second:
            self._asked.add(second.key)
            answer = f"{answer} {second.answer}"
        if len(answer) > LONGEST_ANSWER:
            return None
        kind = f"{fact.subject.domain.name} {fact.relation}"
        rivals = tuple(rival for rival in self._rivals(fact) if rival not in answer)
        sort = "" if second else fact.sort
        made = self._finished(question, answer, fact.value, rivals, kind, fact.subject.domain.english, sort)
        other = self._shown(Example("", (), ""), second) if second else None
        return replace(self._shown(made, fact), second=other)

    def _shown(self, example: Example, fact: Fact) -> Example:
        """The example with the place where the fact stands."""
        before = len(self._estranged(fact.sentence[: fact.offset]))
        evidence, value = self._estranged(fact.sentence).rstrip("."), example.value
        value = value or self._estranged(fact.value)
        return replace(example, evidence=evidence, passage=fact.passage, offset=before, value=value)

    def _and_another(self, question: str, fact: Fact) -> tuple[str, Fact | None]:
        """Now and then a question that asks for a second fact too, and that fact."""
        r = self._rng
        both = [b for b in self._asked_together if b[0] is fact and b[1].key not in self._asked]
        if both and r.random() < 0.4:
            _, second, asked = r.choice(both)
            return _cap(r.choice(asked)), second
        if r.random() < 0.06 * self._level:
            second = r.choice([f for f in self.facts if f.subject is fact.subject])
            plain = 0 <= second.relation < FIRST_ITEM and "yes" not in (fact.sort, second.sort)
            if plain and second.key not in self._asked and not self._same(second):
                also = self._question(second.subject, second.relation, named=False)
                joint = "and" if second.subject.domain.english else "и"
                return f"{question.rstrip('?.')} {joint} {also[:1].lower()}{also[1:]}", second
        return question, None

    def unanswered(self) -> Example:
        """A question that no passage answers: the fact is not told, or it is told of other things only."""
        r = self._rng
        roll = r.random()
        anyones = {fact.sort for fact in self.facts} & ANYONES
        answered = {question.lower() for fact in self._asked_of.values() for question in fact}
        left_out = [
            left
            for left in self._left_out
            if (left.named or left.sort not in anyones)
            and left.question.lower() not in answered
            and not (anyones and not left.named and left.sort == "" and re.search(CONTACTS, left.question.lower()))
        ]
        if left_out and (roll < 0.35 or not self.subjects):  # of something that a list or a text leaves out
            left = r.choice(left_out)
            return self._finished(_cap(left.question), "", "", (), "missing", self.domain.english, left.sort)
        # Texts that name nothing and leave nothing out: of a thing that they do not speak of.
        subject = r.choice(self.subjects) if self.subjects else self._subject(self.domain)
        asked_of = subject
        if roll < 0.4:  # of a thing that no passage names
            absent = self._subject(subject.domain)
            told = [f.relation for f in self.facts if f.subject.domain is subject.domain and f.relation < FIRST_ITEM]
            index = r.choice(told) if told and r.random() < 0.85 else r.randrange(len(subject.domain.relations))
            question, asked_of = self._question(absent, index, named=True), absent
        elif roll < 0.85:  # what no passage tells of this thing
            mine = {fact.relation for fact in self.facts if fact.subject is subject}
            rest = [index for index in range(len(subject.domain.relations)) if index not in mine]
            if not rest:
                return self.unanswered()
            others = {f.relation for f in self.facts if f.subject is not subject} & set(rest)
            index = r.choice(sorted(others)) if others and r.random() < 0.5 else r.choice(rest)
            question = self._question(subject, index, named=index in others or r.random() < 0.5)
        else:  # of another field of life
            domain = r.choice([d for d in self._corpus.domains if d.english == self.domain.english])
            if domain in {s.domain for s in self.subjects}:
                return self.unanswered()
            index, asked_of = r.randrange(len(domain.relations)), self._subject(domain)
            question = self._question(asked_of, index, named=r.random() < 0.5)
        sort = self._sort(asked_of.domain, index)
        return self._finished(question, "", "", (), "missing", self.domain.english, sort)

    def _finished(
        self,
        question: str,
        answer: str,
        value: str,
        rivals: tuple[str, ...],
        kind: str,
        english: bool,
        sort: str = "",
    ) -> Example:
        """Greet, mistype, close with a call to action."""
        r = self._rng
        sort = plain_sort(sort, question)
        question = self.words.varied(question, asked=True)
        question, value = self._estranged(question), self._estranged(value)
        answer = self._estranged(answer)
        rivals = tuple(self._estranged(rival) for rival in rivals)
        greeting = ("", "")
        if r.random() < 0.25:
            greeting = r.choice(GREETINGS_EN if english else GREETINGS)
            question = greeting[0] + (
                question if greeting[0].strip()[-1] == "!" else question[:1].lower() + question[1:]
            )
        question = self._corpus.noise(question)
        if not answer:
            return Example(question, self.passages, unknown(sort, english), "", rivals, kind, sort=sort)
        call = f" {r.choice(CALLS_EN if english else CALLS)}" if self._first else ""
        self._first = False  # in a chat the call is not repeated with every answer
        return Example(question, self.passages, f"{greeting[1]}{answer}{call}", value, rivals, kind, sort=sort)


class Corpus:
    """Endless, seeded stream of examples.

    Args:
        seed: what makes two streams equal.
        held_out: which parts to take from what training never shows.
        probing: for the evaluation: no typing errors, no questions of two parts, no invented stems; statements with
            opposites only where these are what is held out.

    >>> Corpus(1).example(0.5) == Corpus(1).example(0.5)
    True
    """

    def __init__(self, seed: int, held_out: HeldOut | None = None, probing: bool = False) -> None:
        self.rng = random.Random(f"asktwice-{seed}")
        self.held_out = held_out or HeldOut()
        self.probing = probing
        self.words = Words(self.rng, self.held_out.names, synonyms=not probing)
        self.english = EnglishWords(self.rng, self.held_out.names)
        self.domains = domains(self.held_out.domains)
        english = sum(domain.english for domain in self.domains)
        self.weights = [0.08 / english if d.english else 0.92 / (len(self.domains) - english) for d in self.domains]

    def example(self, level: float, turns: int = 1) -> Example:
        """Draw one example for training, of up to that many questions; drills for copying are common at the start."""
        r, roll = self.rng, self.rng.random()
        if roll < (0.25 if level < 0.05 else 0.02):
            return self._drill()
        if roll > 0.99:
            question, answer = r.choice(SMALL_TALK)
            return Example(question, (), answer, kind="small talk")
        if roll > 0.92:
            return self.question(0, "empty", level)
        passages = r.choices((1, 2, 3, 4, 5), (1.0 - 0.6 * level, 0.25, 0.4 * level, 0.2 * level, 0.15 * level))[0]
        scene = Scene(self, passages, level)
        modes = r.choices(("answer", "missing", "mention"), (0.66, 0.12 + 0.23 * level, 0.2 - 0.06 * level), k=turns)
        drawn = [example for example in (self._attempt(scene, mode) for mode in modes) if example is not None]
        if not drawn:
            return self.example(level, turns)
        return replace(drawn[0], further=tuple(drawn[1:]))

    def question(self, passages: int, mode: str = "answer", level: float = 1.0) -> Example:
        """Draw a question over that many passages.

        Args:
            passages: how many passages the prompt holds (0 in the mode "empty").
            mode: "answer", "missing" (the passages lack the fact) or "empty" (no passages at all).
            level: 0 for short passages of one fact, 1 for several facts and neutral sentences.
        """
        if mode == "empty":
            example = self._drawn(Scene(self, 1, level), "answer")
            english = example.kind.split()[0].endswith("_en")
            return Example(example.question, (), unknown(example.sort, english), kind="empty", sort=example.sort)
        return self._drawn(Scene(self, passages, level), mode)

    def _drawn(self, scene: Scene, mode: str) -> Example:
        example = self._attempt(scene, mode)
        return example or self._drawn(Scene(self, len(scene.passages), 0.0), "answer")

    def _attempt(self, scene: Scene, mode: str) -> Example | None:
        """Draw a question of the scene; None where nothing fitting is left in it."""
        if mode == "missing":
            return scene.unanswered()
        for _ in range(6):
            example = scene.mentioned() if mode == "mention" else scene.answered()
            if example is not None:
                return example
        return None

    def _drill(self) -> Example:
        """Free text that repeats itself: the shortest way to learn to copy."""
        r, w = self.rng, self.words
        if r.random() < 0.5:
            pieces = [r.choice((w.word, w.free, w.city, w.latin, w.price, w.person))() for _ in range(r.randint(3, 12))]
            line = " ".join(pieces)
            return Example("", (), "", kind="drill", raw=f"{line}\n{line}\n{line}")
        lines = [f"{w.name(()).capitalize()}: {w.free()}." for _ in range(r.randint(2, 8))]
        return Example("", (), "", kind="drill", raw="\n".join([*lines, *r.sample(lines, len(lines))]))

    def noise(self, question: str) -> str:
        """Write in lower case, add a word, mistype: what people do to questions."""
        r = self.rng
        if self.probing:
            return question
        if r.random() < 0.1:
            question = question.lower()
        if r.random() < 0.12:
            question = question.rstrip("?.") + (r.choice(TAILS) if r.random() < 0.4 else "")
        if r.random() < 0.08 and len(question) > 6:
            at = r.randrange(1, len(question) - 1)
            question = question[:at] + r.choice((question[at + 1], question[at] * 2, "")) + question[at + 1 :]
        if r.random() < 0.05:
            question = question.replace("ё", "е")
        return question


def texts(seed: int, number: int) -> Sequence[str]:
    """Texts to train the tokenizer on."""
    corpus, every = Corpus(seed), []
    for _ in range(number):
        example = corpus.example(0.49)  # words that are no Russian are not to shape the tokens
        every += [example.raw, *(message["content"] for message in example.messages("")), example.answer]
    return every
