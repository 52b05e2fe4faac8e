"""The training text: repeatable, answered out of its own passages, and without what is kept for the evaluation."""

import json
import random
import re

import pytest

from contracts.prompts import build_messages
from trainer.pretrain.catalogues import Catalogue, catalogues, items
from trainer.pretrain.corpus import (
    AGREED,
    CALLS,
    CALLS_EN,
    SAID,
    SAID_EN,
    SPELLED,
    UNKNOWN_BEGINS,
    Corpus,
    Example,
    HeldOut,
    Scene,
    unknown,
)
from trainer.pretrain.domains import HELD_OUT_DOMAINS, NAMES, Domain, domains, is_named, placeholders
from trainer.pretrain.evaluate import holds
from trainer.pretrain.notices import Notice, Opposite, notices, opposites
from trainer.pretrain.phrases import DETAILS, VARIANTS, VARIANTS_ASKED, VARIANTS_TOLD
from trainer.pretrain.synonyms import FILE, replaced, synonyms
from trainer.pretrain.words import NUMERALS, Words, is_held_out, syllables

EVERY = [*domains(held_out=False), *domains(held_out=True)]
NOTICES = [notice for held_out in (False, True) for english in (False, True) for notice in notices(held_out, english)]
CATALOGUES = [each for held_out in (False, True) for english in (False, True) for each in catalogues(held_out, english)]
WORDS = {"price", "duration", "date", "time", "hours", "phone", "person", "address", "email", "site", "percent"}
WORDS |= {"number", "year", "city", "count", "v", "list"}


def drawn(number: int, level: float = 1.0, seed: int = 11) -> list[Example]:
    corpus = Corpus(seed)
    return [corpus.example(level, turns=2) for _ in range(number)]


def test_the_same_seed_gives_the_same_text() -> None:
    assert drawn(200) == drawn(200)
    assert drawn(50) != drawn(50, seed=12)


def test_most_answers_hold_the_value_and_every_value_stands_in_a_passage() -> None:
    answered = [e for e in drawn(3000) if e.value and e.value not in ("Да", "Нет", "Yes", "No")]
    assert len(answered) > 1000
    clashes = 0
    for example in answered:
        assert holds(example.answer, example.value), example
        assert any(holds(" ".join(passage.split()), example.value) for passage in example.passages), example
        clashes += any(holds(example.answer, rival) for rival in example.rivals)
    assert clashes <= 2, "an invented word can happen to begin a word of the call to action"


def test_an_answer_is_a_frame_with_the_value_as_it_stands_in_a_passage() -> None:
    corpus = Corpus(11, probing=True)
    frames = [frame.removesuffix("{v}.") for frame in (*SAID.values(), *SAID_EN.values())]
    for example in (corpus.question(2) for _ in range(1000)):
        body = re.sub(r"^(Здравствуйте! |Добрый (день|вечер)! |Hello! )", "", example.answer)
        for call in (*CALLS, *CALLS_EN):
            body = body.removesuffix(f" {call}")
        if example.value in AGREED:
            assert body == f"{AGREED[example.value]}."
            continue
        said = [body.removeprefix(frame).rstrip(".") for frame in frames if body.startswith(frame)]
        passages = [" ".join(passage.split()) for passage in example.passages]
        assert any(holds(passage, one) for one in said for passage in passages), example


def test_a_question_that_nothing_answers_is_not_answered() -> None:
    corpus = Corpus(3)
    for _ in range(500):
        assert corpus.question(3, "missing").answer.startswith(UNKNOWN_BEGINS)
        empty = corpus.question(0, "empty")
        assert empty.passages == ()
        assert empty.answer.startswith(UNKNOWN_BEGINS)


def test_the_prompt_is_the_one_of_the_services() -> None:
    example = Corpus(5).question(3)
    assert example.messages("S") == build_messages(example.question, example.passages, "S")
    assert example.messages("S")[1]["content"].startswith("Контекст:\n[1] ")


def test_every_sort_of_text_is_drawn() -> None:
    examples = drawn(4000)
    assert {len(e.passages) for e in examples} == {0, 1, 2, 3, 4, 5}
    kinds = {e.kind.split()[0] for e in examples}
    assert {domain.name for domain in domains(held_out=False)} <= kinds
    assert {"drill", "missing", "empty", "mention", "small"} <= kinds
    assert any(e.answer.startswith("Здравствуйте!") for e in examples)
    assert any(e.value == "Да" for e in examples)
    assert any(e.value == "Нет" for e in examples)


