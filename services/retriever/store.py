"""What a vector store must do. It is derived from the ledger: it holds vectors by passage id and can be made again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.retriever.embedding import Vectors
from services.retriever.fusion import Hit
from services.retriever.sparse import SparseVector

DENSE, SPARSE = "dense", "sparse"


@dataclass(frozen=True, slots=True)
class Point:
    """One passage as a store holds it. ``dense`` is float32 ``[dimension]``."""

    id: str
    dense: Vectors
    sparse: SparseVector
    text: str
    """For people who look into the store with other tools; search takes the text from the ledger."""


class Store(Protocol):
    """An open collection of points with a dense and a sparse vector. Safe to use from several threads."""

    name: str
    """Which engine it is, as ``/readyz`` says."""

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; durable after :meth:`flush`. Points with the same id are replaced."""

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that are not there are no error."""

    def flush(self) -> None:
        """Return once everything written before is durable."""

    def optimize(self) -> None:
        """Begin to make search faster, where that is the store's to do; reading and writing go on meanwhile."""

    def rankings(self, dense: Vectors, sparse: SparseVector, limit: int) -> tuple[list[Hit], list[Hit]]:
        """Return the ``limit`` best by the dense vector, and the ``limit`` best by the sparse one.

        Without a single index in the sparse vector the latter are none.
        """

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return those of the ids that are not there."""

    def count(self) -> int: ...

    def succeed(self) -> None:
        """Take the place of the generation before this one, which is removed; no error if that has been done."""

    def close(self) -> None: ...


def generation(name: str, number: int) -> str:
    """Return what the store is called that was built at the index's ``number``-th embedding."""
    return f"{name}-{number}"


def predecessor(name: str) -> str:
    """Return what the generation before the one of this name is called."""
    name, _, number = name.rpartition("-")
    return generation(name, int(number) - 1)
