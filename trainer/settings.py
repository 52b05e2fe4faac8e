"""What the trainer reads from the environment (``ASKTWICE_DATA``, ``ASKTWICE_NAME``, ...); everything can be given."""

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.errors import FieldError, InvalidInput
from contracts.prompts import SYSTEM_PROMPT

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class TrainerSettings(BaseSettings):
    """One training: which file, on which base, by which recipe, published under which name."""

    model_config = SettingsConfigDict(env_prefix="ASKTWICE_", env_ignore_empty=True, extra="ignore")

    data: Path
    """CSV, JSONL (messages, alpaca, sharegpt) or Parquet file, or ``hf:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]``; see
    :mod:`contracts.dataset`."""
    name: str
    """The adapter is published as ``NAME.<digest>``."""
    base: str = "Qwen/Qwen2.5-1.5B-Instruct"
    """Hub id or folder of the base model."""
    recipe: str = "qlora"
    """Name of a recipe in ``trainer/recipes`` or path of a JSON file."""
    home: Path = Path("artifacts")
    force: bool = False
    """Train anew even where the same adapter is published or half trained."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu_memory_share: float | None = Field(default=None, gt=0, le=1)
    """Largest part of the GPU's memory that the trainer takes; the generator has the rest."""
    report_to: Literal["none", "tensorboard", "mlflow", "wandb", "trackio"] = "none"
    """Which tracker is told of the losses beside our own log; its package has to be installed."""
    retriever_url: str | None = None
    """A running retriever, for the method ``raft``."""
    system_prompt: str = SYSTEM_PROMPT

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("1 to 64 Latin letters, digits, _ and -, beginning with a letter or a digit")
        return name


def trainer_settings(**given: Any) -> TrainerSettings:
    """Return the settings; what is given wins over the environment, None counts as not given.

    Raises:
        InvalidInput: a value is missing or wrong; each field is named.
    """
    try:
        return TrainerSettings(**{field: value for field, value in given.items() if value is not None})
    except ValidationError as error:
        errors = [
            FieldError(field=".".join(map(str, e["loc"])), message=e["msg"].removeprefix("Value error, "))
            for e in error.errors(include_input=False)
        ]
        raise InvalidInput("; ".join(f"{e.field}: {e.message}" for e in errors), errors=errors) from error


def share_cores() -> None:
    """Let torch's threads sleep while they wait for each other. Works only before torch is loaded.

    By default they spin: as soon as another process uses one of the cores, the threads of a small model spend most
    of a step waiting for the one that lost its core.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
