import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.groups import grouped, near_duplicates, normalized, same_digits, similarity

LETTERS = "оеаинтсрвлкмдпуя"
TEXTS = st.lists(st.text(alphabet="абв 12?", max_size=12), max_size=25)


def sentences(number: int, words: tuple[int, int], seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    known = ["".join(rng.choices(LETTERS, k=rng.randint(2, 9))) for _ in range(3000)]
    return [" ".join(rng.choices(known, k=rng.randint(*words))) for _ in range(number)]


def mistyped(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(LETTERS) + text[at + 1 :]
    return text


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("  Ещё   ОДИН, вопрос?! ", "еще один вопрос"),
        ("\uff27\uff30\uff34-4", "gpt 4"),
        ("?!", "?!"),
        ("", ""),
    ],
)
def test_case_punctuation_spaces_and_yo_do_not_change_a_text(written: str, same: str) -> None:
    assert normalized(written) == same


def test_similarity_is_the_jaccard_index_of_five_character_shingles() -> None:
    # " абвгд " and " абвге ": 3 shingles each, of which they share " абвг".
    assert similarity("абвгд", "Абвге!") == pytest.approx(1 / 5)
    assert similarity("да", "Да!") == 1.0
    assert similarity("да", "нет") == 0.0


@settings(deadline=None)  # the first call imports datasketch
@given(TEXTS)
def test_no_pair_is_invented_and_equal_texts_always_meet(texts: list[str]) -> None:
    pairs = near_duplicates(texts)
    assert pairs == sorted(pairs)
    for i, j, index in pairs:
        assert i < j
        assert index == similarity(texts[i], texts[j]) >= 0.8
        assert same_digits(texts[i], texts[j])
    groups = grouped(len(texts), pairs)
    of = {place: number for number, group in enumerate(groups) for place in group}
    for i, j in combinations(range(len(texts)), 2):
        if normalized(texts[i]) == normalized(texts[j]):
            assert of[i] == of[j]


@settings(deadline=None)  # the first call imports datasketch
@given(TEXTS, st.randoms(use_true_random=False))
def test_the_order_of_the_texts_does_not_matter(texts: list[str], rng: random.Random) -> None:
    shuffled = texts[:]
    rng.shuffle(shuffled)

    def as_texts(given: list[str]) -> set[frozenset[str]]:
        groups = grouped(len(given), near_duplicates(given))
        return {frozenset(normalized(given[place]) for place in group) for group in groups}

    assert as_texts(texts) == as_texts(shuffled)


@pytest.mark.parametrize("words", [(6, 14), (20, 80)])
def test_planted_near_duplicates_are_found(words: tuple[int, int]) -> None:
    rng = random.Random(7)
    texts = sentences(1500, words)
    planted = [(place, len(texts) + place, mistyped(text, rng)) for place, text in enumerate(texts)]
    surely = [(i, j) for i, j, text in planted if similarity(texts[i], text) >= 0.85]
    found = {(i, j) for i, j, _ in near_duplicates([*texts, *(text for _, _, text in planted)])}
    assert len(surely) > 300
    assert sum(pair in found for pair in surely) >= 0.99 * len(surely)
    assert all(j - i == len(texts) for i, j in found)


def test_a_mistyped_question_is_a_near_duplicate_and_another_number_makes_another_question() -> None:
    texts = [
        "Сколько стоит обучение на курсе «Нейросети для школьников» в этом году?",
        "Сколько стоит обучение на курсе Нейросети для школников в этом году",
        *(f"Сколько стоит обучение на курсе «Нейросети для школьников», часть {n}, в этом году?" for n in (1, 2, 12)),
    ]
    assert [(i, j) for i, j, _ in near_duplicates(texts)] == [(0, 1)]
    assert similarity(texts[2], texts[3]) > 0.8


def test_numbers_are_the_same_however_their_digits_are_grouped() -> None:
    assert same_digits("29 900 рублей", "29900 руб.")
    assert not same_digits("29 900 рублей", "29 901 рубль")


def test_texts_that_are_equal_after_normalization_are_a_star_around_the_first() -> None:
    texts = ["Да?", "нет", "да", "ДА!"]
    assert near_duplicates(texts) == [(0, 2, 1.0), (0, 3, 1.0)]
    assert near_duplicates([]) == []


def test_very_many_texts_that_are_alike_stay_one_group() -> None:
    names = sentences(400, (1, 1), seed=3)
    template = "Подскажите, пожалуйста, какова полная стоимость обучения и что входит в программу курса {}, если сразу?"
    texts = sorted({template.format(name) for name in names if len(name) < 4})
    alike = [(i, j) for i, j in combinations(range(len(texts)), 2) if similarity(texts[i], texts[j]) >= 0.8]
    assert len(texts) > 50
    assert sorted(map(len, grouped(len(texts), alike))) == [len(texts)]
    assert sorted(map(len, grouped(len(texts), near_duplicates(texts)))) == [len(texts)]


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))
    )
)
def test_groups_are_what_the_pairs_connect(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    number, pairs = drawn
    groups = grouped(number, pairs)
    assert sorted(place for group in groups for place in group) == list(range(number))
    assert groups == sorted(sorted(group) for group in groups)
    of = {place: index for index, group in enumerate(groups) for place in group}
    assert all(of[i] == of[j] for i, j in pairs)
    # A union joins two groups or nothing: with fewer groups than that something was joined that no pair names.
    assert len(groups) >= number - len({frozenset(pair) for pair in pairs if pair[0] != pair[1]})
