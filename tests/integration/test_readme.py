"""Every command of the README is run, here or by the test that is named, and every link leads somewhere."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import BIN, ROOT, Demo, clean_environment, copied_home
from tests.serving import eventually

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("   #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
ELSEWHERE = {
    "make demo": "tests/integration/conftest.py: make_demo",
    "make test": "the suite that you are reading",
    "make demo DATA=my.csv QUESTIONS=my_questions.txt": "tests/integration/test_demo.py:"
    " test_the_users_own_file_in_cp1251_with_semicolons",
    "docker compose up -d": "tests/deploy/test_stack.py (make slow)",
    "docker compose -f docker-compose.yml -f docker-compose.cpu.yml up -d": "tests/deploy/test_stack.py (make slow)",
}
SERVED = [command for command in COMMANDS if command not in ELSEWHERE and command != "make serve"]


def test_the_first_screen_has_the_sentence_the_excerpt_and_the_two_commands() -> None:
    first = "\n".join(README.splitlines()[:40])
    assert "make demo" in first
    assert "make test" in first
    assert "RAG (Retrieval-Augmented Generation) Qdrant + asktwice-tiny" in first


def test_every_command_elsewhere_names_a_real_place() -> None:
    for command, place in ELSEWHERE.items():
        assert command in COMMANDS
        file, _, name = place.removesuffix(" (make slow)").partition(": ")
        if file.startswith("tests/"):
            assert name in (ROOT / file).read_text(encoding="utf-8"), place


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_other_command_works_on_what_the_demo_prepared(demo: Demo, url: str, tmp_path: Path) -> None:
    home = copied_home(demo, tmp_path)
    assert len(SERVED) >= 12
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "asktwice").symlink_to(BIN / "asktwice")
    (tmp_path / "data").symlink_to(ROOT / "data")
    for command in SERVED:
        here = command.replace("http://127.0.0.1:8000", url).replace("curl ", "curl --fail-with-body ")
        done = subprocess.run(
            ["bash", "-c", here],
            cwd=tmp_path,
            env=clean_environment(ASKTWICE_HOME=str(home)),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip() or "evaluate" in command, command


def test_make_serve_serves_what_the_demo_prepared(demo: Demo, tmp_path: Path) -> None:
    home, log = copied_home(demo, tmp_path), tmp_path / "log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            ["make", "serve", "PORT=0", f"HOME_DIR={home}"],
            cwd=ROOT,
            env=clean_environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal goes to make and to what it runs
        )
    try:
        eventually(lambda: "Ready: http" in log.read_text(encoding="utf-8"), "ready")
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
    assert "Stopped." in log.read_text(encoding="utf-8")
