"""How to train. Recipes are data: the JSON files in ``trainer/recipes`` and any file of the same shape."""

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.errors import InvalidInput
from contracts.generation import Mode

RECIPES = Path(__file__).parent / "recipes"


class Recipe(BaseModel):
    """Everything that decides what a training gives, beside the data, the base and the prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Literal["full", "lora", "qlora", "raft"]
    """``full`` trains every weight of the base, ``lora`` an adapter over the base as it is, ``qlora`` one over the base
    in 4-bit NF4. ``raft`` is ``qlora`` with passages in the prompt, for the mode ``rag_ft`` (arXiv:2403.10131)."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: float32 on a CPU, bfloat16 on a GPU that has it, else float16."""
    rank: int = Field(default=16, ge=1, le=512)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    learning_rate: float = Field(default=2e-4, gt=0)
    scheduler: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = "auto"
    """``auto``: on a GPU the paged 8-bit one for ``full``, whose states would be twice the weights; else AdamW."""
    epochs: int = Field(default=3, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    """Ends the training earlier than ``epochs`` would: bounds the time on a large file."""
    batch_size: int = Field(default=8, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = True
    shared_prefix: bool = True
    """Compute what the prompts of a batch begin with once, not once a row, wherever that is less work."""
    max_length: int = Field(default=1024, ge=16)
    """In tokens, prompt and answer together. Longer rows are left out and reported, never cut."""
    question_variants: int = Field(default=0, ge=0, le=50)
    """Carelessly typed versions of its question that each row is trained with besides its own; they count as rows."""
    distractors: int = Field(default=3, ge=1, le=5)
    """``raft``: up to so many wrong passages stand beside the right one, found by the question in the index."""
    without_right_passage: float = Field(default=0.2, ge=0, lt=1)
    """``raft``: share of the rows whose right passage is left out, and whose answer is then that it is not known."""
    dev_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the rows that only the dev loss sees."""
    test_fraction: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the rows that the training never sees; the manifest names them, for an evaluation."""
    split_by_context: bool = False
    """Rows with the same context go together into train, dev or test: measures what is learnt of new documents."""
    evals_per_epoch: float = Field(default=2, gt=0)
    patience: int = Field(default=4, ge=1)
    """Evaluations without a better dev result after which the training stops, where the lowest dev loss is kept."""
    keep: Literal["best", "last"] = "best"
    """Which checkpoint is published: the best on the dev rows, or the last."""
    best_by: Literal["loss", "accuracy"] = "loss"
    """What "best" means: the lowest dev loss; or, of those within one standard error of the highest share of right dev
    answer tokens, the longest trained (the one-standard-error rule would take the simplest). A tiny model that learns
    its rows by heart grows ever surer of its errors: its loss rises while it gets more right."""
    seed: int = Field(default=42, ge=0, lt=2**32)

    @property
    def quantization(self) -> Literal["nf4", "none"]:
        return "nf4" if self.method in ("qlora", "raft") else "none"

    @property
    def makes_adapter(self) -> bool:
        """False where the whole model is what comes out."""
        return self.method != "full"

    @property
    def mode(self) -> Mode:
        """What the result is for."""
        return Mode.rag_ft if self.method == "raft" else Mode.ft

    def steps(self, rows: int) -> int:
        """Return how many optimizer steps ``rows`` training rows make."""
        whole = self.epochs * self._steps_per_epoch(rows)
        return min(whole, self.max_steps or whole)

    def eval_steps(self, rows: int) -> int:
        """Return after how many steps each the dev loss is measured and a checkpoint written."""
        return max(1, round(self._steps_per_epoch(rows) / self.evals_per_epoch))

    def _steps_per_epoch(self, rows: int) -> int:
        return math.ceil(rows / (self.batch_size * self.gradient_accumulation))


def read_recipe(name_or_path: str) -> Recipe:
    """Return a recipe by the name of a bundled one or by the path of a JSON file.

    Raises:
        InvalidInput: there is none, or a field is unknown or wrong; the field is named.
    """
    bundled = RECIPES / f"{name_or_path}.json"
    path = bundled if name_or_path.isidentifier() and bundled.is_file() else Path(name_or_path)
    try:
        return Recipe.model_validate_json(path.read_bytes())
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.json")))
        raise InvalidInput(f"No recipe {name_or_path!r}: give the path of a JSON file or one of {known}.") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise InvalidInput(f"Recipe {name_or_path}: {wrong}.") from error
