"""How often the right passage is found, on XQuAD (en): 1,190 questions over 240 paragraphs, with the built-in vectors.

``asktwice bench retriever --quality FILE.csv`` prints all figures; ``--embedding minilm`` those of a trained model.
"""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asktwice.cli import cli
from contracts.errors import InvalidInput
from services.retriever.bench import quality

DATA = os.environ.get("ASKTWICE_TEST_DATA")


@pytest.mark.skipif(not DATA, reason="ASKTWICE_TEST_DATA does not name the folder that holds xquad_en.csv")
def test_hybrid_finds_the_paragraph_of_a_question() -> None:
    found = quality(Path(DATA or "") / "xquad_en.csv")
    hybrid, sparse, dense = found["hybrid"], found["sparse"], found["dense"]
    assert hybrid["hit_at_1"] >= 0.94
    assert hybrid["hit_at_5"] >= 0.985
    # A weak partner must help, not drag.
    assert hybrid["mrr_at_10"] > sparse["mrr_at_10"] > dense["mrr_at_10"]


def test_the_command_prints_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:9")  # nobody's server is written to
    file = tmp_path / "qa.csv"
    topics = ("кошки спят днём", "поезда ходят по расписанию", "хлеб пекут из муки")
    file.write_text("question,context\n" + "".join(f"Где {topic}?,Известно: {topic}.\n" for topic in topics))
    result = CliRunner().invoke(cli, ["bench", "retriever", "--quality", str(file), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found.keys() == {"dense", "sparse", "hybrid"}
    assert {kind["hit_at_1"] for kind in found.values()} == {1.0}


def test_a_file_without_contexts_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "qa.csv"
    file.write_text("question,answer\nКто?,Я\n")
    with pytest.raises(InvalidInput, match="lacks the column context"):
        quality(file)
