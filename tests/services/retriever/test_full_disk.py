"""Ingestion on a disk that really fills up: refused with the reason, search goes on, nothing acknowledged is lost."""

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import Unavailable
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings
from tests.services.retriever.test_kills import content, held

SIZE = 400_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, as disks have: in one of memory even reading a hole of a file takes room."""
    folder, image = tmp_path / "disk", tmp_path / "image"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE)
    if shutil.which("mkfs.ext4") is None or subprocess.run(["mkfs.ext4", "-q", image], check=False).returncode:
        pytest.skip("no mkfs.ext4 here")
    if subprocess.run(["mount", "-o", "loop", image, folder], check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk: Path, but: int) -> None:
    """Write a file that leaves so many bytes free."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 65_536):
                pass
        except OSError:
            file.truncate(max(0, file.tell() - but))


def test_search_goes_on_when_writes_cannot(disk: Path) -> None:
    drawn = random.Random(0)
    retriever = Retriever.open(RetrieverSettings(home=disk / "home", qdrant_url=None))
    state: dict[str, int] = {}
    refused: list[str] = []
    for version in range(25):
        name = f"документ{version % 4}.csv"
        if version % 3 == 2:
            fill(disk, but=drawn.choice([0, 4_096, 1_000_000, 100_000_000, 129_000_000]))
        try:
            retriever.ingest(name, content(name, version))
            state[name] = version
        except Unavailable as error:
            refused.append(error.detail)
        assert held(retriever) == state
        for name, there in state.items():
            assert f" в{there}: " in retriever.search(f"Запись 1 в{there} {name}", 1)[0].text
        (disk / "ballast").unlink(missing_ok=True)
    assert 1 <= len(refused) < 20
    assert all("disk" in detail for detail in refused)
    retriever.ingest("последний.csv", content("последний.csv", 99))
    retriever.close()
    again = Retriever.open(RetrieverSettings(home=disk / "home", qdrant_url=None))
    assert held(again) == state | {"последний.csv": 99}
    again.close()


def test_an_index_is_opened_and_searched_on_a_full_disk(disk: Path) -> None:
    settings = RetrieverSettings(home=disk / "home", qdrant_url=None)
    retriever = Retriever.open(settings)
    retriever.ingest("a.csv", content("a.csv", 1))
    retriever.close()
    fill(disk, but=0)
    again = Retriever.open(settings)
    assert held(again) == {"a.csv": 1}
    assert " в1: " in again.search("Запись 1 в1 a.csv", 1)[0].text
    again.close()
