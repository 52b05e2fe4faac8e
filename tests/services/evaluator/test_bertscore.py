"""BERTScore of all arms in one pass is that of the package, by an encoder of random weights."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asktwice.cli import cli
from contracts.errors import InvalidInput, Unavailable
from services.evaluator import bertscore as module
from services.evaluator.bertscore import (
    Baseline,
    Encoder,
    bertscore,
    classic_f1,
    load_encoder,
    measure_baseline,
    random_encoder,
)

LAYERS = 2
REFERENCES = [
    "Курс стоит 29 900 рублей.",
    "Учёба длится шесть месяцев, занятия идут по вторникам и четвергам.",
    "Yes, there is a job centre.",
    "Да.",
]
ANSWERS = {
    "rag": ["Он стоит 29 900 рублей.", "Полгода.", "Yes, there is.", "Да."],
    "ft": ["Курс стоит 39 900 рублей.", "Учёба длится шесть месяцев.", "No.", "Да, конечно, приходите!"],
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    texts = [*REFERENCES, *(text for texts in ANSWERS.values() for text in texts)]
    folder = tmp_path_factory.mktemp("encoder")
    return load_encoder(random_encoder(folder, texts, layers=LAYERS, width=64, vocabulary=300), LAYERS, "cpu")


def test_scores_are_those_of_the_package(encoder: Encoder) -> None:
    found = bertscore(encoder, REFERENCES, ANSWERS)
    for arm, given in ANSWERS.items():
        scores = [score.f1 for score in found[arm] if score]
        assert scores == pytest.approx(classic_f1(encoder, given, REFERENCES), abs=1e-5)
        assert not any(score.truncated for score in found[arm] if score)
    same = found["rag"][3]
    assert same is not None
    assert (same.precision, same.recall, same.f1) == pytest.approx((1, 1, 1), abs=1e-5)
    different = found["ft"][0]
    assert different is not None
    assert different.f1 < 0.999


def test_an_earlier_layer_gives_the_packages_scores_too(encoder: Encoder) -> None:
    earlier = load_encoder(encoder.name, 1, "cpu")
    found = [score.f1 for score in bertscore(earlier, REFERENCES, ANSWERS)["ft"] if score]
    assert found == pytest.approx(classic_f1(earlier, ANSWERS["ft"], REFERENCES), abs=1e-5)
    assert found != pytest.approx([score.f1 for score in bertscore(encoder, REFERENCES, ANSWERS)["ft"] if score])


def test_neither_order_nor_company_nor_chunks_change_a_score(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bertscore(encoder, REFERENCES, ANSWERS)
    monkeypatch.setattr(module, "CHUNK", 1)
    turned = bertscore(encoder, REFERENCES[::-1], {"ft": ANSWERS["ft"][::-1]})
    expected = [score.f1 for score in whole["ft"] if score]
    assert [score.f1 for score in turned["ft"][::-1] if score] == pytest.approx(expected, abs=1e-5)


def test_references_are_embedded_once_for_all_arms(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    from bert_score import utils

    embedded: list[str] = []
    embed = utils.get_bert_embedding

    def counted(texts: list[str], *args: object, **kwargs: object) -> object:
        embedded.extend(texts)
        return embed(texts, *args, **kwargs)

    monkeypatch.setattr(utils, "get_bert_embedding", counted)
    bertscore(encoder, REFERENCES, ANSWERS)
    assert sorted(embedded) == sorted({*REFERENCES, *ANSWERS["rag"], *ANSWERS["ft"]})


def test_where_there_is_no_text_there_is_no_score(encoder: Encoder) -> None:
    found = bertscore(
        encoder, ["Да.", None, " ", "Нет."], {"rag": ["Да.", "Да.", "Да.", None], "ft": ["", "а", "б", " "]}
    )
    assert [score is None for score in found["rag"]] == [False, True, True, True]
    assert found["ft"] == [None] * 4


def test_what_is_longer_than_the_encoder_reads_is_marked(encoder: Encoder) -> None:
    assert encoder.max_tokens == 512
    found = bertscore(encoder, ["курс " * 600, "Да."], {"rag": ["курс", "курс " * 600], "ft": ["Да.", "Да."]})
    assert [score.truncated for score in found["rag"] if score] == [True, True]
    assert [score.truncated for score in found["ft"] if score] == [True, False]


def test_a_baseline_of_ones_own_puts_unrelated_texts_at_zero(encoder: Encoder, tmp_path: Path) -> None:
    texts = [f"Слово номер {number}, и рассказ о нём." for number in range(40)] + ["длинный " * 40]
    baseline = measure_baseline(encoder, texts, pairs=50)
    assert baseline == measure_baseline(encoder, texts[::-1], pairs=50)
    assert baseline != measure_baseline(encoder, texts, pairs=50, seed=2)
    digest = baseline.write(tmp_path / "baseline.json")
    assert Baseline.read(tmp_path / "baseline.json") == baseline
    assert digest == baseline.sha256()
    raw, rescaled = (bertscore(encoder, REFERENCES, ANSWERS, each)["ft"][0] for each in (None, baseline))
    assert raw is not None
    assert rescaled is not None
    assert rescaled.f1 == pytest.approx((raw.f1 - baseline.f1) / (1 - baseline.f1))


def test_wrong_input_is_refused_with_what_is_wrong(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="ft has 1 answers to 4 references"):
        bertscore(encoder, REFERENCES, {"ft": ["Да."]})
    other = Baseline("xlm-roberta-large", 17, 0.8, 0.8, 0.8, 1, "0")
    with pytest.raises(InvalidInput, match="baseline is of xlm-roberta-large, layer 17"):
        bertscore(encoder, REFERENCES, ANSWERS, other)
    with pytest.raises(InvalidInput, match="No layer is known"):
        load_encoder(encoder.name)
    with pytest.raises(InvalidInput, match="between 0 and 2"):
        load_encoder(encoder.name, 9)
    with pytest.raises(Unavailable, match="cannot be loaded"):
        load_encoder(str(tmp_path / "nothing"), 2)
    with pytest.raises(InvalidInput, match="needs 20 different texts"):
        measure_baseline(encoder, ["да", "нет"])
    (tmp_path / "bad.json").write_text('{"encoder": 1}')
    with pytest.raises(InvalidInput, match=r"bad\.json is no BERTScore baseline"):
        Baseline.read(tmp_path / "bad.json")


def test_no_other_module_of_the_evaluator_reaches_torch() -> None:
    importing = re.compile(r"^\s*(import|from) (torch|transformers|bert_score|tokenizers)\b", re.MULTILINE)
    reaching = [
        path.name
        for path in Path(module.__file__).parent.rglob("*.py")
        if importing.search(path.read_text(encoding="utf-8"))
    ]
    assert reaching == ["bertscore.py"]


def test_the_bench_prints_both_ratios_and_equal_scores(encoder: Encoder, tmp_path: Path) -> None:
    file = tmp_path / "qa.csv"
    file.write_text("answer\n" + "".join(f'"{text}"\n' for text in REFERENCES), encoding="utf-8")
    options = ["--data", str(file), "--encoder", encoder.name, "--layer", str(LAYERS), "--rounds", "1", "--json"]
    result = CliRunner().invoke(cli, ["bench", "evaluator", *options])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["bertscore_vs_per_item"] > 2
    assert found["bertscore_vs_per_mode"] > 0
    assert found["bertscore_difference"] <= 1e-5
    assert found["answers"] == 16


@pytest.mark.slow
def test_one_pass_is_faster_than_a_call_for_each_item_and_each_mode() -> None:
    result = CliRunner().invoke(cli, ["bench", "evaluator", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["bertscore_vs_per_item"] >= 10
    assert found["bertscore_vs_per_mode"] >= 1.4
