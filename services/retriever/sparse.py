"""BM25 as sparse vectors: the weight of a word in its passage is made here, its rarity (IDF) comes from the engine.

The score of a passage of ``n`` words is then the sum over the query's words of
``idf * tf * (K1 + 1) / (tf + K1 * (1 - B + B * n / AVERAGE_WORDS))``, which is BM25 (Robertson and Zaragoza, "The
Probabilistic Relevance Framework", 2009).
"""

import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import snowballstemmer

from services.retriever.text import words

ANALYSIS = "pymorphy3+snowball, k1 0.9, b 0.4"
"""How passages were made into vectors. An index that was made in another way is written again when it is opened."""
K1 = 0.9
B = 0.4
"""Pyserini's defaults for passages (Lin et al., SIGIR 2021): passages of much the same length need little of ``B``."""
LONG_WORD = 100
"""Characters from which on a word has no other forms, and is not remembered."""
AVERAGE_WORDS = 128
"""Stands in for the mean length of a passage in words. A constant, so that a stored vector never has to change when
other passages come or go; it is the length at which a passage is neither favoured nor held back."""


@dataclass(frozen=True, slots=True)
class SparseVector:
    """``indices`` are uint32 word ids, each once; ``values`` are their weights."""

    indices: list[int]
    values: list[float]


def encode_passage(text: str) -> SparseVector:
    """Return the BM25 weights of a passage's words, without IDF."""
    counts = Counter(map(_id_of, words(text)))
    norm = K1 * (1 - B + B * counts.total() / AVERAGE_WORDS)
    return SparseVector(list(counts), [tf * (K1 + 1) / (tf + norm) for tf in counts.values()])


def encode_query(text: str) -> SparseVector:
    """Return each different word of a query once, with weight 1."""
    ids = list(dict.fromkeys(map(_id_of, words(text))))
    return SparseVector(ids, [1.0] * len(ids))


def _id_of(word: str) -> int:
    return _word_id(word) if len(word) <= LONG_WORD else zlib.crc32(word.encode())


@lru_cache(maxsize=200_000)
def _word_id(word: str) -> int:
    """Return the same number for all forms of a word, in every process and on every machine."""
    # A stemmer keeps its place in itself, so threads must not share one.
    if "а" <= word[0] <= "я":
        # The lemma brings together what the stemmer cannot (идти, шёл), the stem what lemmas keep apart (a noun of each
        # aspect of a verb): docs/decisions/2026-11-23-fusion.md has both alone.
        word = snowballstemmer.stemmer("russian").stemWord(_morphology().parse(word)[0].normal_form.replace("ё", "е"))
    else:
        word = snowballstemmer.stemmer("english").stemWord(word)
    return zlib.crc32(word.encode())


@cache
def _morphology() -> Any:
    """Return the dictionary of Russian (15 MB, read once, at the first Russian word)."""
    import pymorphy3

    return pymorphy3.MorphAnalyzer()