def test_training_never_shows_what_is_held_out() -> None:
    assert {domain.name for domain in domains(held_out=True)} == HELD_OUT_DOMAINS
    assert not HELD_OUT_DOMAINS & {domain.name for domain in domains(held_out=False)}
    assert not set(syllables(held_out=True)) & set(syllables(held_out=False))
    text = " ".join(" ".join((*e.passages, e.question, e.answer)) for e in drawn(3000))
    for domain in domains(held_out=False):
        for relation in domain.relations:
            for template in (*relation.sentences(held_out=True), *relation.questions(held_out=True)):
                longest = max(re.split(r"\{\w+\}", template), key=len).strip(" .?,:«»")
                if len(longest) > 25:
                    assert longest not in text, template


@pytest.mark.parametrize(
    ("answer", "value", "held"),
    [
        ("Это 500 рублей.", "500 руб", True),
        ("Это 1 500 рублей.", "500 рублей", False),
        ("Это 12:30.", "12", False),
        ("Это 1,5%.", "5%", False),
        ("Это 12 500 рублей.", "12", False),
        ("Это 12. Ждём вас!", "12", True),
        ("Нетрудно.", "Нет", False),
        ("Нет, к сожалению.", "Нет", True),
    ],
)
def test_a_longer_number_does_not_hold_a_shorter_one(answer: str, value: str, held: bool) -> None:
    assert holds(answer, value) == held


def test_the_tables_of_variants_and_details_are_whole() -> None:
    for sorts, variants in VARIANTS:
        assert len(variants) >= 3, variants
        assert len({variant.full for variant in variants}) == len(variants)
        assert set(sorts) <= VARIANTS_TOLD.keys() & VARIANTS_ASKED.keys()
    for detail in DETAILS:
        sort = detail.sort.partition(":")[0]
        assert sort in SAID or ";" in sort, detail
        assert all(asked[0].isupper() and asked[-1] == "?" for asked in detail.asked), detail


def test_what_a_list_leaves_out_is_not_answered() -> None:
    corpus, listed, left_out = Corpus(3, probing=True), 0, 0
    for _ in range(1500):
        scene = Scene(corpus, 1, level=1.0)
        if not scene._listed or scene._foreign:
            continue
        listed += 1
        for left in scene._left_out:
            assert not any(left.question in asked for asked in scene._asked_of.values()), left
        asked = {f"{scene._asked_of[fact.relation]}" for fact in scene._listed}
        assert len(asked) == len(scene._listed), "each is asked for in its own words"
        questions = {left.question.lower() for left in scene._left_out}
        left_out += any(scene.unanswered().question.lower() in questions for _ in range(6))
        assert all(fact.value in " ".join(scene.passages) for fact in scene._listed)
    assert listed > 50
    assert left_out > listed / 4


@pytest.mark.parametrize("notice", NOTICES, ids=lambda notice: notice.field)
def test_a_text_is_whole(notice: Notice) -> None:
    told = [name for sentence in notice.sentences for name in placeholders(sentence) if name != "name"]
    assert sorted(told) == sorted(notice.slots), "each slot stands once, and has questions"
    for slot in notice.slots.values():
        assert slot.sort in SAID
        assert slot.asked
        assert len(slot.values) >= 3 or slot.sort != "v"
        assert len(slot.unit) == (3 if slot.sort == "count" else 0)
    for agreed in notice.agreed:
        assert agreed.answer in AGREED
        assert 0 <= agreed.sentence < len(notice.sentences)
    asked = [q for each in (*notice.slots.values(), *notice.agreed) for q in each.asked] + list(notice.missing)
    assert notice.missing
    assert all(set(placeholders(question)) <= {"name", *notice.slots} for question in asked)
    assert len(asked) == len(set(asked)), "no question is asked of two values"


def test_a_texts_questions_are_answered_from_the_sentence_that_tells() -> None:
    corpus, answered, refused = Corpus(4), 0, 0
    for _ in range(200):
        scene = Scene(corpus, 2, level=1.0)
        if scene.subjects:
            continue
        for _ in range(4):
            example = scene.answered()
            if example is None or not example.value:
                continue
            answered += 1
            assert any(example.evidence in passage for passage in scene.passages)
            if example.value not in AGREED:
                told = f"{example.evidence}.".lower()
                assert told.startswith(example.value.lower(), example.offset), example
        refused += scene.unanswered().answer.startswith(UNKNOWN_BEGINS)
    assert answered > 100
    assert refused > 50


@pytest.mark.parametrize("level", [0.0, 0.2, 0.49, 1.0])
def test_any_number_of_examples_can_be_drawn(level: float) -> None:
    corpus = Corpus(7)
    for _ in range(3000):
        corpus.example(level, turns=3)


