"""What a training is made of, before any weight is loaded: enough to tell whether it was done already."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.artifacts import BaseModelRecord, Home
from contracts.table import Table, read_table
from trainer.data import check_rows
from trainer.model import Placement, choose_placement, identify
from trainer.recipe import Recipe, read_recipe
from trainer.settings import TrainerSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """Read and checked input of one training."""

    settings: TrainerSettings
    recipe: Recipe
    table: Table
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
    def run(self) -> Path:
        """The folder of the checkpoints; equal plans share it, so that one goes on where another was interrupted."""
        made_of = [
            self.table.sha256,
            self.base.model,
            self.base.revision,
            self.recipe_record,
            self.system_prompt_sha256,
        ]
        return self.home.training / hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def make_plan(settings: TrainerSettings) -> Plan:
    """Read the recipe and the data, find the base and the device.

    Raises:
        InvalidInput: one of them is wrong or missing; says which and why.
    """
    recipe = read_recipe(settings.recipe)
    table = read_table(settings.data)
    check_rows(table)
    placement = choose_placement(settings.device, recipe)
    return Plan(
        settings=settings,
        recipe=recipe,
        table=table,
        placement=placement,
        base=identify(settings.base, recipe, placement.dtype),
        home=Home(path=settings.home.resolve()),
    )
