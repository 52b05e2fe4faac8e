"""What a training is made of, before any weight is loaded: enough to tell whether it was done already."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.artifacts import BaseModelRecord, Home
from contracts.dataset import read_dataset
from contracts.errors import InvalidInput, NotReady
from contracts.table import Table
from trainer.data import MIN_ROWS, Asked, without_passages
from trainer.model import Placement, choose_placement, identify
from trainer.raft import Retrieve, with_passages
from trainer.recipe import Recipe, read_recipe
from trainer.settings import TrainerSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """Read and checked input of one training."""

    settings: TrainerSettings
    recipe: Recipe
    table: Table
    asked: list[Asked]
    """The table's rows as the model is to see them."""
    placement: Placement
    base: BaseModelRecord
    home: Home

    @property
    def recipe_record(self) -> dict[str, Any]:
        return self.recipe.model_dump(mode="json")

    @property
    def system_prompt_sha256(self) -> str:
        return hashlib.sha256(self.settings.system_prompt.encode()).hexdigest()

    @property
    def passages_sha256(self) -> str | None:
        """Over what was retrieved for the rows; None where the method retrieves nothing."""
        if self.recipe.method != "raft":
            return None
        digest = hashlib.sha256()
        for each in self.asked:
            digest.update(json.dumps([each.passages, each.answer], ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()

    @property
    def run(self) -> Path:
        """The folder of the checkpoints; equal plans share it, so that one goes on where another was interrupted."""
        made_of = [
            self.table.sha256,
            self.passages_sha256,
            self.base.model,
            self.base.revision,
            self.recipe_record,
            self.system_prompt_sha256,
        ]
        return self.home.training / hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def read_rows(data: str | Path, recipe: Recipe) -> Table:
    """Read what the recipe trains on; the method ``raft`` takes no row without a context.

    Raises:
        InvalidInput: see :func:`contracts.dataset.read_dataset`.
    """
    if recipe.method == "raft":
        return read_dataset(data, ("question", "answer", "context"))
    return read_dataset(data, ("question", "answer"), ("context",))


def make_plan(settings: TrainerSettings, retrieve: Retrieve | None = None) -> Plan:
    """Read the recipe and the data, find the base and the device.

    Args:
        retrieve: searches the index; the method ``raft`` needs it.

    Raises:
        InvalidInput: one of them is wrong or missing; says which and why.
        NotReady: the method needs an index and there is none.
    """
    recipe = read_recipe(settings.recipe)
    table = read_rows(settings.data, recipe)
    if len(table.rows) < MIN_ROWS:
        raise InvalidInput(f"{table.summary()}. At least {MIN_ROWS} accepted rows are needed to train.")
    placement = choose_placement(settings.device, recipe)
    base = identify(settings.base, recipe, placement.dtype)
    asked = without_passages(table.rows)
    if recipe.method == "raft":
        if retrieve is None:
            raise NotReady(
                "The method raft takes its wrong passages from the index, and none was given. Run asktwice index FILE"
                " and asktwice train, or name a running retriever in ASKTWICE_RETRIEVER_URL."
            )
        asked = with_passages(table.rows, retrieve, recipe)
    return Plan(
        settings=settings,
        recipe=recipe,
        table=table,
        asked=asked,
        placement=placement,
        base=base,
        home=Home(path=settings.home.resolve()),
    )
