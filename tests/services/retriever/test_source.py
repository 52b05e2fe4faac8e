"""A file becomes passages, and every row of it is accounted for."""

import uuid

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from contracts.errors import InvalidInput
from contracts.retrieval import Receipt
from services.retriever.reading.prose import Splitter
from services.retriever.source import passage_id, read_source


def test_only_the_distinct_contexts_are_taken() -> None:
    content = "question,answer,context\nq1,a1,Общий текст.\nq2,a2,Общий текст.\nq3,a3,Другой.\n".encode()
    source = read_source("data.csv", content)
    assert [(p.source, p.place, p.text) for p in source.passages.values()] == [
        ("data.csv", "row 1", "Общий текст."),
        ("data.csv", "row 3", "Другой."),
    ]


def test_every_row_is_accounted_for() -> None:
    rows = ["q1,a1,Один.", "q1,a1,Один.", "q2,a2,Один.", "q3,a3,", "q4,a4,Два."]
    source = read_source("data.csv", ("question,answer,context\n" + "\n".join(rows)).encode())
    receipt = source.receipt({passage_id("Два.")})
    assert receipt == Receipt(
        source="data.csv", read=5, accepted=2, rejected=1, duplicates=1, unchanged=1, passages=2, errors=source.errors
    )
    assert [(error.row, error.reason) for error in receipt.errors] == [(4, "empty context")]


def test_a_context_column_alone_is_enough() -> None:
    source = read_source("data.tsv", "№\tcontext\n1\tОдин.\n2\tДва.\n".encode())
    assert [p.text for p in source.passages.values()] == ["Один.", "Два."]


def test_paragraphs_keep_their_heading_and_short_ones_stand_together() -> None:
    text = "# Цены\r\n\r\nКурс стоит 45 000.\r\n\r\n\r\nРассрочка есть.\r\n\r\n## Скидки\r\n\r\nПо вторникам.\r\n"
    source = read_source("prices.md", text.encode())
    assert [(p.place, p.text) for p in source.passages.values()] == [
        ("Цены, paragraphs 1-2", "Цены\nКурс стоит 45 000.\n\nРассрочка есть."),
        ("Цены › Скидки, paragraph 3", "Скидки\nПо вторникам."),
    ]


def test_a_paragraph_that_repeats_is_a_duplicate() -> None:
    long = "Рассрочка есть на все курсы. " * 12
    receipt = read_source("a.txt", f"{long}\n\n{'Другой абзац. ' * 20}\n\n{long}\n".encode()).receipt(set())
    assert (receipt.unit, receipt.read, receipt.accepted, receipt.duplicates) == ("paragraph", 3, 2, 1)


def test_a_long_paragraph_is_cut_between_sentences_and_a_long_row_too() -> None:
    sentences = [f"Это предложение под номером {n}, и оно кончается точкой." for n in range(400)]
    text = " ".join(sentences)
    source = read_source("a.txt", text.encode())
    parts = [p.text for p in source.passages.values()]
    assert all(len(part) <= 1000 and part.endswith("точкой.") for part in parts)
    assert " ".join(parts) == text
    assert source.receipt(set()).accepted == 1
    row = read_source("a.csv", f'context\n"{text}"\nКоротко.\n'.encode())
    assert [p.place for p in row.passages.values()][:: len(parts)] == ["row 1, part 1", "row 2"]
    before = set(list(row.passages)[:-2])
    assert (row.receipt(before).unchanged, row.receipt(before).accepted) == (0, 2)


@pytest.mark.parametrize("window", [64, 512])
def test_a_passage_has_no_more_tokens_than_the_embedding_reads(window: int) -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    splitter = Splitter.by_tokens(tokenizer, window)
    text = "# Очень длинный заголовок из слов\n\n" + "\n\n".join(f"Слово {n} и ещё. " * (n % 40) for n in range(1, 99))
    parts = [p.text for p in read_source("a.md", text.encode(), splitter).passages.values()]
    counts = [len(tokenizer.encode(part)) for part in parts]
    assert max(counts) <= min(window, 256)
    assert sum(counts) / len(counts) > 0.4 * min(window, 256)


@pytest.mark.parametrize("name", ["report.doc", "data", "archive.csv.zip"])
def test_other_types_are_refused_with_the_supported_ones_named(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"\.csv, \.tsv, .*\.txt, \.md"):
        read_source(name, b"text")


@pytest.mark.parametrize("name", ["", " ", "a" * 250 + ".csv", "a\x00.csv", "a\n.csv"])
def test_a_name_must_be_a_short_label(name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        read_source(name, b"context\ntext\n")


def test_the_id_depends_on_the_text_alone() -> None:
    assert passage_id("Всё  про\nкурс ") == passage_id("Все\u0308 про курс")
    assert passage_id("Всё про курс") != passage_id("Всё про курсы")
    assert uuid.UUID(passage_id("Всё про курс")).version == 5
    assert passage_id("Всё про курс") == "72058650-e107-5691-b392-6920f4615fb0"
