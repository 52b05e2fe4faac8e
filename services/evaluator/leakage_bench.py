"""How well leaks are found: catalogues of made-up things, in Russian and English, with leaks planted in the test part.

A clean world is hard on purpose: every thing is asked about by the same templates, names share words, prices and terms
coincide, and the questions about one thing are divided between training and test. No fact is in it twice.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from contracts.table import Row
from services.evaluator.leakage import Leakage, find_leakage

PLANTED = 0.05
"""Share of the test rows that a leaking world has planted."""
TESTED = (40, 60, 100)
"""Numbers of test rows, a world each in turn."""

Planted = Literal["exact", "case and punctuation", "near duplicate", "rephrased"]
_PLANTED: tuple[Planted, ...] = get_args(Planted)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked of a thing: the first question and answer make the world, the others say the same otherwise."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    value: Callable[[random.Random], str]


@dataclass(frozen=True, slots=True)
class _Language:
    things: tuple[tuple[str, ...], ...]
    """Forms of a thing's name, a row a thing: as in the world, then synonyms, likewise declined where that shows."""
    firsts: tuple[str, ...]
    seconds: tuple[str, ...]
    asked: tuple[_Asked, ...]
    polite: tuple[str, ...]


def _price(random: random.Random) -> str:
    return f"{random.choice((9, 12, 19, 29, 34, 49, 54, 78, 96))} {random.choice((0, 500, 900)):03d}"


def _number(*values: int) -> Callable[[random.Random], str]:
    return lambda random: str(random.choice(values))


def _one_of(words: str) -> Callable[[random.Random], str]:
    return lambda random: random.choice(words.split(", "))


