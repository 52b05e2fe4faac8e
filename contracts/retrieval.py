"""Knowledge in, passages out."""

from typing import Annotated, Literal

from pydantic import BaseModel, StringConstraints
from pydantic.fields import Field

from contracts.wire import Body

Query = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]


class SearchRequest(Body):
    query: Query
    top_k: int = Field(default=3, ge=1, le=20)
    sources: list[Name] | None = Field(default=None, min_length=1, max_length=100)
    """Names of documents to search in; None is all."""


class Passage(BaseModel):
    """One retrieved passage. ``score`` (0 to 1) is the fused one: higher is better, comparable in one answer only."""

    id: str
    title: str
    text: str
    score: float
    source: str = ""
    place: str = ""
    """Where in the source it stands, such as ``row 3`` or ``page 12``; ``title`` is both."""


class SearchResponse(BaseModel):
    results: list[Passage]
    message: str | None = None
    """Why there are no results."""


Unit = Literal["row", "paragraph", "page"]


class RowError(BaseModel):
    """Why one unit of a source was not taken. ``row`` counts them from 1 (a table's header is row 0)."""

    row: int
    reason: str


class Receipt(BaseModel):
    """What became of every unit of one source: ``read == accepted + rejected + duplicates + unchanged``."""

    source: str
    unit: Unit = "row"
    read: int
    accepted: int
    rejected: int
    duplicates: int
    unchanged: int = 0
    errors: list[RowError] = []
    passages: int
    """Distinct passages of this source that are in the index now."""

    def again(self) -> "Receipt":
        """Return what the receipt is where the same source comes once more: all that was taken is unchanged."""
        return self.model_copy(update={"accepted": 0, "unchanged": self.accepted + self.unchanged})


class Document(BaseModel):
    """One source that is indexed."""

    name: str
    sha256: str
    """Of its bytes."""
    unit: Unit
    read: int
    """How many units it has; see its receipt."""
    passages: int


class DocumentList(BaseModel):
    documents: list[Document]


class IndexInfo(BaseModel):
    """What the index holds and how its vectors were made."""

    passages: int
    embedding: str
    dimension: int
    store: str
