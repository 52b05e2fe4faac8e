"""Invented names and values: everything in the training text that must not be learned by heart.

Names are made of syllables and numbers are drawn, :data:`HELD_OUT_SHARE` of both are kept for the evaluation.
"""

import random
from collections.abc import Sequence

from trainer.pretrain.synonyms import replaced

HELD_OUT_SHARE = 0.15

SUFFIXES = (
    "PRO;Start;Junior;Senior;2.0;3.0;AI;Мастер;Базовый;Премиум;Стандарт;VIP;Plus;Lite;для начинающих;Онлайн;Профи;"
    "Макс;24;Мини;Люкс;№ 1;№ 2;Экспресс"
).split(";")
FIRST_NAMES = """
Анна Мария Иван Пётр Дмитрий Ольга Елена Сергей Алексей Наталья Татьяна Андрей Михаил Светлана Ирина Николай Юлия
Павел Роман Виктор Ксения Максим Артём Вера Денис Егор Полина Кирилл Дарья Антон
""".split()
STREETS = "Ленина Садовая Мира Лесная Школьная Новая Пушкина Гагарина Зелёная Солнечная Набережная Советская".split()
MONTHS = "января февраля марта апреля мая июня июля августа сентября октября ноября декабря".split()
CONSONANTS = "б в г д ж з к л м н п р с т ф х ц ч ш бр гр др кр тр пр ст сл вл кл пл".split()
VOWELS = "а е и о у я ю э".split()
CODAS = ("", "", "", "", "н", "р", "л", "т", "с", "к", "м", "в", "д")
ADJECTIVES = """
новый старый белый чёрный красный синий зелёный золотой серебряный северный южный восточный западный большой малый
добрый тихий быстрый светлый ясный дальний лесной морской речной горный первый главный верхний весёлый умный вечерний
утренний летний зимний весенний осенний дружный мирный звёздный солнечный лунный городской сельский
""".split()
NOUNS = """
берег город мост парк сад дом двор маяк парус якорь компас ветер лес луг ручей остров мыс залив причал порт путь шаг
старт рост мир свет луч огонь рассвет закат вечер полдень кот лис волк медведь ёж бобр сокол орёл грач дрозд клён дуб
тополь кедр гранит янтарь топаз опал агат жемчуг кристалл куб шар круг вектор код модуль атом квант протон импульс
""".split()
ENGLISH_MONTHS = "January February March April May June July August September October November December".split()
ENGLISH_FIRST_NAMES = "Anna Mary John Peter Daniel Olga Helen Mark Alex Laura Emma James Oliver Grace Lucy Adam".split()
ENGLISH_ADJECTIVES = (
    "blue green white silver golden old new little quiet bright northern western happy first clear lucky".split()
)
ENGLISH_NOUNS = "river hill bridge garden lamp anchor harbour star forest fox owl stone field tower leaf wind".split()


def is_held_out(number: int) -> bool:
    """Whether training never shows this number (those under 40 are all shown: there are too few of them)."""
    return number >= 40 and number * 2654435761 % 2**32 < HELD_OUT_SHARE * 2**32


def syllables(held_out: bool) -> list[str]:
    """The syllables of invented names, those of training or those that are kept back."""
    every = [c + v for c in CONSONANTS for v in VOWELS if not (c[-1] in "жшчц" and v in "яюэ")]
    random.Random("syllables").shuffle(every)
    cut = int(len(every) * HELD_OUT_SHARE)
    return every[:cut] if held_out else every[cut:]


def form(number: int, forms: Sequence[str]) -> str:
    """The Russian form of a noun after a number: of "рубль", "рубля", "рублей" the one that agrees.

    >>> form(21, ("час", "часа", "часов")), form(12, ("час", "часа", "часов"))
    ('час', 'часов')
    """
    if number % 10 == 1 and number % 100 != 11:
        return forms[0]
    return forms[1] if number % 10 in (2, 3, 4) and number % 100 not in (12, 13, 14) else forms[2]


def plural(number: int, forms: Sequence[str]) -> str:
    """The number with the noun.

    >>> plural(21, ("час", "часа", "часов"))
    '21 час'
    """
    return f"{number} {form(number, forms)}"


