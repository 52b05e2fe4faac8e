"""An adapter and its base made one model; either of them to the hub. What AskTwice makes can be used without it."""

import json
from pathlib import Path

from contracts.artifacts import MANIFEST, ServedManifest, local_revision, move_into_place, read_manifest, whole_folder
from contracts.errors import InvalidInput, Unavailable
from trainer.model_card import merged_card


def merge(adapter: Path, base: str, out: Path) -> Path:
    """Write the base with the adapter's changes in its weights, as transformers reads it.

    The result is in the base's own number format: of an adapter that was trained over 4-bit weights the answers can
    differ a little, since these weights are not rounded to 4 bits.

    Args:
        adapter: a published adapter's folder.
        base: hub id or folder of the base that it was trained on.
        out: a folder that is not there yet.

    Raises:
        InvalidInput: the folder is there, or the base is another one.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if out.exists():
        raise InvalidInput(f"{out} is there already. Name a new folder.")
    manifest = read_manifest(adapter, ServedManifest)
    its_own = (
        manifest.base.revision == local_revision(Path(base)) if Path(base).is_dir() else base == manifest.base.model
    )
    if not its_own:
        raise InvalidInput(
            f"{adapter.name} was trained on {manifest.base.model} ({manifest.base.revision[:19]}...), and {base} is"
            " another model. Give its base: --base MODEL."
        )
    revision = None if Path(base).is_dir() else manifest.base.revision
    model = AutoModelForCausalLM.from_pretrained(base, revision=revision)
    dtype = model.dtype
    # Summed in float32: the adapter's changes are small beside what bfloat16 can tell apart.
    merged = PeftModel.from_pretrained(model.to(torch.float32), str(adapter)).merge_and_unload()
    with whole_folder(out.resolve().parent) as folder:
        merged.to(dtype).save_pretrained(folder)
        AutoTokenizer.from_pretrained(base, revision=revision).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_bytes())
        config.pop("_name_or_path", None)  # a path of this machine
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(merged_card(manifest), encoding="utf-8")
        move_into_place(folder, out)
    return out


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload a published adapter or model; return the commit's address.

    The manifest goes along, so that who gets it knows what it was made of; it names the file of the data and the
    numbers of its rows, and a few questions with their answers.

    Raises:
        InvalidInput: the hub refuses: no such account, or no permission. Says what to do.
        Unavailable: the hub does not answer.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        hub = HfApi()
        hub.create_repo(repository, private=private, exist_ok=True)
        if private and not hub.repo_info(repository).private:
            raise InvalidInput(
                f"{repository} is there and public; the card holds questions and answers of your data. Say --public if"
                " that is meant, or name another repository."
            )
        done = hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"{folder.name}, trained by AskTwice"
        )
    except HFValidationError as error:
        raise InvalidInput(f"{repository!r} is no name of a repository: {error}") from error
    except LocalTokenNotFoundError as error:
        raise InvalidInput("The hub wants to know who you are: set HF_TOKEN to a token that may write.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise InvalidInput(
                f"The hub does not let you write to {repository} ({status}): set HF_TOKEN to a token that may."
            ) from error
        raise Unavailable(f"The hub answered {status}: {str(error).splitlines()[0]}") from error
    except (httpx.TransportError, OSError) as error:
        raise Unavailable(f"The hub cannot be reached ({type(error).__name__}). Nothing was uploaded.") from error
    return str(done.commit_url)


def find(home_folders: list[Path], id: str) -> Path:
    """Return the folder of a published adapter or model.

    Raises:
        InvalidInput: there is none of this id; names those there are.
    """
    there = {path.parent.name: path.parent for each in home_folders for path in each.glob(f"*/{MANIFEST}")}
    if id in there:
        return there[id]
    known = ", ".join(sorted(name for name in there if not name.startswith("."))) or "none"
    raise InvalidInput(f"There is no {id} here. Published: {known}.")
