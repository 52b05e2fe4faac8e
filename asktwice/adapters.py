"""``asktwice adapters``: bring ready ones in, list what there is, hand them on."""

import asyncio
import logging
import re
from pathlib import Path

import httpx

from asktwice.console import say, step
from asktwice.profiles import Profile
from contracts.artifacts import ADAPTER_NAME, Home, ServedManifest, published_adapters
from contracts.clients import GeneratorClient
from contracts.errors import InvalidInput
from contracts.generation import AdapterList, Mode


def import_adapter(
    source: str,
    name: str,
    modes: list[Mode],
    revision: str | None,
    home: Home,
    profile: Profile,
    any_base: bool = False,
) -> str:
    """Publish an adapter that was made elsewhere; return its id.

    Raises:
        InvalidInput: the name or the mode cannot be, or the adapter is not one that is served here.
        Unavailable: the hub does not answer.
    """
    if not ADAPTER_NAME.fullmatch(name):
        raise InvalidInput("--name: letters, digits, _ and - only, at most 64, beginning with a letter or digit.")
    if not all(mode.tuned for mode in modes):
        raise InvalidInput("--mode: an adapter is for ft, for rag_ft, or for both.")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises to install a package that loads code
    from services.generator.importing import bring_in
    from services.generator.settings import GeneratorSettings

    settings = GeneratorSettings(home=home.path, base=profile.base)
    with step(f"Bringing in {source}"):
        manifest = bring_in(
            source, name=name, modes=modes, home=home, settings=settings, revision=revision, any_base=any_base
        )
    say(f"  from {manifest.origin}, for {', '.join(mode.value for mode in manifest.modes)}")
    return manifest.id


def merge_adapter(home: Home, id: str, base: str, out: Path) -> Path:
    """Write an adapter and its base as one model.

    Raises:
        InvalidInput: there is no such adapter, it belongs to another base, or the folder is there.
    """
    from trainer.merge import find, merge

    adapter = find([home.adapters], id)
    with step(f"Merging {id} into {base}"):
        return merge(adapter, base, out)


def push_published(home: Home, id: str, repository: str, private: bool) -> str:
    """Upload an adapter or a model; return the commit's address.

    Raises:
        InvalidInput: there is no such id, or the hub refuses.
        Unavailable: the hub does not answer.
    """
    from trainer.merge import find, push

    folder = find([home.adapters, home.checkpoints], id)
    with step(f"Uploading {id} to {repository}"):
        return push(folder, repository, private)


def show_served(url: str) -> None:
    """Print one line for each adapter that a server knows: in which state it is, and why it was refused.

    Raises:
        AskTwiceError: the server does not answer, or has not loaded its model yet.
    """

    async def ask() -> AdapterList:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            return await GeneratorClient(http).adapters()

    found = asyncio.run(ask()).adapters
    for adapter in found:
        modes, state = ",".join(mode.value for mode in adapter.modes), adapter.state
        reason = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", adapter.reason or "").split())
        told = ", pinned" if adapter.pinned else f": {reason}" if reason else ""
        print(f"{adapter.id:<40} {modes:<10} {adapter.created:%Y-%m-%d %H:%M}  {state}{told}")
    if not found:
        say(f"{url} has no adapter. Train one: asktwice train --data FILE --name NAME")


def show_adapters(home: Home) -> None:
    """Print one line for each published adapter, newest first."""
    found = published_adapters(home, ServedManifest)
    for manifest in found:
        source = manifest.data.file if manifest.data else manifest.origin or "?"
        modes = ",".join(mode.value for mode in manifest.modes)
        print(f"{manifest.id:<40} {modes:<10} {manifest.published:%Y-%m-%d %H:%M}  {source}  on {manifest.base.model}")
    if not found:
        say(f"There is no adapter in {home.adapters}. Train one: asktwice train --data FILE --name NAME")
