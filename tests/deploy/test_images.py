"""What an image is built from: the two Dockerfiles and the list of files that the engine gets to see."""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = ["Dockerfile", "deploy/gateway.Dockerfile"]


def instructions(name: str) -> list[tuple[str, str]]:
    """Return (instruction, arguments) of a Dockerfile, continued lines joined and comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def final_stage(name: str, target: str = "") -> list[tuple[str, str]]:
    """Return the instructions that make the image of a target, those of the stages it stands on included."""
    stages: dict[str, list[tuple[str, str]]] = {}
    current = ""
    for instruction, arguments in instructions(name):
        if instruction == "FROM":
            parent, _, current = arguments.partition(" AS ")
            stages[current] = list(stages.get(parent, []))
        elif current or stages:
            stages[current].append((instruction, arguments))
    return stages[target]


IMAGES = [("Dockerfile", "service"), ("Dockerfile", "trainer"), ("deploy/gateway.Dockerfile", "")]


@pytest.mark.parametrize(("name", "target"), IMAGES)
def test_the_image_runs_as_nobody_in_particular(name: str, target: str) -> None:
    users = [arguments for instruction, arguments in final_stage(name, target) if instruction == "USER"]
    assert users[-1] == "10001:10001"


@pytest.mark.parametrize(("name", "target"), IMAGES)
def test_the_image_gets_no_compiler(name: str, target: str) -> None:
    for instruction, arguments in final_stage(name, target):
        assert not re.search(r"\b(gcc|g\+\+|clang|build-essential|python3-dev|pip)\b", arguments), instruction


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_base_image_is_an_argument_and_old_builders_can_read_the_file(name: str) -> None:
    bases = {arguments.split()[0] for instruction, arguments in instructions(name) if instruction == "FROM"}
    assert bases <= {"${BASE_IMAGE}", "runtime"}
    assert not re.search(r"<<|--link|--mount", "\n".join(arguments for _, arguments in instructions(name)))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("trainer", {"contracts", "trainer"}),
        (
            "service",
            {"contracts", "services/__init__.py", "services/kit.py", "services/${SERVICE}", "deploy/logging.json"},
        ),
    ],
)
def test_an_image_holds_the_contracts_and_its_own_package_only(target: str, expected: set[str]) -> None:
    copied = set()
    for instruction, arguments in final_stage("Dockerfile", target):
        if instruction == "COPY" and not arguments.startswith("--from=dependencies"):
            copied.update(arguments.split()[:-1])
    assert copied == expected


def test_every_dependency_is_pinned_and_torch_comes_from_where_it_is_told() -> None:
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[^+]+", line) for line in pinned), "no local versions, no ranges"
    assert any(line.startswith("torch==") for line in pinned)
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert '--index-url "$TORCH_INDEX_URL"' in text
    assert text.count("-c constraints.txt") == 1


def seen_by_the_engine(path: str) -> bool:
    """Apply .dockerignore to a path: the last line that matches the path or a folder above it decides."""
    seen = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if not line or line.startswith("#"):
            continue
        names = [path, *(str(parent) for parent in Path(path).parents)]
        if "**/" in line:
            names = list(Path(path).parts)
        if any(fnmatch(name, pattern) for name in names if name != "."):
            seen = line.startswith("!")
    return seen


def test_the_engine_sees_the_code_and_nothing_else() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    seen = {path.split("/")[0] for path in listed if seen_by_the_engine(path) and path != "deploy/logging.json"}
    assert seen <= {"contracts", "services", "trainer", "pyproject.toml", "constraints.txt"}
    for code in ("contracts/errors.py", "services/kit.py", "services/generator/app.py", "trainer/train.py"):
        assert seen_by_the_engine(code)
    for kept_back in (
        "models/asktwice-tiny/model.safetensors",
        "data/selected_qa_full.csv",
        "artifacts/adapters/a/manifest.json",
        ".env",
        ".git/config",
        "services/__pycache__/kit.cpython-311.pyc",
    ):
        assert not seen_by_the_engine(kept_back), kept_back
