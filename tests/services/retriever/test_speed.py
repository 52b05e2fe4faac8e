"""The bench of speed, small: every figure is there, and none where it cannot be measured."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asktwice.cli import cli
from services.retriever import speed as bench


def test_the_command_prints_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"POINTS": 400, "TURNS": 2, "SEARCHES": 20, "SIZES": (300,), "CHANGES": 2}.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:9")  # nobody's server is written to
    file = tmp_path / "qa.csv"
    rows = [f"Вопрос {n}?,Ответ.,Запись о числе {n // 3}." for n in range(60)]
    file.write_text("\n".join(["question,answer,context", *rows]), encoding="utf-8")
    done = CliRunner().invoke(cli, ["bench", "retriever", "--data", str(file), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {
        "ingest_vs_loop",
        "freshness_s",
        "ingest_vs_local",
        "search_vs_local",
        "dense_search_vs_local",
        "recall_at_10",
        "growth",
    }, "without a model nothing is said of int8"
    assert found["recall_at_10"] == 1.0
    assert found["growth"].keys() == {"300"}
    assert found["growth"]["300"].keys() == {"search_p50_ms", "memory_mb", "disk_mb"}
    assert all(
        value > 0 for value in [found["ingest_vs_loop"], found["freshness_s"], found["growth"]["300"]["disk_mb"]]
    )
