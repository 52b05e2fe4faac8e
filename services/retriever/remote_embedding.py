"""Vectors from a server that speaks OpenAI's embeddings API (platform.openai.com/docs/api-reference/embeddings)."""

from collections.abc import Sequence

import numpy as np
from openai import OpenAI, OpenAIError

from contracts.errors import Unavailable
from services.retriever.embedding import Vectors
from services.retriever.reading.prose import Splitter

BATCH = 64
TIMEOUT_S = 30
RETRIES = 3


class OpenAIEmbedder:
    """A model behind ``POST {url}/embeddings``. What the server answers is believed only where it fits what was asked.

    Raises:
        Unavailable: the server does not answer, refuses, or answers something else; from every method.
    """

    weight = 0.4
    floor = -1.0
    splitter = Splitter()

    def __init__(self, model: str, url: str | None, key: str):
        self._client = OpenAI(base_url=url, api_key=key, timeout=TIMEOUT_S, max_retries=RETRIES)
        self._model = model
        self._at = self._client.base_url.host
        self.id = f"openai:{model}"
        self.dimension = 0
        self.dimension = self._encode(["probe"]).shape[1]

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> Vectors:
        batches = [self._batch(list(texts[at : at + BATCH])) for at in range(0, len(texts), BATCH)]
        return np.concatenate(batches) if batches else np.zeros((0, self.dimension), np.float32)

    def _batch(self, texts: list[str]) -> Vectors:
        try:
            answer = self._client.embeddings.create(model=self._model, input=texts, encoding_format="float")
            found = sorted(answer.data, key=lambda each: each.index)
            places = [each.index for each in found]
            vectors = np.array([each.embedding for each in found], np.float32)
        except OpenAIError as error:
            raise self._failed(str(error)[:300]) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise self._failed("its answer is none of embeddings") from error
        if places != list(range(len(texts))) or vectors.ndim != 2:
            raise self._failed(f"{len(texts)} texts were sent, and vectors came for {len(places)}")
        if self.dimension not in (0, vectors.shape[1]):
            raise self._failed(f"a vector has {vectors.shape[1]} numbers, and had {self.dimension} before")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(vectors).all() or (lengths == 0).any():
            raise self._failed("a vector is zero or has a number that is none")
        return np.asarray(vectors / lengths, np.float32)

    def _failed(self, why: str) -> Unavailable:
        return Unavailable(
            f"The embeddings {self._model} at {self._at} cannot be had: {why}. Look at ASKTWICE_EMBEDDING_URL and"
            " ASKTWICE_EMBEDDING_KEY.",
            retry_after=10,
        )
