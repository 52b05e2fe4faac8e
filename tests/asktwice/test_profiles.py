from pathlib import Path

import pytest

from asktwice import profiles
from asktwice.profiles import BUNDLED_MODEL, Prepared, ProfileName, choose, remember, remembered
from contracts.artifacts import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(path=tmp_path)


def machine(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, downloaded: bool) -> None:
    monkeypatch.setattr(profiles, "_has_gpu", lambda: gpu)
    monkeypatch.setattr(profiles, "_in_hub_cache", lambda _: downloaded)


@pytest.mark.parametrize(
    ("gpu", "downloaded", "picked"), [(True, False, "gpu"), (False, True, "cpu"), (False, False, "demo")]
)
def test_auto_goes_by_the_machine_and_says_why(
    monkeypatch: pytest.MonkeyPatch, home: Home, gpu: bool, downloaded: bool, picked: str
) -> None:
    machine(monkeypatch, gpu=gpu, downloaded=downloaded)
    profile = choose(ProfileName.auto, home)
    assert profile.name == picked
    assert profile.why


def test_auto_goes_first_by_what_the_home_was_prepared_with(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    machine(monkeypatch, gpu=True, downloaded=True)
    remember(home, Prepared(profile=ProfileName.demo, base=str(BUNDLED_MODEL), embedding=None, data=Path("/x/my.csv")))
    assert choose(ProfileName.auto, home).base == str(BUNDLED_MODEL)
    assert choose(ProfileName.gpu, home).base.startswith("Qwen/")


def test_a_damaged_record_is_as_none(home: Home) -> None:
    for text in ("{", '{"profile": "auto", "base": "b", "embedding": null, "data": "d"}'):
        (home.path / "prepared.json").write_text(text, encoding="utf-8")
        assert remembered(home) is None
