import json
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.artifacts import Home
from contracts.errors import NotReady
from trainer.checkpoints import checkpoint, newest_whole, only_training, seal


def write(run: Path, step: int, best: int | None = None) -> Path:
    folder = checkpoint(run, step)
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(bytes(range(100)))
    (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": best}))
    seal(folder)
    return folder


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:50])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write(tmp_path, 9)
    damage(write(tmp_path, 10) / "optimizer.pt")
    assert newest_whole(tmp_path) == checkpoint(tmp_path, 9)
    assert not checkpoint(tmp_path, 10).exists()


def test_a_checkpoint_that_was_never_sealed_does_not_count(tmp_path: Path) -> None:
    (write(tmp_path, 10) / "complete.json").unlink()
    assert newest_whole(tmp_path) is None


def test_a_checkpoint_whose_best_is_damaged_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, 5)
    cut(write(tmp_path, 10, best=10) / "optimizer.pt")
    write(tmp_path, 15, best=10)
    assert newest_whole(tmp_path) == checkpoint(tmp_path, 5)


def test_two_trainings_in_one_home_are_refused(tmp_path: Path) -> None:
    home = Home(path=tmp_path)
    with only_training(home), pytest.raises(NotReady, match="Another training"), only_training(home):
        pass
    with only_training(home):
        pass
