"""Bring a ready adapter in: from the hub or a folder, checked, under an id of our own."""

import hashlib
import json
import logging
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from contracts.artifacts import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MANIFEST,
    Home,
    ServedManifest,
    adapter_digest,
    move_into_place,
    read_manifest,
    sha256_file,
    whole_folder,
)
from contracts.errors import InvalidInput, Unavailable
from contracts.generation import Mode
from services.generator.checking import MAX_CONFIG_BYTES, Question, Refused, check_in_child, largest_weights
from services.generator.model import load_outline
from services.generator.settings import GeneratorSettings

log = logging.getLogger("asktwice")


def bring_in(
    source: str,
    *,
    name: str,
    modes: list[Mode],
    home: Home,
    settings: GeneratorSettings,
    revision: str | None = None,
    any_base: bool = False,
) -> ServedManifest:
    """Publish an adapter that was made elsewhere; a running generator picks it up.

    Args:
        source: a folder with PEFT's two files, or the id of a repository on the Hugging Face hub.
        name: the registry name; the id is ``NAME.<digest>``.
        modes: which modes it is for.
        settings: say which base it has to belong to.
        revision: commit, tag or branch of the repository; the commit that it stands for is written down.
        any_base: bring it in though it names another base: the same one under another name.

    Raises:
        InvalidInput: it has not the two files, or is none that is served; says why.
        Unavailable: the hub does not answer.
    """
    folder, origin = _fetch(source, revision)
    for needed in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / needed).is_file():
            others = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) if folder.is_dir() else "nothing"
            raise InvalidInput(f"{source}: there is no {needed} in it (but {others}). Only safetensors are served.")
    base = load_outline(settings)
    if (folder / MANIFEST).is_file() and not any_base:
        with suppress(ValueError):  # what is no manifest of ours says nothing
            theirs = read_manifest(folder, ServedManifest).base
            if (theirs.model, theirs.revision) != (base.record.model, base.record.revision):
                here = f"{base.record.model} ({base.record.revision[:19]})"
                raise InvalidInput(_other_base(source, f"{theirs.model} ({theirs.revision[:19]})", here))
    with whole_folder(home.adapters) as workshop:
        size = (folder / ADAPTER_WEIGHTS).stat().st_size
        if size > largest_weights(base.linears):
            raise InvalidInput(f"{source}: {ADAPTER_WEIGHTS} is larger ({size} bytes) than any adapter of this base.")
        made = workshop / "adapter"
        made.mkdir()
        _copy_config(folder / ADAPTER_CONFIG, made / ADAPTER_CONFIG, base.record.model, any_base)
        shutil.copyfile(folder / ADAPTER_WEIGHTS, made / ADAPTER_WEIGHTS)
        now = datetime.now(UTC)
        manifest = ServedManifest(
            id=f"{name}.{adapter_digest(made)}",
            name=name,
            modes=modes,
            base=base.record,
            files={needed: sha256_file(made / needed) for needed in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)},
            created=now,
            published=now,
            origin=origin,
        )
        (made / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        made = made.rename(workshop / manifest.id)
        prompt = hashlib.sha256(settings.system_prompt.encode()).hexdigest()
        try:
            check_in_child(Question(folder=made, base=base.record, linears=base.linears, system_prompt_sha256=prompt))
        except Refused as refused:
            raise InvalidInput(f"{source}: {refused}") from refused
        move_into_place(made, home.adapters / manifest.id)
    try:
        there = read_manifest(home.adapters / manifest.id, ServedManifest)
    except ValueError as error:
        raise InvalidInput(
            f"{home.adapters / manifest.id} is damaged: remove that folder, then import again."
        ) from error
    if set(there.modes) != set(modes):
        known = ", ".join(mode.value for mode in there.modes)
        raise InvalidInput(
            f"{source} is here already, as {there.id}, for {known}. For other modes give another --name."
        )
    return there


def _fetch(source: str, revision: str | None) -> tuple[Path, str]:
    folder = Path(source)
    if folder.is_dir():
        return folder, folder.resolve().name
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        commit = HfApi().model_info(source, revision=revision).sha
        found = snapshot_download(source, revision=commit, allow_patterns=[ADAPTER_CONFIG, ADAPTER_WEIGHTS])
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InvalidInput(f"{source} is neither a folder here nor a repository on the hub.") from error
    except Exception as error:  # its HTTP client has errors of its own, which change with its version
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unavailable(f"The hub cannot be asked for {source}, and no such folder is here: {reason}") from error
    return Path(found), f"{source}@{commit}"


def _copy_config(source: Path, target: Path, model: str, any_base: bool) -> None:
    """Copy PEFT's configuration; the base in it is the one that it is served on, not a path of another machine.

    Raises:
        InvalidInput: it is no JSON object of a sensible size, or names another base.
    """
    try:
        if source.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("too large")
        there = json.loads(source.read_bytes())
        named, there["base_model_name_or_path"] = str(there.get("base_model_name_or_path") or ""), model
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInput(f"{ADAPTER_CONFIG} is no JSON object of at most {MAX_CONFIG_BYTES} bytes.") from error
    on_the_hub = named.count("/") == 1 and not named.startswith(("/", "."))  # a path tells nothing of the model
    if on_the_hub and _last_part(named) != _last_part(model) and not any_base:
        raise InvalidInput(_other_base(str(source.parent), named, model))
    target.write_text(json.dumps(there, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _last_part(name: str) -> str:
    """What of a hub id is often the name of its folder."""
    return name.rstrip("/").rpartition("/")[2].casefold()


def _other_base(source: str, theirs: object, ours: object) -> str:
    return (
        f"{source} was trained on {theirs}, and the base here is {ours}. If that is the same model under another name,"
        " say so with --any-base."
    )
