"""Train with a bar, and remember what the home was prepared with."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from asktwice.console import say, step
from asktwice.profiles import Prepared, Profile, remember, remembered
from contracts.artifacts import Home
from contracts.errors import InvalidInput

if TYPE_CHECKING:
    from trainer.estimate import Report
    from trainer.raft import Retrieve
    from trainer.train import TrainingResult


def train_adapter(
    home: Home,
    profile: Profile,
    data: Path,
    name: str,
    recipe: str,
    *,
    force: bool = False,
    report_to: str | None = None,
    url: str | None = None,
) -> "TrainingResult":
    """Train, or find that the same is there already.

    Args:
        report_to: the tracker that is told of the losses.
        url: a running server whose index the method ``raft`` searches; without one the home's own.

    Raises:
        InvalidInput: the data, the recipe or the name is refused.
        IndexEmpty: the method ``raft``, and nothing is indexed.
    """
    from trainer.progress import Moment
    from trainer.recipe import read_recipe
    from trainer.settings import trainer_settings
    from trainer.train import train

    settings = trainer_settings(
        data=data, name=name, base=profile.base, recipe=recipe, home=home.path, force=force or None, report_to=report_to
    )
    with ExitStack() as open_until_trained:
        retrieve = None
        if read_recipe(recipe).method == "raft":
            retrieve = open_until_trained.enter_context(_search(home, profile, url))
        advance = open_until_trained.enter_context(step("Training"))

        def report(moment: Moment) -> None:
            told = str(replace(moment, seconds_left=None))  # the bar has its own
            advance(moment.step, moment.steps, told.partition(" · ")[2])

        result = train(settings, report, retrieve)
    if result.skipped:
        say(f"  {result.manifest.id} was trained on the same data by the same recipe; nothing to do")
    else:
        losses = result.manifest.losses
        dev = "" if losses.dev is None else f", dev loss {losses.dev:.3f} at step {losses.best_step}"
        say(f"  published {result.manifest.id}{dev}")
        say(f"  the card with answers before and after: {result.folder / 'README.md'}; the curve: loss.html beside it")
    before = remembered(home)
    indexed = data.resolve() if data.suffix.lower() in (".csv", ".tsv") else before.data if before else None
    remember(home, Prepared(profile=profile.name, base=profile.base, embedding=profile.embedding, data=indexed))
    return result


def recipe_for(profile: Profile, method: str | None, recipe: str | None) -> str:
    """Return the recipe that was asked for by itself or by its method; by default the profile's.

    Raises:
        InvalidInput: recipe and method contradict each other.
    """
    from trainer.recipe import read_recipe

    if recipe is None:
        wanted = method or read_recipe(profile.recipe).method
        if read_recipe(profile.recipe).method == wanted:
            return profile.recipe
        return f"demo_{wanted}" if profile.recipe == "demo" else wanted
    if method is not None and read_recipe(recipe).method != method:
        raise InvalidInput(f"--method {method}, but the recipe {recipe} says {read_recipe(recipe).method}. Give one.")
    return recipe


@contextmanager
def _search(home: Home, profile: Profile, url: str | None) -> Iterator["Retrieve"]:
    """Give a search of the home's index, or of a running server's, that shows how far it is."""
    from services.retriever.retriever import Retriever
    from services.retriever.settings import RetrieverSettings
    from trainer.raft import search_at

    if url:
        yield search_at(url)
        return
    retriever = Retriever.open(RetrieverSettings(home=home.path, embedding=profile.embedding))
    try:
        yield lambda question, number: [passage.text for passage in retriever.search(question, number)]
    finally:
        retriever.close()


def estimate_training(
    home: Home, profile: Profile, data: Path, name: str, recipe: str, price_per_hour: float | None, card: str | None
) -> "Report":
    """Tell what the training would take; nothing is trained.

    Raises:
        InvalidInput: the data, the recipe, the name or the card is refused.
    """
    from trainer.estimate import estimate
    from trainer.settings import trainer_settings

    settings = trainer_settings(data=data, name=name, base=profile.base, recipe=recipe, home=home.path)
    return estimate(settings, price_per_hour, card, say)


def adapter_name(data: Path) -> str:
    """Return a registry name made from a file's name; ``data`` where nothing of it can be used."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", data.stem).strip("-_")[:64]
    return name or "data"
