"""An adapter in its base's weights, and what goes to the hub; the hub is a fake that also refuses."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from contracts.artifacts import Home
from contracts.errors import InvalidInput, Unavailable
from tests.trainer.conftest import make_base, questions_and_answers, write_csv
from trainer.merge import find, merge, push
from trainer.settings import TrainerSettings
from trainer.train import TrainingResult, train


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    folder = tmp_path_factory.mktemp("trained")
    recipe = {"method": "qlora", "rank": 8, "learning_rate": 0.01, "epochs": 4, "gradient_checkpointing": False}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    csv = write_csv(folder / "qa.csv", questions_and_answers(12))
    return train(
        TrainerSettings(
            data=csv, name="sales", base=str(base), recipe=str(folder / "recipe.json"), home=folder / "home"
        )
    )


def test_a_merged_model_computes_what_base_and_adapter_compute(
    trained: TrainingResult, base: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    out = merge(trained.folder, str(base), tmp_path / "merged")
    tokens = torch.arange(20)[None]
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = plain(tokens).logits
    expected = PeftModel.from_pretrained(plain, str(trained.folder))(tokens).logits
    merged = AutoModelForCausalLM.from_pretrained(out)(tokens).logits
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)
    assert AutoTokenizer.from_pretrained(out).chat_template
    for file in out.iterdir():
        assert str(base).encode() not in file.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path != out]


def test_another_base_and_a_folder_that_is_there_are_refused(
    trained: TrainingResult, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="another model"):
        merge(trained.folder, str(make_base(tmp_path / "other", seed=1)), tmp_path / "merged")
    (tmp_path / "there").mkdir()
    with pytest.raises(InvalidInput, match="is there already"):
        merge(trained.folder, str(base), tmp_path / "there")
    assert not (tmp_path / "merged").exists()


def test_an_unknown_id_names_those_there_are(trained: TrainingResult) -> None:
    home = Home(path=trained.folder.parents[1])
    assert find([home.adapters, home.checkpoints], trained.manifest.id) == trained.folder
    with pytest.raises(InvalidInput, match=trained.manifest.id):
        find([home.adapters], "sales.000000000000")
    with pytest.raises(InvalidInput, match="Published: none"):
        find([home.checkpoints], "../../etc")


class FakeHub:
    """Takes an upload as the hub does, or answers as it does to those whom it does not let in."""

    def __init__(self, trouble: Exception | None = None, public: bool = False):
        self.trouble, self.files, self.private, self.public = trouble, {}, None, public

    def create_repo(self, repository: str, private: bool, exist_ok: bool) -> None:
        if self.trouble:
            raise self.trouble
        self.private = private

    def repo_info(self, repository: str) -> Any:
        return SimpleNamespace(private=self.private and not self.public)

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


def refusal(status: int) -> HfHubHTTPError:
    return HfHubHTTPError("no", response=httpx.Response(status, request=httpx.Request("POST", "https://hub")))


def test_everything_that_was_published_is_uploaded(trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    assert push(trained.folder, "me/sales", private=True) == "https://hub/me/sales/commit/1"
    assert hub.private is True
    assert hub.files == {path.name: path.read_bytes() for path in trained.folder.iterdir()}


def test_nothing_goes_to_a_public_repository_unless_that_is_said(
    trained: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(public=True)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    with pytest.raises(InvalidInput, match="--public"):
        push(trained.folder, "me/sales", private=True)
    assert not hub.files


@pytest.mark.parametrize(
    ("trouble", "raised", "told"),
    [
        (LocalTokenNotFoundError(), InvalidInput, "HF_TOKEN"),
        (refusal(403), InvalidInput, "HF_TOKEN"),
        (refusal(500), Unavailable, "500"),
        (httpx.ConnectError("no route"), Unavailable, "Nothing was uploaded"),
    ],
)
def test_what_the_hub_refuses_is_told_with_what_to_do(
    trained: TrainingResult, monkeypatch: pytest.MonkeyPatch, trouble: Exception, raised: type[Exception], told: str
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: FakeHub(trouble))
    with pytest.raises(raised, match=told):
        push(trained.folder, "me/sales", private=True)


def test_a_name_that_cannot_be_is_refused_before_anything_is_sent(trained: TrainingResult) -> None:
    with pytest.raises(InvalidInput, match="no name of a repository"):
        push(trained.folder, "not/a/name", private=True)
