"""The retriever's settings, from arguments or from the environment."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.artifacts import Home
from services.retriever.embedding import Precision

Quantization = Literal["none", "scalar", "binary"]
Ordering = Literal["weak", "medium", "strong"]


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
    """A sentence-transformers hub id or folder, ``minilm``, or ``openai:MODEL`` of a server that speaks OpenAI's API;
    None is the built-in hashed n-grams."""
    embedding_url: str | None = Field(
        default=None, validation_alias=AliasChoices("ASKTWICE_EMBEDDING_URL", "OPENAI_BASE_URL")
    )
    """Where ``openai:MODEL`` is, such as ``http://127.0.0.1:8080/v1``; None is OpenAI."""
    embedding_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("ASKTWICE_EMBEDDING_KEY", "OPENAI_API_KEY")
    )
    embedding_precision: Precision = "float32"
    """``int8`` is faster on the CPU; an index is searched with what it was built with."""
    reindex: bool = False
    """Where the index was built with another embedding, build it again with this one, rather than refuse to open it."""
    reranker: str | None = None
    """A cross-encoder's hub id or folder that puts the best passages in order; None is the fused order."""
    floor: float | None = Field(default=None, ge=-1, le=1)
    """Cosine of query and best passage under which nothing is found; None is the embedding's own floor, -1 is none."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the embedding model runs; ``auto`` is the GPU where there is one."""
    store: Literal["auto", "edge", "qdrant", "faiss"] = "auto"
    """``auto`` is the server where ``QDRANT_URL`` is set, else ``edge``, the Qdrant engine in this process; ``faiss``
    is exact and for study."""
    qdrant_url: str | None = Field(default=None, validation_alias=AliasChoices("QDRANT_URL", "ASKTWICE_QDRANT_URL"))
    """A Qdrant server; see ``store``."""
    qdrant_timeout_s: int = Field(default=60, ge=1)
    qdrant_shards: int | None = Field(default=None, ge=1)
    """Parts of a new collection, which cannot be changed later; None is one for each node of the cluster."""
    qdrant_replicas: int | None = Field(default=None, ge=1)
    """Copies of each part of a new collection; None is the server's default, one."""
    qdrant_write_consistency: int | None = Field(default=None, ge=1)
    """How many of the copies must have a write before it counts; None is the server's default, one."""
    qdrant_ordering: Ordering | None = None
    """In what order writes reach the copies; None is ``weak``, which ours allow for."""
    qdrant_quantization: Quantization = "none"
    """``scalar`` makes the vectors that are searched 4 times smaller, ``binary`` 32 times."""
    qdrant_on_disk: bool | None = None
    """Leave uncompressed vectors on the disk; None is the server's default, in memory."""
    qdrant_hnsw_m: int | None = Field(default=None, ge=2, le=512)
    """Edges of a node of the graph (Malkov and Yashunin, arXiv:1603.09320); None is the server's default, 16."""
    qdrant_ef_construct: int | None = Field(default=None, ge=4, le=10_000)
    """How many neighbours are looked at for each of them; None is the server's default, 100."""
    qdrant_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("QDRANT_API_KEY", "ASKTWICE_QDRANT_API_KEY")
    )

    @model_validator(mode="after")
    def _has_a_server(self) -> "RetrieverSettings":
        if self.store == "qdrant" and self.qdrant_url is None:
            raise ValueError("ASKTWICE_STORE=qdrant needs QDRANT_URL, the address of the server")
        return self

    @property
    def folder(self) -> Path:
        """Where this index keeps its ledger (and, without a server, its vectors)."""
        return Home(path=self.home).indexes / self.collection
