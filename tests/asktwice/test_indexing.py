"""`asktwice index` over files and folders: one line a file, and a refused one does not stop the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    knowledge = tmp_path / "knowledge"
    (knowledge / "deep").mkdir(parents=True)
    (knowledge / ".git").mkdir()
    (knowledge / ".git" / "config.txt").write_text("не знание", encoding="utf-8")
    (knowledge / "a.csv").write_text("Вопрос;Ответ;Контекст\nq;a;Курс стоит 45 000.\nq;a;\n", encoding="cp1251")
    (knowledge / "deep" / "b.md").write_text("# Адрес\n\nМосква, Тверская, 1.\n", encoding="utf-8")
    (knowledge / "picture.png").write_bytes(b"\x89PNG")
    return knowledge


def index(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "asktwice",
        "index",
        *map(str, arguments),
        "--home",
        str(home),
        "--profile",
        "demo",
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "300"},
    )


def test_a_folder_is_indexed_file_by_file(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = index(home, folder)
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [
            "knowledge/a.csv: 2 rows read = 1 accepted + 1 rejected + 0 duplicates + 0 unchanged;"
            " 1 passages in the index",
            "knowledge/deep/b.md: 1 paragraphs read = 1 accepted + 0 rejected + 0 duplicates + 0 unchanged;"
            " 1 passages in the index",
        ],
    ), done.stderr
    assert "Left out, of types that are not read: 1 of .png" in done.stderr
    assert "row 2: empty context" in done.stderr
    assert index(home, "--remove", "knowledge/a.csv").returncode == 0
    assert index(home, "--list").stdout == "knowledge/deep/b.md: 1 paragraphs, 1 passages\n"
    again = index(home, "--remove", "knowledge/a.csv")
    assert again.returncode == 1
    assert "knowledge/a.csv is not in the index" in again.stderr


def test_a_refused_file_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    broken = folder / "b.pdf"
    broken.write_bytes(b"%PDF-1.4 nothing")
    done = index(tmp_path / "home", broken, folder / "a.csv")
    assert done.returncode == 1
    assert "b.pdf is not a PDF, or is damaged" in done.stderr
    assert "1 of 2 files were not indexed" in done.stderr
    assert done.stdout.startswith("a.csv: 2 rows read = 1 accepted")


@pytest.mark.parametrize("arguments", [[], ["a.csv", "--list"], ["--list", "--remove", "a.csv"]])
def test_one_thing_at_a_time(tmp_path: Path, arguments: list[str]) -> None:
    done = index(tmp_path / "home", *arguments)
    assert done.returncode != 0
    assert "Give files to index, or --remove NAME, or --list, or --reindex." in done.stderr


def test_a_folder_of_nothing_says_what_is_read(tmp_path: Path) -> None:
    done = index(tmp_path / "home", (tmp_path / "empty").mkdir() or tmp_path / "empty")
    assert done.returncode == 1
    assert "Read are .csv" in done.stderr


def test_the_index_is_built_again_with_another_embedding(tmp_path: Path, folder: Path) -> None:
    home = tmp_path / "home"
    assert index(home, folder).returncode == 0
    done = index(home, "--reindex")
    assert (done.returncode, done.stdout) == (
        0,
        "2 passages are indexed with hashed-char-ngrams-2048 (2048 numbers each)\n",
    ), done.stderr
    assert index(home, "--list").stdout.count("\n") == 2


def test_nothing_can_be_built_again_where_nothing_is(tmp_path: Path) -> None:
    done = index(tmp_path / "home", "--reindex")
    assert done.returncode != 0
    assert "There is no index" in done.stderr
    assert not (tmp_path / "home" / "indexes").exists()
    done = index(tmp_path / "home", "--reindex", "--url", "http://127.0.0.1:9")
    assert "ASKTWICE_REINDEX" in done.stderr


def test_two_files_of_one_name_are_not_taken_for_one_document(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "faq.csv").write_text(f"context\nТекст {folder}.\n", encoding="utf-8")
    done = index(tmp_path / "home", tmp_path / "x" / "faq.csv", tmp_path / "y" / "faq.csv")
    assert done.returncode != 0
    assert "would both be the document faq.csv" in done.stderr
    assert index(tmp_path / "home", tmp_path / "x" / "faq.csv", tmp_path / "x" / "faq.csv").returncode == 0