_RU = _Language(
    things=(
        ("курса", "программы"),
        ("тарифа", "плана"),
        ("тура", "путешествия"),
        ("абонемента", "клубной карты"),
        ("станка", "агрегата"),
    ),
    firsts=tuple(
        str.split(
            "Северный Быстрый Золотой Новый Тихий Умный Первый Зелёный Яркий Дальний Малый Вольный Ясный Полный Белый"
            " Добрый"
        )
    ),
    seconds=tuple(
        str.split(
            "Ветер Старт Берег Путь Горизонт Квант Маяк Проект Вектор Сигнал Остров Полюс Родник Парус Компас Меридиан"
        )
    ),
    asked=(
        _Asked(
            (
                "Сколько рублей составляет стоимость {t} «{n}»?",
                "Какая цена у {t} «{n}» в рублях?",
                "«{n}»: почём, какая стоимость у {t}?",
                "Назовите цену {t} {n}",
            ),
            ("Стоимость — {v} рублей.", "{v} руб.", "Цена {t} «{n}» составляет {v} рублей."),
            _price,
        ),
        _Asked(
            (
                "Сколько недель длится срок {t} «{n}»?",
                "На какой срок в неделях рассчитан договор {t} «{n}»?",
                "Какова длительность {t} {n}?",
                "Какая продолжительность у {t} «{n}», сколько недель?",
            ),
            ("Срок {t} — {v} недель.", "{v} недель.", "Длительность «{n}» — {v} недель."),
            _number(2, 3, 4, 5, 6, 8, 12),
        ),
        _Asked(
            (
                "Какая скидка положена студентам при покупке {t} «{n}»?",
                "Студентам дают скидку при приобретении {t} «{n}»?",
                "Сколько процентов скидка на покупку {t} {n} для студентов?",
                "Скидка студентам на {n}: какая?",
            ),
            ("Студентам положена скидка {v} %.", "{v} %.", "Скидка для студентов — {v} процентов."),
            _number(5, 7, 10, 15, 20, 25),
        ),
        _Asked(
            (
                "Кто куратор {t} «{n}»?",
                "Как фамилия куратора {t} «{n}»?",
                "Чья фамилия указана куратором у {t} {n}?",
                "«{n}»: назовите куратора",
            ),
            ("Куратор — {v}.", "{v}.", "Куратором «{n}» работает {v}."),
            _one_of("Анна Ильина, Олег Громов, Пётр Лыков, Инна Соколова, Юрий Бельский, Вера Кац, Глеб Носов"),
        ),
        _Asked(
            (
                "В каком городе находится офис {t} «{n}»?",
                "Где расположен офис {t} «{n}», в каком городе?",
                "Город, где офис {t} {n}?",
                "Офис «{n}» в каком городе?",
            ),
            ("Офис находится в городе {v}.", "{v}.", "Он расположен в городе {v}."),
            _one_of("Казань, Пермь, Томск, Самара, Омск, Тверь, Псков, Рязань"),
        ),
    ),
    polite=("Здравствуйте! ", "Подскажите, пожалуйста: ", "Добрый день. ", ""),
)
_EN = _Language(
    things=(
        ("course", "class"),
        ("plan", "subscription"),
        ("tour", "trip"),
        ("printer", "device"),
        ("hotel", "guest house"),
    ),
    firsts=tuple(
        str.split(
            "Silver Rapid Golden Northern Quiet Clever Early Green Bright Distant Little Open Sunny Royal White Lucky"
        )
    ),
    seconds=tuple(
        str.split(
            "Harbor Start Meadow Path Horizon Quantum Beacon Bridge Vector Signal Island Summit Fountain Anchor Compass"
            " Meridian"
        )
    ),
    asked=(
        _Asked(
            (
                "What is the price of the {n} {t}?",
                "At what price is the {n} {t} sold?",
                "The {n} {t}: what price do I pay?",
                "Please name the price of {n}",
            ),
            ("The price is {v} dollars.", "{v} dollars.", "The {n} {t} is sold at {v} dollars."),
            _price,
        ),
        _Asked(
            (
                "How many weeks does the {n} {t} last?",
                "For how many weeks does the {n} {t} run?",
                "What is the duration of {n} in weeks?",
                "The {n} {t} takes how many weeks?",
            ),
            ("It lasts {v} weeks.", "{v} weeks.", "The {n} {t} runs for {v} weeks."),
            _number(2, 3, 4, 5, 6, 8, 12),
        ),
        _Asked(
            (
                "Which discount do students get on the {n} {t}?",
                "How much is the student discount for the {n} {t}?",
                "What discount is there on {n} for a student?",
                "Students buying the {n} {t} get what discount?",
            ),
            ("Students get a discount of {v} percent.", "{v} percent.", "The student discount is {v} percent."),
            _number(5, 7, 10, 15, 20, 25),
        ),
        _Asked(
            (
                "Who is the manager of the {n} {t}?",
                "What is the name of the {n} {t} manager?",
                "Who manages the {n} {t}?",
                "By whom is {n} managed?",
            ),
            ("The manager is {v}.", "{v}.", "It is managed by {v}."),
            _one_of("Anna Hill, Oliver Stone, Peter Lake, Ina Falk, George Bell, Vera Katz, Glenn Noss"),
        ),
        _Asked(
            (
                "In which city is the office of the {n} {t}?",
                "The office of the {n} {t} is in what city?",
                "Where, in which city, does the {n} {t} have its office?",
                "What city has the office of {n}?",
            ),
            ("The office is in {v}.", "{v}.", "It has its office in {v}."),
            _one_of("Leeds, Bristol, York, Derby, Oxford, Dover, Lincoln, Durham"),
        ),
    ),
    polite=("Hello! ", "Please tell me: ", "Good morning. ", ""),
)


@dataclass(frozen=True, slots=True)
class _Made:
    """A row, and what says the same in other words."""

    row: Row
    questions: tuple[str, ...]
    answers: tuple[str, ...]


def leak_caught(runs: int, seed: int) -> float:
    """Return the share of leaking worlds whose verdict is INVALID: ``PLANTED`` of the test rows leak, all kinds mixed.

    Args:
        runs: how many worlds; their sizes are those of ``TESTED``, their languages take turns.
        seed: of the worlds.
    """
    return sum(_found(run, seed, PLANTED)[0].invalid for run in range(runs)) / runs


def false_alarms(runs: int, seed: int) -> float:
    """Return the share of clean worlds whose verdict is INVALID; arguments as of :func:`leak_caught`."""
    return sum(_found(run, seed, 0.0)[0].invalid for run in range(runs)) / runs


