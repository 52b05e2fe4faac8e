"""The import contracts of pyproject.toml hold, and importing a package does nothing heavy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "sentence_transformers", "openai", "pandas", "trl", "peft")


def test_import_contracts_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "asktwice.cli",
        "contracts.clients",
        "services.retriever.app",
        "services.generator.app",
        "services.evaluator.app",
        "trainer.settings",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_settings_read_the_environment() -> None:
    allowed = {"asktwice/doctor.py", "trainer/ranks.py"}  # the environment and the launcher are their matter
    reading = [
        str(path.relative_to(ROOT))
        for package in ("contracts", "services", "trainer", "asktwice")
        for path in (ROOT / package).rglob("*.py")
        if ("os.environ" in (text := path.read_text(encoding="utf-8")) or "os.getenv" in text)
        and path.name != "settings.py"
    ]
    assert set(reading) <= allowed


def test_nothing_dangerous_is_called() -> None:
    forbidden = ("pickle.load", "shell=True", "trust_remote_code=True", "eval(", "yaml.load(", "exec(")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for package in ("contracts", "services", "trainer", "asktwice")
        for path in (ROOT / package).rglob("*.py")
        for word in forbidden
        if f" {word}" in (text := path.read_text(encoding="utf-8")) or f"({word}" in text or f"={word}" in text
    ]
    assert found == []
    for path in (ROOT / "trainer").rglob("*.py"):  # only there, on our own checkpoints
        for call in re.findall(r"torch\.load\(.*", path.read_text(encoding="utf-8")):
            assert "weights_only=True" in call