ROUBLES = ("рубль", "рубля", "рублей")
PERCENTS = ("процент", "процента", "процентов")
SPANS = (
    ("месяц", "месяца", "месяцев"),
    ("неделю", "недели", "недель"),  # "за", "через", "длится": the accusative
    ("час", "часа", "часов"),
    ("день", "дня", "дней"),
    ("минуту", "минуты", "минут"),
    ("год", "года", "лет"),
    ("рабочий день", "рабочих дня", "рабочих дней"),
)
ROUND_DURATIONS = (
    "полгода",
    "полчаса",
    "полтора часа",
    "полтора года",
    "сутки",
    "один день",
    "год",
    "месяц",
    "неделю",
)
NUMERALS = "ноль один два три четыре пять шесть семь восемь девять десять одиннадцать двенадцать".split()
HOURS = "шести семи восьми девяти десяти одиннадцати двенадцати часа двух трёх четырёх пяти".split()
ENGLISH_NUMERALS = "two three four five six seven eight nine ten eleven twelve".split()


class Words:
    """Seeded source of Russian names and values; each method named like the placeholder that it fills."""

    def __init__(self, rng: random.Random, held_out: bool, synonyms: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out
        self._synonyms = synonyms
        self._syllables = syllables(held_out)

    def whole(self, low: int, high: int, step: int = 1) -> int:
        """A whole number of the wanted side: shown in training, or held out."""
        while True:
            number = self.rng.randint(low, high) * step
            if high * step < 60 or is_held_out(number) == self.held_out:
                return number

    def varied(self, text: str, asked: bool = False) -> str:
        """The text, or the question, with synonyms in place of some of its words."""
        return replaced(text, asked, self.rng) if self._synonyms else text

    def word(self) -> str:
        """An invented word in lower case."""
        r = self.rng
        return "".join(r.choice(self._syllables) for _ in range(r.choice((1, 2, 2, 2, 3, 3)))) + r.choice(CODAS)

    def latin(self) -> str:
        """An invented word in Latin letters."""
        r = self.rng
        return "".join(r.choice("bcdfgklmnprstvz") + r.choice("aeiou") for _ in range(r.choice((2, 2, 3)))) + r.choice(
            "nxrst"
        )

    def name(self, known: Sequence[str]) -> str:
        """A proper name: invented, of real words, or one of those that are ``known`` in the domain."""
        r, roll = self.rng, self.rng.random()
        if roll < 0.4 and known and not self.held_out:
            return r.choice(known)
        if roll < 0.55 and not self.held_out:
            base = f"{r.choice(ADJECTIVES).capitalize()} {r.choice(NOUNS)}"
        elif roll < 0.65:
            base = f"{self.word().capitalize()}-{self.whole(2, 99)}"
        elif roll < 0.72:
            base = self.latin().capitalize()
        elif roll < 0.76:
            base = "".join(r.choice("АБВГДЕИКЛМНОПРСТУХ") for _ in range(r.choice((2, 3, 3, 4))))
        else:
            base = self.word().capitalize()
        return f"{base} {r.choice(SUFFIXES)}" if r.random() < 0.2 else base

    def price(self) -> str:
        """A sum of money."""
        r = self.rng
        amount = r.choice(
            (
                self.whole(2, 99, 100),
                self.whole(5, 300, 1000),
                self.whole(50, 2999, 100),
                self.whole(300, 9999),
                self.whole(10, 99, 10),
            )
        )
        if r.random() < 0.03:
            return f"{self.spelled(('тысяча', 'тысячи', 'тысяч'))} рублей"
        spaced = f"{amount:,}".replace(",", " ") if r.random() < 0.75 else str(amount)
        return spaced + r.choice((" руб.", " ₽")) if r.random() < 0.4 else f"{spaced} {form(amount, ROUBLES)}"

    def duration(self) -> str:
        """A length of time."""
        r = self.rng
        if r.random() < 0.05:
            return r.choice(ROUND_DURATIONS)
        forms = r.choice(SPANS)
        if r.random() < 0.2:
            return self.spelled(forms)
        return plural(r.choice((r.randint(2, 18), self.whole(2, 90))), forms)

    def spelled(self, forms: Sequence[str]) -> str:
        """A number of things in words; after "один" and "два" the noun decides how they end."""
        number = self.rng.randint(2, len(NUMERALS) - 1)
        feminine = forms[0].endswith(("а", "я", "у", "ю"))
        word = "две" if number == 2 and feminine else NUMERALS[number]
        return f"{word} {forms[1] if number in (2, 3, 4) else forms[2]}"

    def date(self) -> str:
        """A day."""
        r = self.rng
        day = f"{r.randint(1, 28)} {r.choice(MONTHS)}"
        return r.choice((day, day, day, f"{day} {r.randint(2024, 2030)} года"))

    def time(self) -> str:
        """A time of day."""
        if self.rng.random() < 0.1:
            return plural(self.rng.randint(6, 23), ("час", "часа", "часов"))
        return f"{self.rng.randint(6, 23)}:{self.rng.choice(('00', '15', '30', '30', '45'))}"

    def hours(self) -> str:
        """Opening hours."""
        r = self.rng
        roll = r.random()
        if roll < 0.25:
            return f"с {r.randint(6, 12)} до {r.randint(13, 23)}"
        if roll < 0.35:
            return f"с {r.choice(HOURS)} до {r.choice(HOURS)}"
        return f"с {r.randint(6, 12)}:{r.choice(('00', '30'))} до {r.randint(15, 23)}:{r.choice(('00', '30'))}"

    def phone(self) -> str:
        """A telephone number."""
        r = self.rng
        pattern = r.choice(("+7 {} {}-{}-{}", "8 {} {}-{}-{}", "8 ({}) {}-{}-{}", "{} {}-{}-{}", "8 800 {1}-{2}-{3}"))
        ends = (r.choice((f"{r.randint(0, 99):02}", f"{r.randint(0, 9)}0", "00")) for _ in range(2))
        return pattern.format(self.whole(300, 999), self.whole(100, 999), *ends)

    def address(self) -> str:
        """A street and a house."""
        r = self.rng
        street = self.word().capitalize() + "ская" if r.random() < 0.6 else r.choice(STREETS)
        return r.choice(("улица {}, дом {}", "ул. {}, {}", "улица {}, {}")).format(street, self.whole(1, 180))

    def email(self) -> str:
        """A mail address."""
        r = self.rng
        whose = r.choice(("info", "help", "sale", "mail", self.latin(), self.latin(), self._short(), self._short()))
        return f"{whose}@{self.site()}"

    def _short(self) -> str:
        """What some mail boxes and domains are called: a word and a digit, two words, letters around a digit."""
        r = self.rng
        return r.choice(
            (
                f"{self.latin()}{r.randint(2, 99)}",
                f"{self.latin()}{r.choice('.-_')}{self.latin()}",
                f"{r.choice('abcdefkmpst')}{r.randint(2, 9)}{r.choice('abcdefkmpst')}",
                "".join(r.choice("abcdefgiklmoprstu") for _ in range(r.choice((2, 3, 4)))),
            )
        )

    def site(self) -> str:
        """A web site."""
        r, name = self.rng, self.latin() if self.rng.random() < 0.7 else self._short()
        below = f"{self._short() if r.random() < 0.5 else self.latin()}." if r.random() < 0.3 else ""
        return f"{below}{name}.{r.choice(('ru', 'ru', 'ru', 'com', 'org', 'net', 'online'))}"

    def percent(self) -> str:
        """A share."""
        whole, tenths = self.whole(2, 95), self.rng.randint(1, 9) if self.rng.random() < 0.2 else 0
        number = f"{whole},{tenths}" if tenths else str(whole)
        unit = PERCENTS[1] if tenths else form(whole, PERCENTS)
        return f"{number}{self.rng.choice(('%', '%', ' %', f' {unit}'))}"

    def number(self) -> str:
        """A bare number."""
        number = self.rng.choice((self.whole(2, 12), self.whole(10, 99), self.whole(100, 999), self.whole(11, 90, 100)))
        return f"{number:,}".replace(",", " ")

    def year(self) -> str:
        """A year."""
        return str(self.rng.randint(1890, 2026))

    def city(self) -> str:
        """An invented town."""
        return (self.word() + self.rng.choice(("ск", "град", "ово", "инск", ""))).capitalize()

    def person(self) -> str:
        """First name and invented surname."""
        first = self.rng.choice(FIRST_NAMES)
        return f"{first} {self.word().capitalize()}{self.rng.choice(('ов', 'ин', 'ко', 'ский', 'ич'))}"

    def count(self, unit: Sequence[str]) -> str:
        """A number of things."""
        if self.rng.random() < 0.2:
            return self.spelled(unit)
        return plural(self.rng.choice((self.rng.randint(2, 24), self.whole(2, 99), self.whole(100, 999))), unit)

    def listed(self, things: Sequence[str]) -> str:
        """Some of the things, in a row."""
        chosen = self.rng.sample(list(things), self.rng.choice((2, 3, 3, 4)))
        return ", ".join(chosen[:-1]) + f" и {chosen[-1]}"

    def free(self) -> str:
        """A value of no particular kind."""
        r = self.rng
        unit = r.choice(("кг", "см", "м", "км", "г", "шт.", "баллов", "лет", "страниц", "л", "мм", "ГБ", "%"))
        return r.choice(
            (
                self.word(),
                self.latin(),
                f"{self.word()} {self.word()}",
                f"{r.choice(ADJECTIVES)} {r.choice(NOUNS)}",
                r.choice(NOUNS),
                f"{self.number()} {unit}",
                f"{self.number()} {unit}",
                str(self.whole(10, 99999)),
            )
        )


class EnglishWords(Words):
    """Seeded source of English names and values."""

    def name(self, known: Sequence[str]) -> str:
        """A proper name."""
        r, roll = self.rng, self.rng.random()
        if roll < 0.4 and known and not self.held_out:
            return r.choice(known)
        if roll < 0.6 and not self.held_out:
            return f"{r.choice(ENGLISH_ADJECTIVES)} {r.choice(ENGLISH_NOUNS)}".title()
        return self.latin().capitalize() + (f" {self.whole(2, 99)}" if roll > 0.9 else "")

    def price(self) -> str:
        """A sum of money."""
        amount = self.rng.choice((self.whole(2, 99), self.whole(100, 999), self.whole(10, 90, 100)))
        if self.rng.random() < 0.4:
            return f"{amount} {self.rng.choice(('dollars', 'euros', 'pounds', 'rubles', 'cents'))}"
        return f"{self.rng.choice('$€£')}{amount:,}"

    def duration(self) -> str:
        """A length of time."""
        number = self.rng.choice(ENGLISH_NUMERALS) if self.rng.random() < 0.3 else self.whole(2, 90)
        return f"{number} {self.rng.choice(('minutes', 'hours', 'days', 'weeks', 'months'))}"

    def date(self) -> str:
        """A day."""
        return f"{self.rng.choice(ENGLISH_MONTHS)} {self.rng.randint(1, 28)}"

    def percent(self) -> str:
        """A share."""
        return f"{self.whole(2, 95)}{self.rng.choice(('%', '%', ' %', ' percent'))}"

    def hours(self) -> str:
        """Opening hours."""
        if self.rng.random() < 0.4:
            return f"from {self.rng.randint(6, 11)}:{self.rng.choice(('00', '30'))} to {self.rng.randint(15, 23)}:00"
        return f"from {self.rng.randint(6, 11)} am to {self.rng.randint(1, 11)} pm"

    def address(self) -> str:
        """A street and a house."""
        return f"{self.whole(1, 180)} {self.latin().capitalize()} {self.rng.choice(('Street', 'Road', 'Lane'))}"

    def email(self) -> str:
        """A mail address."""
        return f"{self.rng.choice(('info', 'help', self.latin()))}@{self.latin()}.com"

    def site(self) -> str:
        """A web site."""
        return f"{self.latin()}.com"

    def city(self) -> str:
        """An invented town."""
        return self.latin().capitalize() + self.rng.choice(("ton", "ville", "ford", ""))

    def person(self) -> str:
        """First name and invented surname."""
        return f"{self.rng.choice(ENGLISH_FIRST_NAMES)} {self.latin().capitalize()}"

    def count(self, unit: Sequence[str]) -> str:
        """A number of things."""
        number = self.rng.choice(ENGLISH_NUMERALS) if self.rng.random() < 0.3 else self.whole(2, 99)
        return f"{number} {unit[-1]}"

    def listed(self, things: Sequence[str]) -> str:
        """Some of the things, in a row."""
        chosen = self.rng.sample(list(things), self.rng.choice((2, 3, 3)))
        return ", ".join(chosen[:-1]) + f" and {chosen[-1]}"

    def free(self) -> str:
        """A value of no particular kind."""
        return self.rng.choice((self.latin(), self.number(), f"{self.number()} kg", self.rng.choice(ENGLISH_NOUNS)))
