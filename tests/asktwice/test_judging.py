"""``asktwice verdict``: anybody's scores, judged as the evaluator's own are."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def verdict(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "asktwice", "verdict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    drawn = random.Random(0)
    lines = ["item;cluster;arm;score"]
    for n in range(200):
        for arm, chance in (("rag", 0.9), ("ft", 0.4)):
            lines.append(f"Вопрос {n};{n // 5};{arm};{'1,0' if drawn.random() < chance else '0'}")
    file = tmp_path / "scores.csv"
    file.write_bytes(("\r\n".join(lines) + "\r\n").encode("utf-8-sig"))
    return file


def test_the_winner_in_words_and_as_json(scores: Path) -> None:
    said = verdict(scores)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("Вывод: лучше rag.")
    assert verdict(scores, "--lang", "en").stdout.startswith("Verdict: rag is better.")
    found = json.loads(verdict(scores, "--json").stdout)
    assert (found["outcome"], found["winner"]) == ("BETTER", "rag")
    assert found["contrasts"][0]["items"] == 200
    assert found["contrasts"][0]["clusters"] == 40


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("item,arm,score\na,b,1\n", "lacks the column cluster"),
        ("item,cluster,arm,score\na,c,x,7\n", "line 2: the score '7' is no number from 0 to 1"),
        ("item,cluster,arm,score\na,c,x,yes\n", "line 2: the score 'yes'"),
        ("item,cluster,arm,score\na,c,x,nan\n", "line 2: the score 'nan'"),
        ("item,cluster,arm,score\na,c,,1\n", "line 2: arm"),
        ("item,cluster,arm,score\na,c,x,1\n", "one arm alone"),
        ("item,cluster,arm,score\na,c,x,1\na,c,x,0\na,c,y,1\n", "two scores"),
        ("", "is empty"),
    ],
)
def test_a_bad_table_is_refused_with_the_line(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(content, encoding="utf-8")
    refused = verdict(file)
    assert refused.returncode != 0
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
