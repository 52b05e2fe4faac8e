"""Which model, embedding and recipe go together, and which of them this machine should run."""

import shutil
import subprocess
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from contracts.artifacts import Home, write_atomically

ROOT = Path(__file__).resolve().parent.parent
BUNDLED_MODEL = ROOT / "models" / "asktwice-tiny"
SAMPLE_DATA = ROOT / "data" / "selected_qa_full.csv"
FIVE_QUESTIONS = ROOT / "data" / "questions.txt"
MULTILINGUAL_EMBEDDING = "intfloat/multilingual-e5-small"


class ProfileName(StrEnum):
    auto = "auto"
    gpu = "gpu"
    cpu = "cpu"
    demo = "demo"


RealProfile = Literal[ProfileName.gpu, ProfileName.cpu, ProfileName.demo]


@dataclass(frozen=True, slots=True)
class Profile:
    """``embedding`` None is the built-in hashed n-gram vector; ``why`` says why this one was picked."""

    name: RealProfile
    base: str
    embedding: str | None
    recipe: str
    why: str


PROFILES: dict[RealProfile, Profile] = {
    ProfileName.gpu: Profile(
        ProfileName.gpu, "Qwen/Qwen2.5-1.5B-Instruct", MULTILINGUAL_EMBEDDING, "qlora", "as asked"
    ),
    ProfileName.cpu: Profile(
        ProfileName.cpu, "Qwen/Qwen2.5-0.5B-Instruct", MULTILINGUAL_EMBEDDING, "qlora", "as asked"
    ),
    ProfileName.demo: Profile(ProfileName.demo, str(BUNDLED_MODEL), None, "demo", "as asked"),
}


class Prepared(BaseModel):
    """What a home was prepared with, so that serving it needs no arguments. Kept in ``prepared.json``."""

    profile: RealProfile
    base: str
    embedding: str | None
    data: Path | None = None


def remember(home: Home, prepared: Prepared) -> None:
    """Keep what the home was prepared with."""
    write_atomically(home.path / "prepared.json", prepared.model_dump_json(indent=2).encode() + b"\n")


def remembered(home: Home) -> Prepared | None:
    """Return what the home was prepared with; None where nothing was, or where it cannot be read."""
    try:
        return Prepared.model_validate_json((home.path / "prepared.json").read_bytes())
    except (OSError, ValidationError):
        return None


def choose(name: ProfileName, home: Home) -> Profile:
    """Return the profile to run; ``auto`` goes by what the home was prepared with, then by the machine."""
    if name is not ProfileName.auto:
        return PROFILES[name]
    prepared = remembered(home)
    if prepared is not None:
        known = PROFILES[prepared.profile]
        why = f"{home.path}/ was prepared with it"
        return replace(known, base=prepared.base, embedding=prepared.embedding, why=why)
    if _has_gpu():
        return replace(PROFILES[ProfileName.gpu], why="this machine has an NVIDIA GPU")
    if _in_hub_cache(PROFILES[ProfileName.cpu].base):
        return replace(PROFILES[ProfileName.cpu], why="no GPU, and Qwen2.5-0.5B-Instruct is on this machine already")
    return replace(
        PROFILES[ProfileName.demo],
        why="no GPU and no downloaded model, so the bundled one; --profile cpu downloads Qwen2.5-0.5B-Instruct",
    )


def _has_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True, check=False).returncode == 0


def _in_hub_cache(model: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, "config.json"), str)
