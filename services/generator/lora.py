"""All resident adapters in one forward pass.

A LoRA layer adds ``scaling * B (A x)`` to what its linear layer gives (Hu et al. 2021, arXiv:2106.09685). Here the A of
all resident adapters stand below each other in one matrix, their B in another, and a mask hides from each token the
columns that are not its adapter's: two matrix products per layer whatever the number of adapters, in a batch that holds
tokens of all of them and of the bare base. An adapter is written into columns that no running request uses, while
others run; nothing is reloaded.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class NoRoom(Exception):
    """There are not enough free columns for another adapter."""


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """One adapter, ready to be placed.

    Attributes:
        matrices: by the name of the linear layer: A [rank, inputs] and B [outputs, rank].
    """

    rank: int
    scaling: float
    matrices: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def bytes(self) -> int:
        """Memory that the matrices take."""
        return sum(matrix.numel() * matrix.element_size() for pair in self.matrices.values() for matrix in pair)


@dataclass(frozen=True, slots=True)
class Place:
    """The columns that an adapter stands in."""

    start: int
    rank: int

    @property
    def end(self) -> int:
        return self.start + self.rank


class SharedLoraLinear(nn.Module):
    """A linear layer of the base with the matrices of all adapters beside it."""

    def __init__(self, base: nn.Module, shared: "SharedLora", inputs: int, outputs: int, last: bool):
        super().__init__()
        self.base = base
        self._shared = [shared]  # in a list: not a child module
        self._last = last
        self.down = torch.zeros(shared.columns, inputs, device=shared.device, dtype=shared.dtype)
        self.up = torch.zeros(shared.columns, outputs, device=shared.device, dtype=shared.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is [..., tokens, inputs]; the tokens are those that were selected."""
        out: Tensor = self.base(x)
        hidden = self._shared[0].hidden_of_last if self._last else self._shared[0].hidden
        if hidden is None:
            return out
        width = hidden.shape[1]
        narrow = x.to(self.down.dtype) @ self.down[:width].T
        # Not a product with zeros: where another's adapter overflows, zero times infinity would spread.
        added: Tensor = narrow.masked_fill_(hidden, 0.0) @ self.up[:width]
        return out + added.to(out.dtype)


class SharedLora:
    """The adapters beside one model. Not thread-safe: used by the thread that owns the model.

    Args:
        linears: name of each linear layer that adapters may attach to -> (outputs, inputs).
        columns: how many columns there are; an adapter takes as many as its rank.
        last: the name of the layer that sees only the tokens that are continued (the output embedding).
    """

    def __init__(
        self, model: nn.Module, linears: Mapping[str, tuple[int, int]], columns: int, dtype: torch.dtype, last: str = ""
    ):
        self.columns, self.dtype = columns, dtype
        self.device = next(model.parameters()).device
        self.hidden: Tensor | None = None
        self.hidden_of_last: Tensor | None = None
        self._model, self._linears, self._last = model, linears, last
        self._layers: dict[str, SharedLoraLinear] = {}
        self._places: dict[str, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, adapter: str) -> bool:
        return adapter in self._places

    def has_room(self, rank: int, without: Collection[str] = ()) -> bool:
        """Whether so many columns in a row are free, once these adapters are gone."""
        return self._free(rank, without) is not None

    def place(self, adapter: str, weights: LoraWeights) -> None:
        """Write an adapter into free columns.

        Raises:
            NoRoom: there are not so many free ones in a row.
            ValueError: it is there already: a second place would leave the first one's columns filled.
            KeyError: a matrix belongs to no linear layer of the model.
        """
        if adapter in self._places:
            raise ValueError(f"{adapter} is there already")
        start = self._free(weights.rank)
        if start is None:
            raise NoRoom(f"rank {weights.rank} does not fit into the {self.columns} columns")
        place = Place(start, weights.rank)
        for name in weights.matrices:
            self._linears[name]
        layers = {name: self._layer(name) for name in weights.matrices}
        try:
            for name, (down, up) in weights.matrices.items():
                layers[name].down[place.start : place.end] = down
                layers[name].up[place.start : place.end] = up.T * weights.scaling
        except BaseException:
            self._clear(place)
            raise
        self._places[adapter] = place

    def remove(self, adapter: str) -> None:
        """Free an adapter's columns."""
        self._clear(self._places.pop(adapter))

    def _clear(self, place: Place) -> None:
        for layer in self._layers.values():
            layer.down[place.start : place.end] = 0
            layer.up[place.start : place.end] = 0

    def select(self, tokens: Sequence[tuple[str | None, int]], continued: Sequence[str | None] = ()) -> None:
        """Say whose the tokens of the next forward pass are.

        Args:
            tokens: adapter (None: the base) and number of tokens of each request, in their order.
            continued: adapter of each token that reaches the output embedding.
        """
        self.hidden = self._hidden(tokens)
        self.hidden_of_last = self._hidden([(adapter, 1) for adapter in continued])

    def _hidden(self, tokens: Sequence[tuple[str | None, int]]) -> Tensor | None:
        used = [self._places[adapter] for adapter, _ in tokens if adapter is not None]
        if not used:  # the base alone pays nothing
            return None
        rows = torch.ones(len(tokens), max(place.end for place in used), dtype=torch.bool)
        for row, (adapter, _) in enumerate(tokens):
            if adapter is not None:
                place = self._places[adapter]
                rows[row, place.start : place.end] = False
        repeats = torch.tensor([number for _, number in tokens])
        return rows.repeat_interleave(repeats, dim=0).to(self.device, non_blocking=True)

    def _free(self, rank: int, without: Collection[str] = ()) -> int | None:
        start = 0
        taken = (place for adapter, place in self._places.items() if adapter not in without)
        for place in sorted(taken, key=lambda place: place.start):
            if place.start - start >= rank:
                return start
            start = place.end
        return start if self.columns - start >= rank else None

    def _layer(self, name: str) -> SharedLoraLinear:
        if name not in self._layers:
            parent, _, child = name.rpartition(".")
            outputs, inputs = self._linears[name]
            owner = self._model.get_submodule(parent)
            layer = SharedLoraLinear(getattr(owner, child), self, inputs, outputs, last=name == self._last)
            setattr(owner, child, layer)
            self._layers[name] = layer
        return self._layers[name]
