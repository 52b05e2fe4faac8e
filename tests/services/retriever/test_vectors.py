"""Both kinds of vector: deterministic, of the promised shape, near for words that belong together."""

import subprocess
import sys

import numpy as np
import pytest

from services.retriever.embedding import HashedNgrams
from services.retriever.sparse import AVERAGE_WORDS, K1, B, encode_passage, encode_query


def test_hashed_vectors_have_length_one_and_no_words_give_zero() -> None:
    embedder = HashedNgrams(256)
    vectors = embedder.encode_passages(["Курс по Python", "...", "a"])
    assert (vectors.shape, vectors.dtype) == ((3, 256), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 1])


def test_hashed_vectors_bring_word_forms_and_typing_errors_together() -> None:
    embedder = HashedNgrams()
    query = embedder.encode_queries(["программирование"])[0]
    near, typo, far = embedder.encode_passages(["программированию", "програмирование", "бухгалтерия"]) @ query
    assert near > 0.6
    assert typo > 0.6
    assert far < 0.2


def test_vectors_are_the_same_in_every_process() -> None:
    code = (
        "from services.retriever.embedding import HashedNgrams\nfrom services.retriever.sparse import encode_passage\n"
        "text = 'Всё про курсы Python'\n"
        "print(HashedNgrams().encode_passages([text]).tobytes().hex()[:4000], encode_passage(text))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_passage_weights_are_bm25_and_query_weights_are_one() -> None:
    sparse = encode_passage("курс курсы сеть")
    norm = K1 * (1 - B + B * 3 / AVERAGE_WORDS)
    assert sorted(sparse.values) == pytest.approx(sorted([2 * (K1 + 1) / (2 + norm), (K1 + 1) / (1 + norm)]))
    assert encode_query("Курсов, курсам!").values == [1.0]
    assert encode_query("Курсов").indices[0] in sparse.indices


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ёлка", "ЕЛКИ"),
        ("обучение", "обучения"),
        ("люди", "человек"),  # no stem has these in common: lemmas
        ("шёл", "идти"),
        ("courses", "Course"),
        ("ﬁne", "fine"),
    ],
)
def test_forms_of_a_word_are_one_word(one: str, other: str) -> None:
    assert encode_query(one) == encode_query(other)
