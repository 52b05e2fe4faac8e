"""A sentence-transformers model in place of the built-in vectors: real, tiny, with random weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import IndexMismatch, Unavailable
from services.retriever.embedding import SentenceTransformerEmbedder, _prompts
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings

SaveModel = Callable[..., Path]
INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@pytest.fixture(scope="module")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> SaveModel:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    def save(name: str, prompts: dict[str, str] | None = None) -> Path:
        folder = tmp_path_factory.mktemp("models")
        letters = "abcdefghijklmnopqrstuvwxyzабвгдежзийклмнопрстуфхцчшщъыьэюя0123456789"
        vocabulary = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            ":",
            *letters,
            *(f"##{letter}" for letter in letters),
        ]
        (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
        config = BertConfig(
            vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        )
        BertModel(config).save_pretrained(folder / "bert")
        BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder / "bert")
        transformer = Transformer(str(folder / "bert"))
        modules = [transformer, Pooling(transformer.get_embedding_dimension())]
        SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(folder / name))
        return folder / name

    return save


def test_a_model_makes_the_index_and_is_remembered_by_it(
    settings: RetrieverSettings, save_model: SaveModel, knowledge: bytes
) -> None:
    model = save_model("tiny-bert")
    mine = settings.model_copy(update={"embedding": str(model), "device": "cpu"})
    retriever = Retriever.open(mine)
    retriever.ingest("knowledge.csv", knowledge)
    info = retriever.info()
    assert info.embedding.startswith("tiny-bert@sha256:")
    assert (info.dimension, info.passages) == (32, 6)
    assert retriever.search("наставники", 1)[0].text.startswith("Домашние задания")
    retriever.close()

    moved = model.parent / "elsewhere" / "tiny-bert"
    moved.parent.mkdir()
    model.rename(moved)
    Retriever.open(mine.model_copy(update={"embedding": str(moved)})).close()
    with pytest.raises(IndexMismatch, match="tiny-bert@sha256"):
        Retriever.open(mine.model_copy(update={"embedding": str(save_model("tiny-bert"))}))
    with pytest.raises(IndexMismatch, match="hashed-char-ngrams-2048"):
        Retriever.open(settings)


@pytest.mark.parametrize(
    ("name", "prompts"),
    [("multilingual-e5-tiny", None), ("other", {"query": "query: ", "passage": "passage: "})],
)
def test_queries_and_passages_get_the_prefixes_of_the_model(
    save_model: SaveModel, name: str, prompts: dict[str, str] | None
) -> None:
    folder = save_model(name, prompts)
    embedder = SentenceTransformerEmbedder(str(folder), "cpu")
    plain = SentenceTransformerEmbedder(str(folder.rename(folder.parent / "plain")), "cpu")
    plain._query_prompt = plain._passage_prompt = ""
    vectors = embedder.encode_queries(["курс"])
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)
    assert vectors == pytest.approx(plain.encode_queries(["query: курс"]), abs=1e-5)
    assert embedder.encode_passages(["курс"]) == pytest.approx(plain.encode_passages(["passage: курс"]), abs=1e-5)
    assert vectors != pytest.approx(plain.encode_queries(["курс"]), abs=1e-3)


@pytest.mark.parametrize(
    ("model", "own", "expected"),
    [
        ("intfloat/multilingual-e5-small", {}, ("query: ", "passage: ")),
        ("/models/e5-base-v2", {}, ("query: ", "passage: ")),
        ("intfloat/multilingual-e5-large-instruct", {"query": "", "document": ""}, (f"{INSTRUCTION} ", "")),
        ("ai-forever/FRIDA", {"search_query": "Q: ", "search_document": "D: ", "categorize": "C: "}, ("Q: ", "D: ")),
        ("ai-forever/FRIDA", {}, ("search_query: ", "search_document: ")),
        ("Qwen/Qwen3-Embedding-0.6B", {"query": INSTRUCTION, "document": ""}, (INSTRUCTION, "")),
        ("Qwen/Qwen3-Embedding-0.6B", {}, (INSTRUCTION, "")),
        ("BAAI/bge-base-en-v1.5", {}, ("Represent this sentence for searching relevant passages: ", "")),
        ("BAAI/bge-m3", {}, ("", "")),
        ("deepvk/USER-bge-m3", {}, ("", "")),
        ("deepvk/USER-base", {}, ("query: ", "passage: ")),
        ("sentence-transformers/all-MiniLM-L6-v2", {}, ("", "")),
    ],
)
def test_the_prompts_of_known_models(model: str, own: dict[str, str], expected: tuple[str, str]) -> None:
    assert _prompts(model, own) == expected


def test_a_model_that_cannot_be_had_says_what_to_do(settings: RetrieverSettings, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"ASKTWICE_EMBEDDING.*folder"):
        Retriever.open(settings.model_copy(update={"embedding": str(tmp_path / "nowhere")}))
