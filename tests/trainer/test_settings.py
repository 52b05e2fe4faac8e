from pathlib import Path

import pytest

from contracts.errors import InvalidInput
from trainer.settings import trainer_settings


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASKTWICE_DATA", "there.csv")
    monkeypatch.setenv("ASKTWICE_NAME", "there")
    monkeypatch.setenv("ASKTWICE_BASE", "")  # as compose passes an unset variable
    settings = trainer_settings(name="given", recipe=None)
    assert (settings.data, settings.name) == (Path("there.csv"), "given")
    assert (settings.base, settings.recipe) == ("Qwen/Qwen2.5-1.5B-Instruct", "qlora")


@pytest.mark.parametrize("name", ["", "-a", "a.b", "../a", "имя", "a" * 65])
def test_a_name_that_could_not_be_published_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="name: 1 to 64"):
        trainer_settings(data=Path("a.csv"), name=name)


def test_the_share_of_the_gpu_is_a_share() -> None:
    with pytest.raises(InvalidInput, match="gpu_memory_share"):
        trainer_settings(data=Path("a.csv"), name="a", gpu_memory_share=2)
