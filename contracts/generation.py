"""Prompt in, answer out."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from contracts.wire import Body


class Mode(StrEnum):
    """How a question is answered; see the table of modes in docs/architecture.md."""

    base = "base"
    rag = "rag"
    ft = "ft"
    rag_ft = "rag_ft"

    @property
    def retrieves(self) -> bool:
        """Whether the prompt holds retrieved passages."""
        return self in (Mode.rag, Mode.rag_ft)

    @property
    def tuned(self) -> bool:
        """Whether an adapter answers."""
        return self in (Mode.ft, Mode.rag_ft)


MAX_QUERY = 20_000
"""Characters of a question that can be looked up."""
Question = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY)]
AdapterId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.[0-9a-f]{12}$")]
"""``NAME.<digest>``: a registry name, never a path or a hub id."""

MAX_PASSAGE = 100_000
GivenPassage = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PASSAGE)]


class AskRequest(Body):
    question: Question
    adapter: AdapterId | None = None
    top_k: int = Field(default=3, ge=1, le=20)
    max_new_tokens: int = Field(default=256, ge=1, le=1024)
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stream: bool = False
    reasoning: bool = False
    """Whether the answer tells what a reasoning model thought before it answered."""
    passages: list[GivenPassage] | None = Field(default=None, min_length=1, max_length=20)
    """Answer from these texts in place of looking any up; for the modes that retrieve."""


class Source(BaseModel):
    """A passage that the prompt really held, under the number it had there."""

    n: int
    id: str
    title: str
    text: str
    score: float


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class Timings(BaseModel):
    """Milliseconds: waiting for the model, retrieving passages (0 in modes without), generating, and all of it."""

    queue: float
    retrieve: float
    generate: float
    total: float


class Answer(BaseModel):
    id: str
    mode: Mode
    question: str
    answer: str
    sources: list[Source]
    model: str
    quantization: Literal["nf4", "none"]
    adapter: str | None
    usage: Usage
    timings_ms: Timings
    reasoning: str | None = None
    """What a reasoning model thought, where that was asked for."""


class AdapterInfo(BaseModel):
    id: str
    name: str
    state: Literal["ready", "loading", "unloaded", "refused"]
    base: str
    created: datetime
    modes: list[Mode]
    reason: str | None = None
    """Why a refused adapter was refused."""
    data_file: str | None = None
    """Name of the file that it was trained on."""
    pinned: bool = False
    """Whether it stays in the model whatever else is asked for."""
    kind: Literal["lora", "full"] = "lora"
    """A LoRA adapter of the base, or a fully fine-tuned model of its own."""


class GeneratorInfo(BaseModel):
    """What the generator runs, told by its ``/readyz``."""

    model: str
    quantization: Literal["nf4", "none"]
    profile: str
    device: str
    memory_bytes: int | None = None
    """The most that it has held: reserved on the GPU, else resident in its process, which may hold more than it."""


class AdapterList(BaseModel):
    adapters: list[AdapterInfo]
