"""The whole road for real, once for all tests here: ``make demo``, then ``asktwice serve`` on what it prepared."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.serving import eventually

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without anything that would change an answer or leave the machine."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("ASKTWICE_", "OPENAI_", "QDRANT_"))
    }
    return {**kept, "HF_HUB_OFFLINE": "1", **more}


def asktwice(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line; stdout and stderr are kept apart."""
    return subprocess.run(
        [BIN / "asktwice", *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@dataclass(frozen=True)
class Demo:
    home: Path
    result: Path
    stdout: str
    stderr: str
    seconds: float


def make_demo(folder: Path, **variables: str) -> Demo:
    """Run ``make demo`` with its artifacts and result.txt in a folder of the test's."""
    home, result = folder / "artifacts", folder / "result.txt"
    given = [f"{name}={value}" for name, value in {"HOME_DIR": home, "OUT": result, **variables}.items()]
    begun = time.monotonic()
    done = subprocess.run(
        ["make", "demo", *given],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Demo(home, result, done.stdout, done.stderr, time.monotonic() - begun)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return make_demo(tmp_path_factory.mktemp("demo"))


@contextmanager
def asktwice_serve(home: Path, *options: str, **environment: str) -> Iterator["tuple[str, subprocess.Popen[str]]"]:
    """Run ``asktwice serve`` on a free port; yield its URL once it is ready, and the process."""
    log = home / "serve.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [BIN / "asktwice", "serve", "--port", "0", "--home", home, *options],
            cwd=ROOT,
            env=clean_environment(**environment),
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        found = eventually(lambda: re.search(r"Starting on (http://\S+)", log.read_text(encoding="utf-8")), "a URL")
        url = found.group(1)
        eventually(lambda: _ready(url, process, log), "ready", 120)
        yield url, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(30)


def _ready(url: str, process: "subprocess.Popen[str]", log: Path) -> bool:
    assert process.poll() is None, log.read_text(encoding="utf-8")
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def copied_home(demo: Demo, folder: Path) -> Path:
    """Return a copy of what the demo prepared: an index is opened by one process at a time."""
    return Path(shutil.copytree(demo.home, folder / "artifacts"))


@pytest.fixture(scope="session")
def url(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with asktwice_serve(copied_home(demo, tmp_path_factory.mktemp("served"))) as (url, _):
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=300) as client:
        yield client