def figures(runs: int, seed: int) -> dict[str, float]:
    """Return by row what :func:`leak_caught` and :func:`false_alarms` tell by world.

    ``recall`` of each kind of planted leak, and ``alarms``, the share of the test rows of clean worlds that are said to
    leak.
    """
    planted, caught = Counter[Planted](), Counter[Planted]()
    alarms = tested = 0
    for run in range(runs):
        leakage, kinds = _found(run, seed, PLANTED)
        named = {leak.test for leak in leakage.leaks}
        planted.update(kinds.values())
        caught.update(kind for number, kind in kinds.items() if number in named)
        clean, _ = _found(run, seed, 0.0)
        alarms, tested = alarms + len(clean.leaks), tested + clean.tested
    recall = {f"recall, {kind}": caught[kind] / planted[kind] for kind in _PLANTED if planted[kind]}
    return {**recall, "alarms": alarms / tested}


def _found(run: int, seed: int, share: float) -> tuple[Leakage, dict[int, Planted]]:
    """Make a world, plant leaks of this share, look for them; return what was found and the rows that leak."""
    rng = random.Random(f"{seed} {run}")
    tested = TESTED[run // 2 % len(TESTED)]
    language = (_RU, _EN)[run % 2]
    made = _world(language, 5 * tested, rng)
    rng.shuffle(made)
    train, test = made[tested:], [one.row for one in made[:tested]]
    kinds: dict[int, Planted] = {}
    for place, source in zip(range(round(share * tested)), rng.sample(train, round(share * tested)), strict=True):
        kind = rng.choice(_PLANTED)
        test[place] = _leaked(test[place].number, source, kind, language, rng)
        kinds[test[place].number] = kind
    return find_leakage([one.row for one in train], test), kinds


def _world(language: _Language, rows: int, rng: random.Random) -> list[_Made]:
    """Return rows on as many things as are needed, five a thing, its context the answers to all five."""
    names = [f"{first} {second}" for first in language.firsts for second in language.seconds]
    made: list[_Made] = []
    for name in rng.sample(names, -(-rows // len(language.asked))):
        forms = rng.choice(language.things)
        values = [asked.value(rng) for asked in language.asked]
        said = [
            [_filled(asked.questions, name, forms), _filled(asked.answers, name, forms, value)]
            for asked, value in zip(language.asked, values, strict=True)
        ]
        context = f"{name}. " + " ".join(answers[2 % len(answers)] for _, answers in said)
        for questions, answers in said:
            cells = {"question": questions[0], "answer": answers[0], "context": context}
            made.append(_Made(Row(len(made) + 1, cells), tuple(questions[1:]), tuple(answers)))
    return made


def _filled(templates: Sequence[str], name: str, forms: Sequence[str], value: str = "") -> list[str]:
    """Fill the templates: the first with the thing's own word, the others with one after the other of its words."""
    return [template.format(n=name, t=forms[at % len(forms)], v=value) for at, template in enumerate(templates)]


def _leaked(number: int, source: _Made, kind: Planted, language: _Language, rng: random.Random) -> Row:
    cells = dict(source.row.cells)
    question = cells["question"]
    if kind == "case and punctuation":
        cells["question"] = rng.choice((question.upper(), question.lower().rstrip("?"), f"  {question}!! ".title()))
    elif kind == "near duplicate":
        cells["question"] = rng.choice(language.polite) + _typo(question, rng)
    elif kind == "rephrased":
        asked = rng.choice(source.questions)
        if rng.random() < 0.5:
            asked = asked.lower()
        cells["question"] = rng.choice(language.polite) + asked
        cells["answer"] = rng.choice(source.answers)
    return Row(number, cells)


def _typo(text: str, rng: random.Random) -> str:
    """Swap two letters inside a word of five letters or more."""
    words = text.split()
    place = rng.choice([at for at, word in enumerate(words) if len(word.strip("«»?")) >= 5])
    word = words[place]
    at = rng.randrange(1, len(word) - 3)
    words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)
