"""A file becomes passages, and every row of it is accounted for."""

import uuid

import pytest

from contracts.errors import InvalidInput
from contracts.retrieval import Receipt
from services.retriever.source import passage_id, read_source


def test_only_the_distinct_contexts_are_taken() -> None:
    content = "question,answer,context\nq1,a1,Общий текст.\nq2,a2,Общий текст.\nq3,a3,Другой.\n".encode()
    source = read_source("data.csv", content)
    assert [(p.title, p.text) for p in source.passages.values()] == [
        ("data.csv, row 1", "Общий текст."),
        ("data.csv, row 3", "Другой."),
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


def test_paragraphs_of_a_text_keep_their_heading() -> None:
    text = "# Цены\r\n\r\nКурс стоит 45 000.\r\n\r\n\r\nРассрочка есть.\r\n\r\nРассрочка есть.\r\n"
    source = read_source("prices.md", text.encode())
    assert [(p.title, p.text) for p in source.passages.values()] == [
        ("prices.md, paragraph 1", "# Цены\nКурс стоит 45 000."),
        ("prices.md, paragraph 2", "Рассрочка есть."),
    ]
    receipt = source.receipt(set())
    assert (receipt.read, receipt.accepted, receipt.duplicates) == (3, 2, 1)


@pytest.mark.parametrize("name", ["report.pdf", "data", "archive.csv.zip"])
def test_other_types_are_refused_with_the_supported_ones_named(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"\.csv, \.tsv .*\.txt, \.md"):
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
