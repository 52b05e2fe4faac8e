"""The retriever's settings, from arguments or from the environment."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.artifacts import Home
from services.retriever.embedding import Precision


class RetrieverSettings(BaseSettings):
    """Where the knowledge lives and how it is turned into vectors. Environment prefix: ``ASKTWICE_``."""

    model_config = SettingsConfigDict(
        env_prefix="ASKTWICE_", env_ignore_empty=True, populate_by_name=True, frozen=True, extra="ignore"
    )

    home: Path = Path("artifacts")
    data: Path | None = None
    """The file that is indexed at start, unless the index already holds it."""
    collection: str = Field(default="asktwice", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    embedding: str | None = None
    """A sentence-transformers hub id or folder; None is the built-in hashed n-grams."""
    embedding_precision: Precision = "float32"
    """``int8`` is faster on the CPU; an index is searched with what it was built with."""
    reranker: str | None = None
    """A cross-encoder's hub id or folder that puts the best passages in order; None is the fused order."""
    floor: float | None = Field(default=None, ge=-1, le=1)
    """Cosine of query and best passage under which nothing is found; None is the embedding's own floor, -1 is none."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the embedding model runs; ``auto`` is the GPU where there is one."""
    qdrant_url: str | None = Field(default=None, validation_alias=AliasChoices("QDRANT_URL", "ASKTWICE_QDRANT_URL"))
    """A Qdrant server; None is the Qdrant engine in this process."""
    qdrant_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("QDRANT_API_KEY", "ASKTWICE_QDRANT_API_KEY")
    )

    @property
    def folder(self) -> Path:
        """Where this index keeps its ledger (and, without a server, its vectors)."""
        return Home(path=self.home).indexes / self.collection
