"""Which texts are almost the same: questions that must not be divided between training and measuring."""

import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

THRESHOLD = 0.8
"""Jaccard index from which two texts are near duplicates."""
SHINGLE = 5
_BANDS, _BAND_ROWS = 20, 6
# Two texts of Jaccard index J meet in some band with probability 1 - (1 - J^6)^20: 0.9999 at 0.85, 0.998 at 0.8,
# 0.27 at 0.5 (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4.2). Who meets is then compared exactly.
_NEIGHBOURS = 32
_SLACK = 0.11  # three standard errors of a Jaccard index estimated from 120 hashes
_CHUNK = 20_000
_SEED = 1
_WORD = re.compile(r"\w+")


def normalized(text: str) -> str:
    """Return the text without what does not change a question: case, punctuation, spaces, ё for е."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("ё", "е")
    return " ".join(_WORD.findall(plain)) or plain


def similarity(left: str, right: str) -> float:
    """Return the Jaccard index of the texts' 5-character shingles after :func:`normalized`, 0 to 1."""
    return _jaccard(_shingles(normalized(left)), _shingles(normalized(right)))


def same_digits(left: str, right: str) -> bool:
    """Tell whether two texts have the same digits in the same order, however they are grouped: 29 900 and 29900."""
    return _digits(normalized(left)) == _digits(normalized(right))


def near_duplicates(texts: Sequence[str], threshold: float = THRESHOLD) -> list[tuple[int, int, float]]:
    """Find the pairs of texts that are almost the same.

    Candidates come from MinHash LSH with a fixed seed; each is verified by the exact Jaccard index of 5-character
    shingles of the :func:`normalized` texts. Texts that are equal after normalization are found by hash, so surely.

    Two texts whose digits differ are no near duplicates, whatever their index: "Сколько стоит курс 1?" and "... курс
    2?", X100 and X200 are other questions with other answers, and a catalogue asked by one template would become one
    group that cannot be divided. A differing word is no such sign, because a shingle does not know a name from a
    synonym: the three pairs from 0.8 on among the answers of the sample data say the same in other words, the two among
    the questions of XQuAD ask for something else ("one algorithm" and "another algorithm", "when" and "where"). Kept
    together such pairs cost a little balance; divided they could leak. So they stay together.

    Args:
        texts: any number; pairs name their places in it.
        threshold: lowest index of a pair, best not under 0.8: the bands are laid out for that.

    Returns:
        ``(i, j, index)`` with ``i < j``, sorted. Of texts that are equal after normalization the first stands for all:
        ``k`` of them make ``k - 1`` pairs with index 1, and only the first is paired with others. Where very many
        texts are alike, each is compared with the 32 alphabetically next of its LSH bucket: their groups stay whole,
        memory and time stay bounded.
    """
    first: dict[str, int] = {}
    pairs: list[tuple[int, int, float]] = []
    for place, text in enumerate(texts):
        original = first.setdefault(normalized(text), place)
        if original != place:
            pairs.append((original, place, 1.0))
    # In this order the same texts give the same pairs, whichever order they came in.
    distinct = sorted(first)
    compared, shingles = -1, frozenset[str]()
    for left, right in _candidates(distinct, threshold):
        if left != compared:
            compared, shingles = left, _shingles(distinct[left])
        index = _jaccard(shingles, _shingles(distinct[right]))
        if index >= threshold:
            one, other = sorted((first[distinct[left]], first[distinct[right]]))
            pairs.append((one, other, index))
    return sorted(pairs)


def grouped(number: int, pairs: Iterable[tuple[int, int, *tuple[float, ...]]]) -> list[list[int]]:
    """Join what the pairs connect, directly or through others.

    Args:
        number: how many things there are; the pairs name them from 0.
        pairs: may carry more than the two places, as those of :func:`near_duplicates` do.

    Returns:
        Each thing in exactly one group, alone where no pair names it; groups and the things in them ascend.
    """
    parent = list(range(number))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for left, right, *_ in pairs:
        one, other = sorted((root(left), root(right)))
        parent[other] = one
    groups: dict[int, list[int]] = {}
    for place in range(number):
        groups.setdefault(root(place), []).append(place)
    return list(groups.values())


def _candidates(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield the places of likely near duplicates, ascending; a band at a time, so that memory holds one band's table.

    ``datasketch.MinHashLSH`` keeps the tables of all bands at once, as dictionaries of sets: 680 MB for 100,000
    questions, where this needs 110.
    """
    import numpy as np

    if len(texts) < 2:
        return
    signatures = _signatures(texts)
    kinds = {digits: number for number, digits in enumerate(sorted({_digits(text) for text in texts}))}
    digits = np.array([kinds[_digits(text)] for text in texts], dtype=np.uint64)
    mix = np.random.default_rng(_SEED).integers(1, 2**63, size=_BAND_ROWS + 1, dtype=np.uint64) | np.uint64(1)
    found = np.empty(0, dtype=np.int64)
    for band in range(_BANDS):
        values = signatures[:, band * _BAND_ROWS : (band + 1) * _BAND_ROWS].astype(np.uint64)
        keys = (values * mix[:-1]).sum(axis=1, dtype=np.uint64) + digits * mix[-1]
        order = np.argsort(keys, kind="stable")
        met = [np.empty(0, dtype=np.int64)]
        for step in range(1, min(_NEIGHBOURS, len(texts) - 1) + 1):
            same = keys[order[:-step]] == keys[order[step:]]
            if not same.any():
                break
            met.append(order[:-step][same] * len(texts) + order[step:][same])
        new = np.setdiff1d(np.concatenate(met), found, assume_unique=True)
        found = np.union1d(found, _likely(new, signatures, threshold - _SLACK))
    for code in found:
        left, right = divmod(int(code), len(texts))
        yield left, right


def _likely(codes: "NDArray[np.int64]", signatures: "NDArray[np.uint32]", least: float) -> "NDArray[np.int64]":
    """Keep the pairs whose signatures agree in at least the share ``least``."""
    import numpy as np

    kept = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(codes), _CHUNK):
        chunk = codes[start : start + _CHUNK]
        left, right = np.divmod(chunk, len(signatures))
        kept.append(chunk[(signatures[left] == signatures[right]).mean(axis=1) >= least])
    return np.concatenate(kept)


def _signatures(texts: Sequence[str]) -> "NDArray[np.uint32]":
    """Return the MinHash signatures, a row a text."""
    import numpy as np
    from datasketch import MinHash

    signatures = np.empty((len(texts), _BANDS * _BAND_ROWS), dtype=np.uint32)
    encoded = ([shingle.encode("utf-8", "surrogatepass") for shingle in _shingles(text)] for text in texts)
    made = MinHash.generator(encoded, num_perm=signatures.shape[1], seed=_SEED, hashfunc=zlib.crc32, scheme="affine32")
    for place, minhash in enumerate(made):
        signatures[place] = minhash.hashvalues
    return signatures


def _shingles(text: str) -> frozenset[str]:
    """Return the 5-character pieces of a normalized text; the shortest text still makes one."""
    padded = f" {text} ".ljust(SHINGLE)
    return frozenset(padded[at : at + SHINGLE] for at in range(len(padded) - SHINGLE + 1))


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    common = len(left & right)
    return common / (len(left) + len(right) - common)


def _digits(text: str) -> str:
    return "".join(char for char in text if char.isdecimal())
