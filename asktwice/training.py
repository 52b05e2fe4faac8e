"""Train an adapter with a bar, and remember what the home was prepared with."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from asktwice.console import say, step
from asktwice.profiles import Prepared, Profile, remember
from contracts.artifacts import Home

if TYPE_CHECKING:
    from trainer.train import TrainingResult


def train_adapter(
    home: Home, profile: Profile, data: Path, name: str, recipe: str, *, force: bool = False
) -> "TrainingResult":
    """Train, or find that the same adapter is there already.

    Raises:
        InvalidInput: the data, the recipe or the name is refused.
    """
    from trainer.progress import Moment
    from trainer.settings import trainer_settings
    from trainer.train import train

    settings = trainer_settings(
        data=data, name=name, base=profile.base, recipe=recipe, home=home.path, force=force or None
    )
    with step("Training the adapter") as advance:

        def report(moment: Moment) -> None:
            advance(moment.step, moment.steps, str(moment).partition(" · ")[2])

        result = train(settings, report)
    if result.skipped:
        say(f"  {result.manifest.id} was trained on the same data by the same recipe; nothing to do")
    else:
        losses = result.manifest.losses
        dev = "" if losses.dev is None else f", dev loss {losses.dev:.3f} at step {losses.best_step}"
        say(f"  published {result.manifest.id}{dev}")
    remember(
        home,
        Prepared(profile=profile.name, base=profile.base, embedding=profile.embedding, data=data.resolve()),
    )
    return result


def adapter_name(data: Path) -> str:
    """Return a registry name made from a file's name; ``data`` where nothing of it can be used."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", data.stem).strip("-_")[:64]
    return name or "data"
