"""A cross-encoder over the fused ranking: real, tiny, and taught here to like one letter."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from contracts.errors import Unavailable
from services.retriever.bench import quality
from services.retriever.fusion import Hit
from services.retriever.reranking import Reranker
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings

Save = Callable[..., str]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Return a function that saves a cross-encoder and gives its folder."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    def save(labels: int = 1, steps: int = 60) -> str:
        folder = tmp_path_factory.mktemp("reranker")
        letters = "абвгдежзийклмнопрстуфхцчшщъыьэюя0123456789.«»,"
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
        (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
        tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
        torch.manual_seed(0)
        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=64, num_labels=labels, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            )
        )  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        liked, others = ["ззззз", "аззза", "ззоз", "пзззр"], ["ааааа", "оопра", "рлдо", "ннтн"]
        for _ in range(steps if labels == 1 else 0):
            batch = tokenizer(["опрос"] * 8, liked + others, padding=True, return_tensors="pt")
            logits = model(**batch).logits[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([1.0] * 4 + [0.0] * 4))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


def test_the_order_is_the_rerankers(settings: RetrieverSettings, save: Save, knowledge: bytes) -> None:
    reranker = Reranker(save(), "cpu")
    hits = [Hit("a", 0.9), Hit("b", 0.8), Hit("c", 0.7)]
    ranked = reranker.rank("опрос", hits, ["ааааа", "ззззз", "ннтн"])
    assert ranked[0].id == "b"
    assert 1 >= ranked[0].score > 0.5 > ranked[1].score >= ranked[2].score >= 0
    assert reranker.rank("опрос", [], []) == []


def test_a_search_gives_the_rerankers_order_and_scores(
    settings: RetrieverSettings, save: Save, table: Callable[[list[str]], bytes]
) -> None:
    contexts = [f"курс {letter * 5}" for letter in "абвгз"]
    retriever = Retriever.open(settings.model_copy(update={"reranker": save(), "device": "cpu"}))
    retriever.ingest("a.csv", table(contexts))
    found = retriever.search("курс", 3)
    assert found[0].text == "курс ззззз"
    assert [passage.score for passage in found] == sorted((p.score for p in found), reverse=True)
    retriever.close()


def test_the_bench_tells_how_good_it_is_where_there_is_one(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"{letter},,курс {letter * 5}" for letter in "абвгз"]
    path.write_text("\n".join(["question,answer,context", *rows]), encoding="utf-8")
    alone = quality(path)
    found = quality(path, reranker=save())
    assert list(alone) == ["dense", "sparse", "hybrid"]
    assert found == alone | {"reranked": found["reranked"]}
    assert found["reranked"].keys() == found["hybrid"].keys()
    assert found["reranked"]["hit_at_1"] == 0.2, "whatever is asked, it likes the one"


@pytest.mark.parametrize("labels", [None, 3])
def test_what_is_no_reranker_says_what_to_do(
    settings: RetrieverSettings, save: Save, tmp_path: Path, labels: int | None
) -> None:
    model = save(labels) if labels else str(tmp_path / "nowhere")
    with pytest.raises(Unavailable, match="ASKTWICE_RERANKER"):
        Retriever.open(settings.model_copy(update={"reranker": model, "device": "cpu"}))