def test_numbers_are_held_out() -> None:
    shown, kept = Words(random.Random(1), held_out=False), Words(random.Random(1), held_out=True)
    assert not any(is_held_out(shown.whole(100, 999)) for _ in range(1000))
    assert all(is_held_out(kept.whole(100, 999)) for _ in range(1000))


@pytest.mark.parametrize("held_out", [HeldOut(names=True), HeldOut(True, True), HeldOut(True, True, True)])
def test_the_evaluations_cases_have_values(held_out: HeldOut) -> None:
    corpus = Corpus(8, held_out, probing=True)
    for passages in (1, 3, 5):
        examples = [corpus.question(passages) for _ in range(100)]
        assert all(example.value and len(example.passages) == passages for example in examples)
    assert all(e.kind.split()[0] in HELD_OUT_DOMAINS for e in examples) == held_out.domains


@pytest.mark.parametrize("domain", EVERY, ids=lambda domain: domain.name)
def test_a_domains_file_is_whole(domain: Domain) -> None:
    assert len(domain.names) >= 20
    assert len(domain.described) >= 8
    assert len(domain.fillers) >= 8
    assert len(domain.relations) >= 12
    assert all(placeholders(text) == [] for text in domain.fillers)
    assert all(is_named(text) and len(placeholders(text)) == 1 for text in domain.described)
    for relation in domain.relations:
        assert len(relation.questions(held_out=False)) >= 7
        assert len(relation.questions(held_out=True)) == 2
        assert all(set(placeholders(question)) <= NAMES for question in relation.asked)
        for sentence in (*relation.told, *relation.yes, *relation.no):
            values = set(placeholders(sentence)) - NAMES
            assert values <= WORDS, sentence
            assert len(values) == (0 if relation.yes else 1), sentence
            assert sentence.endswith((".", "!")), sentence


@pytest.mark.parametrize("catalogue", CATALOGUES, ids=lambda catalogue: catalogue.field)
def test_a_catalogue_is_whole(catalogue: Catalogue) -> None:
    told = {name for text in catalogue.texts for sentence in text for name in placeholders(sentence)} - {"name"}
    assert told == catalogue.slots.keys()
    for text in catalogue.texts:
        slots = [name for sentence in text for name in placeholders(sentence) if name != "name"]
        assert len(slots) == len(set(slots)), "each slot stands once in a text"
        assert "name" in placeholders(text[0])
    for slot in catalogue.slots.values():
        assert slot.sort in SAID
        assert len(slot.values) >= 4 or slot.sort != "v"
        assert len(slot.unit) == (3 if slot.sort == "count" else 0)
        assert all(placeholders(question) == ["name"] for question in slot.asked)
    for both in catalogue.both:
        assert set(both.slots) <= catalogue.slots.keys()
    for text, agreed in catalogue.agreed:
        assert agreed.answer in AGREED
        assert 0 <= agreed.sentence < len(catalogue.texts[text])
    calls = [call for known in catalogue.names for call in {*known.calls, known.name.lower()}]
    assert len(calls) == len(set(calls)), "no two things are called the same"
    assert len(catalogue.names) > 5, "there is always one that no passage names"


def test_a_question_about_one_thing_of_a_company_is_answered_from_a_text_about_it() -> None:
    corpus, answered, twice = Corpus(4, HeldOut(catalogues=True)), 0, 0
    for _ in range(200):
        scene = Scene(corpus, 3, level=1.0)
        assert not scene.subjects
        for _ in range(4):
            example = scene.answered()
            if example is None:
                continue
            answered += 1
            for part in filter(None, (example, example.second)):
                [passage] = [p for p in scene.passages if part.evidence in p][:1]
                assert part.value in AGREED or holds(passage, part.value), example
            if example.second:
                twice += 1
                assert holds(example.answer, example.second.value)
        assert scene.unanswered().answer.startswith(UNKNOWN_BEGINS)
    assert answered > 400
    assert twice > 5


def test_lists_are_taken_apart_where_all_are_lists() -> None:
    assert items(("чай, хлеб и мёд", "соль и рис")) == ("чай", "хлеб", "мёд", "соль", "рис")
    assert items(("чай, хлеб и мёд", "соль")) == ()
    assert items(("в среду и субботу", "в четверг и пятницу")) == ()


@pytest.mark.parametrize("opposite", [*opposites(held_out=False), *opposites(held_out=True)], ids=lambda o: o.asked[0])
def test_opposites_are_whole(opposite: Opposite) -> None:
    assert min(map(len, (opposite.yes, opposite.no, opposite.asked, opposite.inverted))) >= 3
    said = [*opposite.yes, *opposite.no, *opposite.asked, *opposite.inverted]
    assert len(set(said)) == len(said)
    assert all(sentence[-1] in ".!" and sentence[0].isupper() for sentence in (*opposite.yes, *opposite.no))
    assert not any(placeholders(text) for text in said)


