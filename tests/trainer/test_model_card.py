"""The card shows whatever the user's texts are, as they are: to the hub, which reads the YAML, and to people."""

import ast
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from contracts.artifacts import AdapterManifest, AnswerSample, BaseModelRecord, DataRecord, LossRecord
from contracts.generation import Mode
from trainer.model_card import card, merged_card
from trainer.recipe import Recipe

HARMLESS = "me/plain-name"
HOSTILE = [
    'a: "b" | c #d.csv',
    "`code` and ``more`` `",
    "---\nlicense: mit\n---\n\n# A heading\n```\nno code\n```",
    "<script>alert(1)</script> <b>bold</b> &lt;b&gt; <!--",
    "**a** _b_ ~~c~~ [d](http://e) ![f](g) $h$ \\* \\",
    "{d: [1, 2]} 'e' 100% @f !g\u2028h\t\x85",
]


def manifest(text: str, method: str = "lora") -> AdapterManifest:
    sample = AnswerSample(row=1, trained=True, question=text, expected=text, before=text, after=text)
    now = datetime.now(UTC)
    return AdapterManifest(
        id="a-__b__.0123456789ab",
        name="a-__b__",
        modes=[Mode.ft],
        base=BaseModelRecord(model=text, revision="sha256:1", quantization="none", compute_dtype="float32"),
        data=DataRecord(file=text, sha256="2", rows=4, train_rows=[1, 2, 3], dev_rows=[4]),
        files={},
        created=now,
        published=now,
        recipe=Recipe(method="lora", target_modules=[text]).model_dump(mode="json") | {"method": method},
        seed=1,
        system_prompt_sha256="3",
        losses=LossRecord(train=1.0, dev=1.0, best_step=1, steps=1),
        samples=[sample, sample],
        seconds={},
        versions={},
    )


def cards(text: str) -> list[str]:
    return [card(manifest(text)), card(manifest(text, "full")), merged_card(manifest(text))]


@pytest.mark.parametrize("text", HOSTILE)
def test_the_hub_reads_the_values_and_no_others(tmp_path: Path, text: str) -> None:
    for made, library in zip(cards(text), ["peft", "transformers", "transformers"], strict=True):
        (tmp_path / "README.md").write_text(made, encoding="utf-8", newline="\n")
        read = ModelCard.load(tmp_path / "README.md")
        assert read.data.to_dict() == {"base_model": text, "library_name": library}


@pytest.mark.parametrize("text", HOSTILE)
def test_people_read_the_texts_and_the_page_keeps_its_shape(text: str) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    listed, line = " ".join(str([text]).split()), " ".join(text.split())
    for hostile, harmless in zip(cards(text), cards(HARMLESS), strict=True):
        made, expected = (reader.parse(ModelCard(each).text) for each in (hostile, harmless))
        assert [token.type for token in made] == [token.type for token in expected]
        for one, other in zip(made, expected, strict=True):
            assert marks(one) == marks(other)
            meant = shown(other).replace(str([HARMLESS]), listed).replace(HARMLESS, line)
            assert one.type != "inline" or shown(one) == meant


def marks(token: Token) -> list[str]:
    return [child.type for child in token.children or [] if child.type != "text"]


def shown(token: Token) -> str:
    return "".join(child.content for child in token.children or [])


@pytest.mark.parametrize("text", HOSTILE)
def test_the_code_that_loads_it_names_the_base(text: str) -> None:
    [code] = re.findall(r"```python\n(.*?)\n```\n", card(manifest(text)), re.DOTALL)
    assert text in [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
