import csv
import io
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.errors import InvalidInput
from contracts.table import parse_table, read_table

HEADER = "question,answer,context"
ROWS = "Сколько стоит курс?,Курс стоит 100 рублей.,Стоимость курса: 100 рублей.\nЕсть скидки?,Да.,Скидки есть всегда.\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1251", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_takes_what_spreadsheets_write(encoding: str, delimiter: str, newline: str) -> None:
    text = f"{HEADER}\n{ROWS}".replace(",", delimiter).replace("\n", newline)
    table = parse_table(text.encode(encoding), "my.csv")
    assert (table.read, len(table.rows), table.rejected, table.duplicates) == (2, 2, 0, 0)
    assert table.rows[0].question == "Сколько стоит курс?"
    assert table.rows[1].context == "Скидки есть всегда."
    assert table.delimiter == delimiter


def test_the_digest_does_not_depend_on_encoding_or_delimiter() -> None:
    comma = parse_table(f"{HEADER}\n{ROWS}".encode(), "a.csv")
    semicolon = parse_table(f"{HEADER}\n{ROWS}".replace(",", ";").encode("cp1251"), "b.csv")
    assert comma.sha256 == semicolon.sha256
    assert parse_table(f"{HEADER}\nа,б,в\n".encode(), "c.csv").sha256 != comma.sha256


def test_quoted_newlines_extra_columns_any_order_and_capitals() -> None:
    text = 'id,Context,ANSWER, Question \n7,"Первая\nвторая ""строка""",Да,Правда?\n'
    [row] = parse_table(text.encode(), "my.csv").rows
    assert row.cells == {"question": "Правда?", "answer": "Да", "context": 'Первая\nвторая "строка"'}


def test_excel_separator_line_and_blank_lines() -> None:
    table = parse_table("sep=;\r\nquestion;answer;context\r\n\r\nа;б;в\r\n;;\r\n".encode(), "my.csv")
    assert (table.delimiter, table.read, len(table.rows)) == (";", 1, 1)


def test_blank_lines_before_the_header_are_skipped() -> None:
    table = parse_table(f"\r\n \n;;\n{HEADER}\n{ROWS}".replace(",", ";").encode(), "my.csv")
    assert (table.delimiter, table.read, len(table.rows)) == (";", 2, 2)
    with pytest.raises(InvalidInput, match=r"row 1 \(line 4\)"):
        parse_table(f'\n\n{HEADER}\na,"b"x,c\n'.encode(), "my.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_header_cell_may_hold_a_newline(delimiter: str) -> None:
    text = f'"Заметка,\nне нужна";{HEADER}\n-;а;б;в\n'.replace(f"{HEADER}", ";".join(HEADER.split(",")))
    [row] = parse_table(text.replace(";", delimiter).encode(), "my.csv").rows
    assert row.cells == {"question": "а", "answer": "б", "context": "в"}


def test_every_row_is_accounted_for_with_its_reason() -> None:
    text = f"{HEADER}\nа,б,в\nа, б ,в\n,б,в\nа,б\nа,б,в,г\nд,\x07е,ж\n"
    table = parse_table(text.encode(), "my.csv")
    assert (table.read, len(table.rows), table.rejected, table.duplicates) == (6, 1, 4, 1)
    assert [(error.row, error.reason) for error in table.errors] == [
        (3, "empty question"),
        (4, "2 cells where the header has 3"),
        (5, "4 cells where the header has 3"),
        (6, "a control character, as binary data has"),
    ]
    assert "6 rows read = 1 accepted + 4 rejected + 1 duplicates" in table.summary()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n \n", "is empty"),
        (b"question,answer\na,b\n", "lacks the column context"),
        (b"a;b;c\n1;2;3\n", "lacks the column question, answer, context"),
        (b"question,answer,context,answer\na,b,c,d\n", "answer more than once"),
        (b"question,answer,context\n", "no valid row (0 read)"),
        (b"question,answer,context\na,,c\n", "row 1: empty answer"),
        (b'question,answer,context\na,b,c\nd,"e,f\ng,h,i\n', "row 2 (line 3): a quote is opened and never closed"),
        (b'question,answer,context\na,"b"x,c\n', "row 1 (line 2)"),
        (b"a" * 1_000_001 + b"\n1\n", "row 0 (line 1): a cell has over 1,000,000 characters"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not a text file"),
        (b"PK\x03\x04" + b"x" * 50, "'CSV UTF-8'"),
        (b"\x07\x01\x02" * 100, "not a text file"),
        (b"\xff\xfea", "not valid UTF-16"),
    ],
)
def test_what_is_refused_is_refused_whole_with_the_reason(content: bytes, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_table(content, "my.csv")
    assert says in refused.value.detail


def test_only_the_asked_columns_are_required() -> None:
    table = parse_table("question\nПочему?\n".encode(), "q.csv", required=("question",), optional=("answer", "context"))
    assert table.rows[0].cells == {"question": "Почему?"}


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.csv"):
        read_table(tmp_path / "nowhere.csv")


def test_a_cell_over_the_limit_is_refused_with_its_row() -> None:
    with pytest.raises(InvalidInput, match=r"row 1 \(line 2\): a cell has over 1,000,000 characters"):
        parse_table(f"{HEADER}\nа,{'б' * 1_000_001},в\n".encode(), "my.csv")


RAW = st.binary(max_size=300) | st.text('",;\t\r\n aбё\ufeff', max_size=300).map(str.encode)


def test_a_first_line_longer_than_the_csv_module_takes_by_itself_is_refused_too() -> None:
    csv.field_size_limit(131_072)  # as a fresh process has it
    with pytest.raises(InvalidInput, match="lacks the column question, answer, context"):
        parse_table(b"a" * 131_073 + b"\n1\n", "my.csv")


@given(st.sampled_from([b"", b"\xff\xfe", b"question,answer,context\n", b"question;answer;context;"]), RAW)
@example(b"", b"a" * 131_073 + b",b")
def test_no_bytes_crash_it(header: bytes, content: bytes) -> None:
    try:
        table = parse_table(header + content, "fuzz.csv")
    except InvalidInput:
        return
    assert table.rows
    assert table.read == len(table.rows) + table.rejected + table.duplicates


def settled(text: str) -> str:
    """What reading makes of a cell."""
    return unicodedata.normalize("NFC", text.strip())


CELLS = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
    .map(lambda text: settled(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "", text)))
    .filter(lambda text: text != "" and settled(text) == text)
)


@given(
    st.lists(
        st.tuples(CELLS, CELLS, CELLS),
        min_size=1,
        max_size=10,
        unique_by=lambda row: tuple(" ".join(cell.split()) for cell in row),
    )
)
@example([('"', ",\t;", "a\r\nb\rc\nd"), ("=1", "\ufeff", "\u2028a\x85b".strip())])
def test_what_csv_writes_is_read_back(rows: list[tuple[str, str, str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("question", "answer", "context"), *rows])
    table = parse_table(text.getvalue().encode(), "round.csv")
    assert [(row.question, row.answer, row.context) for row in table.rows] == rows
    assert [row.number for row in table.rows] == [*range(1, len(rows) + 1)]
    assert (table.read, table.rejected, table.duplicates, table.delimiter) == (len(rows), 0, 0, ",")