def test_a_catalogue_is_in_the_language_that_it_is_said_to_be_in() -> None:
    assert {catalogue.english for catalogue in CATALOGUES} == {False, True}
    for catalogue in CATALOGUES:
        text = " ".join(sentence for text in catalogue.texts for sentence in text)
        assert bool(re.search("[а-яё]", text)) != catalogue.english, catalogue.field


def test_a_list_of_a_companys_things_tells_how_many_there_are() -> None:
    scene, counted = Scene(Corpus(5), 1, level=1.0), 0
    for catalogue in 5 * catalogues(held_out=False, english=False):
        overview = scene._overview(catalogue)
        listed = overview.slots["v1"].values[0]
        assert len(listed) < 140
        if "v2" in overview.slots:
            number = overview.slots["v2"].values[0].split()[0]
            named = listed.count("«")
            assert number in (str(named), NUMERALS[named], {2: "две"}.get(named)), (number, listed)
            counted += 1
    assert counted > 100


def test_foreign_names_are_also_asked_for_in_russian_letters() -> None:
    assert "".join(SPELLED[letter] for letter in "zulex") == "зулекс"
    scene, [catalogue, *_] = Scene(Corpus(5), 1, level=1.0), catalogues(held_out=False, english=False)
    things = [scene._new_thing(catalogue, catalogue.names[0], []) for _ in range(200)]
    foreign = [thing for thing in things if re.search("[a-z]", thing.teller.name)]
    assert foreign
    assert all(re.fullmatch("[^a-z]+", thing.calls[1]) for thing in foreign)


def test_statements_that_are_held_out_are_all_that_is_asked_with_them() -> None:
    corpus = Corpus(6, HeldOut(names=True, opposites=True), probing=True)
    kept = {q for opposite in opposites(held_out=True) for q in (*opposite.asked, *opposite.inverted)}
    examples = [corpus.question(1) for _ in range(200)]
    assert {example.value for example in examples} == {"Да", "Нет"}
    assert all(any(example.question.lower().endswith(q.lower()) for q in kept) for example in examples)


def test_what_is_not_known_is_named_by_its_sort() -> None:
    corpus = Corpus(3, probing=True)
    for _ in range(300):
        example = corpus.question(2, "missing")
        assert example.answer in (unknown(example.sort, False), unknown(example.sort, True))
        if example.sort == "price":
            assert "сколько это стоит" in example.answer or "what it costs" in example.answer
    assert len({corpus.question(0, "empty").answer for _ in range(300)}) > 10


def test_synonyms_are_whole() -> None:
    every: dict[str, list[str]] = {"text": [], "question": []}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        assert len(raw["forms"]) > 1
        assert all(form == form.strip().lower() and re.match("[а-яё]", form) for form in raw["forms"]), raw
        every[raw["in"]] += raw["forms"]
    assert all(len(forms) == len(set(forms)) for forms in every.values()), "no form stands in two sets"


def test_words_are_replaced_by_synonyms_and_names_and_slots_are_not() -> None:
    form, others = next(forms[0] for forms in synonyms(asked=False).values() if " " not in forms[0][0])
    rng = random.Random(1)
    said = {replaced(f"{form.capitalize()} и {form}, «{form}», {{v1}}", False, rng) for _ in range(200)}
    made = [other.capitalize() for other in (form, *others)]
    assert {text.split(" и ")[0] for text in said} == set(made)
    assert all(text.endswith(f", «{form}», {{v1}}") for text in said)


def test_the_evaluations_text_is_not_reworded() -> None:
    words, question = Words(random.Random(1), held_out=True), "Сколько стоит курс?"
    assert {words.varied(question, asked=True) for _ in range(50)} == {question}
    reworded = Words(random.Random(1), held_out=True, synonyms=True)
    assert len({reworded.varied(question, asked=True) for _ in range(50)}) > 1


def test_akin_things_are_listed_with_their_own_questions() -> None:
    scene, listed = Scene(Corpus(5), 1, level=1.0), 0
    for catalogue in catalogues(held_out=False, english=False):
        for group in catalogue.groups:
            overview = scene._group(catalogue, group)
            names = re.findall("«(.+?)»", overview.slots["v1"].values[0])
            assert 2 <= len(names) <= len(group.names)
            assert set(names) <= set(group.names)
            assert overview.slots["v1"].asked == group.asked
            assert overview.fixed == 1
            listed += 1
    assert listed > 50
