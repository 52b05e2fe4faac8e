import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.artifacts import local_revision, move_into_place, printed_model_name, whole_folder, write_atomically


def test_the_printed_name_is_the_last_part() -> None:
    assert printed_model_name("Qwen/Qwen2.5-1.5B-Instruct") == "Qwen2.5-1.5B-Instruct"
    assert printed_model_name("models/asktwice-tiny/") == "asktwice-tiny"


def test_the_revision_of_a_folder_changes_with_its_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a")
    first = local_revision(tmp_path)
    (tmp_path / "README.md").write_bytes(b"a card is not the model")
    assert local_revision(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"b")
    assert local_revision(tmp_path) != first


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file.txt"
    write_atomically(target, b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_killed_writer_never_shows_half_a_folder(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from contracts.artifacts import *\n"
        f"with whole_folder(Path({str(tmp_path)!r})) as folder:\n"
        "    (folder / 'a').write_text('whole'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_moving_into_place_twice_keeps_the_first(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with whole_folder(tmp_path) as folder:
            (folder / "a").write_text(content)
            move_into_place(folder, tmp_path / "final")
    assert (tmp_path / "final" / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
