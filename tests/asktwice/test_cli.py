"""The command line as a person meets it."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from asktwice.cli import cli
from asktwice.profiles import BUNDLED_MODEL, PROFILES, Prepared, Profile, ProfileName, remember
from asktwice.training import adapter_name, recipe_for
from contracts.artifacts import Home
from contracts.errors import InvalidInput
from contracts.generation import AdapterInfo, AdapterList, Mode
from tests.integration.conftest import asktwice
from tests.serving import serving

COMMANDS = ["demo", "serve", "index", "train", "ask", "evaluate", "verdict", "advise", "doctor"]
GROUPS = {"data": ["check"], "adapters": ["import", "merge", "push"], "bench": ["generator", "trainer"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    shown = CliRunner().invoke(cli, [command, "--help"])
    assert shown.exit_code == 0
    assert re.search(rf"Example: .?asktwice {command}", shown.output)


@pytest.mark.parametrize(("group", "command"), [(group, one) for group, all in GROUPS.items() for one in all])
def test_help_of_a_groups_command_shows_an_example(group: str, command: str) -> None:
    shown = CliRunner().invoke(cli, [group, command, "--help"])
    assert shown.exit_code == 0
    assert re.search(rf"Example: .?asktwice {group} {command}", shown.output)


def test_all_commands_are_listed() -> None:
    shown = CliRunner().invoke(cli, ["--help"])
    assert all(re.search(rf"^│ {command}\s", shown.output, re.MULTILINE) for command in [*COMMANDS, *GROUPS])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demo", "--data", "nowhere.csv"], "Cannot read nowhere.csv"),
        (["train", "--data", "nowhere.csv", "--name", "x", "--profile", "demo"], "nowhere.csv"),
        (["train", "--data", "data/selected_qa_full.csv", "--name", "../x", "--profile", "demo"], "name"),
        (["index", "nowhere.csv", "--profile", "demo"], "Cannot read nowhere.csv"),
        (["ask", "  ", "--profile", "demo"], "question: "),
        (["ask", "q", "--url", "http://127.0.0.1:9"], "cannot be reached"),
        (["ask", "q", "--adapter", "../x", "--url", "http://127.0.0.1:9"], "adapter: "),
        (["ask", "q" * 20_001, "--url", "http://127.0.0.1:9"], "question: "),
        (["ask", "q", "--url", "http://x:port"], "--url"),
        (["serve", "--data", "nowhere.csv", "--profile", "demo"], "There is no file nowhere.csv"),
        (["evaluate", "--out", "data", "--url", "http://127.0.0.1:9"], "Cannot write data"),
        (["demo", "--out", "nowhere/result.txt"], "Cannot write nowhere/result.txt"),
        (["index", "data/selected_qa_full.csv", "--profile", "demo", "--home", "README.md"], "README.md"),
        (["evaluate", "--url", "http://127.0.0.1:9"], "cannot be reached"),
        (["evaluate", "--questions", "nowhere.txt", "--url", "http://127.0.0.1:9"], "nowhere.txt"),
    ],
)
def test_a_mistake_is_one_plain_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    home = [] if "--home" in arguments else ["--home", tmp_path / "home"]
    done = asktwice(*arguments, *home)
    assert done.returncode == 1, done.stderr
    assert says in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "base", "recipe"),
    [
        ([], str(BUNDLED_MODEL), "demo"),
        (["--method", "raft"], str(BUNDLED_MODEL), "demo_raft"),
        (["--profile", "gpu", "--method", "lora"], "Qwen/Qwen2.5-1.5B-Instruct", "lora"),
        (["--base", "someone/model", "--recipe", "full"], "someone/model", "full"),
    ],
)
def test_a_file_is_checked_for_the_training_of_the_same_options(
    options: list[str], base: str, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def check(file: str, test: str | None, base: str, recipe: str, as_json: bool) -> str:
        taken.append((base, recipe))
        return "ok"

    def train(home: Home, profile: Profile, data: Path, name: str, recipe: str, **_: Any) -> Any:
        taken.append((profile.base, recipe))
        return SimpleNamespace(manifest=SimpleNamespace(id="a.1"))

    monkeypatch.setattr("asktwice.checking.check_file", check)
    monkeypatch.setattr("asktwice.training.train_adapter", train)
    home = Home(path=tmp_path)
    remember(home, Prepared(profile=ProfileName.demo, base=str(BUNDLED_MODEL), embedding=None))
    for command in (["data", "check", "my.csv"], ["train", "--data", "my.csv"]):
        shown = CliRunner().invoke(cli, [*command, "--home", str(tmp_path), *options])
        assert shown.exit_code == 0, shown.output
    assert taken == [(base, recipe)] * 2


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = asktwice("serve", "--port", str(port), "--home", tmp_path, "--profile", "demo")
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


def test_a_home_that_a_server_has_open_is_told_at_once_and_what_to_do(tmp_path: Path) -> None:
    from services.retriever.retriever import Retriever
    from services.retriever.settings import RetrieverSettings

    held = Retriever.open(RetrieverSettings(home=tmp_path))
    try:
        done = asktwice("ask", "Привет", "--home", tmp_path, "--profile", "demo")
    finally:
        held.close()
    assert done.returncode == 1
    assert "--url" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_index_of_another_embedding_is_told_at_once(tmp_path: Path) -> None:
    import sqlite3

    assert asktwice("index", "README.md", "--home", tmp_path, "--profile", "demo").returncode == 0
    with sqlite3.connect(next(tmp_path.rglob("ledger.sqlite"))) as ledger:
        changed = ledger.execute("UPDATE meta SET value = 'another-model' WHERE key LIKE '%embedding%'").rowcount
    ledger.close()
    assert changed == 1
    done = asktwice("ask", "Привет", "--home", tmp_path, "--profile", "demo")
    assert done.returncode == 1
    assert "another-model" in done.stderr


@pytest.mark.parametrize(
    ("check", "obstacle"),
    [
        ("index: is being opened; data: waits for the index", ""),
        ("data: indexing 3/40", ""),
        ("index: rebuilding 0/7", ""),
        ("model: loading", ""),
        ("index: deleting it and indexing again does as well.", "index: deleting it and indexing again does as well."),
        ("data: my-indexing.csv is empty.", "data: my-indexing.csv is empty."),
    ],
)
def test_only_what_needs_time_is_waited_for(check: str, obstacle: str) -> None:
    from asktwice.serving import _obstacles
    from contracts.health import Readiness

    assert _obstacles(Readiness.of({"generator": "ok", "retriever": check})) == obstacle


def test_doctor_finds_what_is_missing(tmp_path: Path) -> None:
    import json

    done = asktwice("doctor", "--json", "--home", tmp_path, "--profile", "demo")
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert found["adapters"]["state"] == "warn"
    assert "asktwice train" in found["adapters"]["fix"]
    assert found["4-bit NF4"]["state"] == "ok"
    assert found["judge"]["state"] == "warn"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("file", "name"),
    [("selected_qa_full.csv", "selected_qa_full"), ("мой файл.csv", "data"), ("my data (2).csv", "my-data-2")],
)
def test_an_adapter_is_named_after_its_file(file: str, name: str) -> None:
    assert adapter_name(Path(file)) == name


def test_a_servers_adapters_are_listed_with_their_state_a_line_each() -> None:
    app = FastAPI()

    @app.get("/adapters")
    async def adapters() -> AdapterList:
        made = {"name": "a", "base": "b", "created": datetime(2026, 11, 23, tzinfo=UTC), "modes": [Mode.ft]}
        return AdapterList(
            adapters=[
                AdapterInfo(id="one.1", state="ready", pinned=True, **made),
                AdapterInfo(id="two.2", state="refused", reason="a\nvalue is \x1b[31mNaN", **made),
            ]
        )

    with serving(app) as url:
        shown = CliRunner().invoke(cli, ["adapters", "list", "--url", url])
    assert shown.exit_code == 0
    first, second = shown.stdout.splitlines()
    assert first.split()[0] == "one.1"
    assert first.endswith("ready, pinned")
    assert second.endswith("refused: a value is [31mNaN")


@pytest.mark.parametrize(
    ("profile", "method", "recipe", "chosen"),
    [
        ("demo", None, None, "demo"),
        ("demo", "qlora", None, "demo"),
        ("demo", "raft", None, "demo_raft"),
        ("gpu", None, None, "qlora"),
        ("gpu", "full", None, "full"),
        ("gpu", "lora", "demo_lora", "demo_lora"),
    ],
)
def test_the_recipe_follows_from_the_profile_the_method_and_what_was_given(
    profile: str, method: str | None, recipe: str | None, chosen: str
) -> None:
    assert recipe_for(PROFILES[ProfileName(profile)], method, recipe) == chosen


def test_a_method_and_a_recipe_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidInput, match="--method full, but the recipe qlora says qlora"):
        recipe_for(PROFILES[ProfileName.gpu], "full", "qlora")


def test_an_estimate_is_told_and_nothing_is_trained(tmp_path: Path) -> None:
    given = ["train", "--data", "data/selected_qa_full.csv", "--profile", "demo", "--home", str(tmp_path / "home")]
    result = CliRunner().invoke(cli, [*given, "--estimate", "--price-per-hour", "2", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["here"]["seconds"] > 0
    assert told["here"]["cost"] == pytest.approx(told["here"]["seconds"] * 2 / 3600, abs=0.01)
    assert not (tmp_path / "home" / "adapters").exists()
