"""BM25 as sparse vectors: the weight of a word in its passage is made here, its rarity (IDF) comes from the engine.

The score of a passage of ``n`` words is then the sum over the query's words of
``idf * tf * (K1 + 1) / (tf + K1 * (1 - B + B * n / AVERAGE_WORDS))``, which is BM25 (Robertson and Zaragoza, "The
Probabilistic Relevance Framework", 2009).
"""

import zlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import snowballstemmer

from services.retriever.text import words

K1 = 1.2
B = 0.75
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
    counts = Counter(map(_word_id, words(text)))
    norm = K1 * (1 - B + B * counts.total() / AVERAGE_WORDS)
    return SparseVector(list(counts), [tf * (K1 + 1) / (tf + norm) for tf in counts.values()])


def encode_query(text: str) -> SparseVector:
    """Return each different word of a query once, with weight 1."""
    ids = list(dict.fromkeys(map(_word_id, words(text))))
    return SparseVector(ids, [1.0] * len(ids))


@lru_cache(maxsize=200_000)
def _word_id(word: str) -> int:
    """Return the same number for all forms of a word, in every process and on every machine."""
    language = "russian" if "а" <= word[0] <= "я" else "english"
    # A stemmer keeps its place in itself, so threads must not share one.
    return zlib.crc32(snowballstemmer.stemmer(language).stemWord(word).encode())
