import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BaseModelRecord, Home
from contracts.errors import InvalidInput, Unavailable
from contracts.generation import Mode
from services.generator.app import create_app
from services.generator.importing import bring_in
from services.generator.settings import GeneratorSettings
from tests.services.generator.conftest import publish
from tests.services.generator.test_app import ask, retriever
from tests.services.generator.test_checking import HOSTILE
from tests.serving import eventually, ready_client, serving


@pytest.fixture
def elsewhere(tmp_path: Path, base_folder: Path) -> Path:
    """An adapter as PEFT saves it, without anything of ours, and with a path of another machine in it."""
    manifest = publish(Home(path=tmp_path / "other"), base_folder, "x", seed=4)
    folder = tmp_path / "other" / "adapters" / manifest.id
    made = tmp_path / "someones-adapter"
    made.mkdir()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        (made / name).write_bytes((folder / name).read_bytes())
    config = json.loads((made / ADAPTER_CONFIG).read_text()) | {"base_model_name_or_path": "/home/someone/secret"}
    (made / ADAPTER_CONFIG).write_text(json.dumps(config))
    (made / "README.md").write_text("# hello")
    (made / "optimizer.bin").write_bytes(b"x")
    return made


@pytest.fixture
def client(settings: GeneratorSettings) -> Iterator[httpx.Client]:
    with serving(create_app(settings, retriever())) as url, ready_client(url) as client:
        yield client


def test_a_ready_adapter_is_brought_in_and_answers(
    client: httpx.Client, elsewhere: Path, home: Home, settings: GeneratorSettings
) -> None:
    assert ask(client, "ft").status_code == 409
    manifest = bring_in(str(elsewhere), name="theirs", modes=[Mode.ft], home=home, settings=settings)
    assert manifest.origin == "someones-adapter"
    answer = eventually(lambda: ask(client, "ft").status_code == 200 and ask(client, "ft").json(), "answers")
    assert answer["adapter"] == manifest.id
    assert answer["answer"] != ask(client, "base").json()["answer"]
    there = {path.name for path in (home.adapters / manifest.id).iterdir()}
    assert there == {ADAPTER_CONFIG, ADAPTER_WEIGHTS, "manifest.json"}
    assert "secret" not in (home.adapters / manifest.id / ADAPTER_CONFIG).read_text()
    again = bring_in(str(elsewhere), name="theirs", modes=[Mode.ft], home=home, settings=settings)
    assert again.id == manifest.id
    with pytest.raises(InvalidInput, match=rf"{manifest.id}, for ft\..*another --name"):  # what is published stays
        bring_in(str(elsewhere), name="theirs", modes=[Mode.rag_ft], home=home, settings=settings)


def test_one_of_another_base_is_not_brought_in(
    elsewhere: Path, home: Home, settings: GeneratorSettings, base_folder: Path
) -> None:
    config = json.loads((elsewhere / ADAPTER_CONFIG).read_text())
    given = {"name": "theirs", "modes": [Mode.ft], "home": home, "settings": settings}
    (elsewhere / ADAPTER_CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "meta-llama/Llama-3.1-8B"}))
    with pytest.raises(InvalidInput, match=r"Llama-3\.1-8B.*--any-base"):
        bring_in(str(elsewhere), **given)
    assert bring_in(str(elsewhere), **given, any_base=True).name == "theirs"
    revision = "sha256:" + "0" * 64
    other = BaseModelRecord(model=base_folder.name, revision=revision, quantization="nf4", compute_dtype="float32")
    ours = publish(Home(path=home.path / "b"), base_folder, "y", seed=5, base=other)
    with pytest.raises(InvalidInput, match="was trained on"):
        bring_in(str(home.path / "b" / "adapters" / ours.id), **given)


@pytest.mark.parametrize("name", ["rank 50 million", "one value NaN", "a pickle", "other names", "10 GB of nothing"])
def test_what_is_not_served_is_not_brought_in(
    elsewhere: Path, home: Home, settings: GeneratorSettings, name: str
) -> None:
    HOSTILE[name][0](elsewhere)
    with pytest.raises(InvalidInput, match="someones-adapter: "):
        bring_in(str(elsewhere), name="theirs", modes=[Mode.ft], home=home, settings=settings)
    assert not any(home.adapters.iterdir())


def test_weights_of_another_format_are_refused(elsewhere: Path, home: Home, settings: GeneratorSettings) -> None:
    (elsewhere / ADAPTER_WEIGHTS).rename(elsewhere / "adapter_model.bin")
    with pytest.raises(InvalidInput, match="Only safetensors"):
        bring_in(str(elsewhere), name="theirs", modes=[Mode.ft], home=home, settings=settings)


def test_the_hub(elsewhere: Path, home: Home, settings: GeneratorSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself is not asked; its client's calls and errors are the real ones' names."""
    import huggingface_hub

    asked: list[Any] = []

    class Api:
        def model_info(self, source: str, revision: str | None) -> Any:
            asked.append((source, revision))
            return type("Info", (), {"sha": "c" * 40})

    def download(source: str, revision: str, allow_patterns: list[str]) -> str:
        asked.append((source, revision, allow_patterns))
        return str(elsewhere)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    manifest = bring_in("some/one", name="n", modes=[Mode.ft], home=home, settings=settings, revision="main")
    assert manifest.origin == f"some/one@{'c' * 40}"
    assert asked == [("some/one", "main"), ("some/one", "c" * 40, [ADAPTER_CONFIG, ADAPTER_WEIGHTS])]

    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(Unavailable, match="no network"):
        bring_in("some/one", name="n", modes=[Mode.ft], home=home, settings=settings)
